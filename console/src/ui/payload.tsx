import { useMemo, useState } from "preact/hooks";

import type { Body } from "../base/api";
import { bytesOf, hex, kept, textOfBody } from "../base/body";
import { bytes } from "../base/format";
import { beginning, line, visible } from "../base/inert";
import { children, decoded, pretty, root, size, type Value } from "../base/json_tree";
import { Segments } from "./parts";
import { Copy } from "./text";

type View = "tree" | "text" | "bytes";

/** So much of a text is drawn at once. */
const MOST_TEXT = 100_000;
const MOST_STRING = 2000;
const PAGE = 100;

/** A body: as a tree, as text, and as its bytes; exact, and inert. `whole` is its size where less is kept, `raw` where to download it. */
export function Payload({ body, whole = body.size, raw }: { body: Body; whole?: number; raw?: string }) {
  const json = body.kind === "json";
  const text = useMemo(() => textOfBody(body, whole), [body, whole]);
  const cut = kept(body) < whole;
  const [view, setView] = useState<View>(json ? "tree" : cut && text !== null ? "text" : "bytes");
  const options: [View, string][] = [];
  if (json) options.push(["tree", "Tree"]);
  if (text !== null) options.push(["text", "Text"]);
  options.push(["bytes", "Bytes"]);
  return (
    <div class="stack" style={{ gap: "8px" }}>
      <div class="row">
        <Segments label="How the body is shown" value={view} options={options} onChange={setView} />
        <span class="small faint">{bytes(whole)}</span>
        {cut ? <span class="small dim">Only its first {bytes(kept(body))} are here.</span> : !json && <span class="small dim">This is no JSON that can be read.</span>}
        <span style={{ flex: 1 }} />
        {raw && (
          <a class="button" href={raw} download>
            Download
          </a>
        )}
        {text !== null && !cut && <Copy text={text} label="Copy the body as it came" words="Copy" />}
      </div>
      <div class="payload">
        {view === "tree" && json && <Tree text={body.text} />}
        {view === "text" && text !== null && <Text text={text} json={json} />}
        {view === "bytes" && <pre class="rigid" tabIndex={0}>{hex(bytesOf(body))}</pre>}
      </div>
    </div>
  );
}

function Text({ text, json }: { text: string; json: boolean }) {
  const [most, setMost] = useState(MOST_TEXT);
  const [raw, setRaw] = useState(false);
  const shown = useMemo(() => visible((json && !raw && text.length <= MOST_TEXT ? pretty(text) : text).slice(0, most)), [text, json, raw, most]);
  return (
    <>
      {json && text.length <= MOST_TEXT && (
        <label class="option">
          <input type="checkbox" checked={raw} onChange={(event) => setRaw(event.currentTarget.checked)} />
          As it came, without line breaks added
        </label>
      )}
      <pre class="foreign" dir="ltr">
        {shown}
      </pre>
      {text.length > most && (
        <button type="button" class="button tiny" onClick={() => setMost(most * 4)}>
          Show more: {bytes(most)} of {bytes(text.length)}
        </button>
      )}
    </>
  );
}

/** JSON, read where somebody looks. */
export function Tree({ text }: { text: string }) {
  const value = useMemo(() => root(text), [text]);
  return (
    <ul class="tree">
      <Node text={text} value={value} open />
    </ul>
  );
}

function Node({ text, value, name, open: first }: { text: string; value: Value; name?: string | number; open: boolean }) {
  const [open, setOpen] = useState(first);
  const nested = value.kind === "object" || value.kind === "array";
  return (
    <li>
      {nested && (
        <button type="button" class="fold" aria-expanded={open ? "true" : "false"} aria-label={open ? "Fold" : "Unfold"} onClick={() => setOpen(!open)}>
          {open ? "▾" : "▸"}
        </button>
      )}
      {name !== undefined && <bdi class="name">{line(beginning(String(name), MOST_STRING))}: </bdi>}
      {nested ? (
        <>
          <Summary text={text} value={value} />
          {open && <Inner text={text} value={value} />}
        </>
      ) : (
        <Scalar text={text} value={value} />
      )}
    </li>
  );
}

function Summary({ text, value }: { text: string; value: Value }) {
  const counted = useMemo(() => size(text, value), [text, value.start]);
  const [left, right, noun] = value.kind === "object" ? ["{", "}", "field"] : ["[", "]", "item"];
  const number = `${counted.count}${counted.more ? "+" : ""}`;
  return (
    <span class="faint">
      {left}
      {counted.count ? ` ${number} ${noun}${counted.count === 1 ? "" : "s"} ` : ""}
      {right}
    </span>
  );
}

function Inner({ text, value }: { text: string; value: Value }) {
  const [most, setMost] = useState(PAGE);
  const found = useMemo(() => children(text, value, 0, most), [text, value.start, most]);
  return (
    <ul>
      {found.list.map((child, index) => (
        <Node key={index} text={text} value={child.value} name={child.name} open={child.value.end - child.value.start < 400 && found.list.length < 20} />
      ))}
      {found.more && (
        <li>
          <button type="button" class="button tiny" onClick={() => setMost(most + 10 * PAGE)}>
            Show more
          </button>
        </li>
      )}
    </ul>
  );
}

function Scalar({ text, value }: { text: string; value: Value }) {
  const [whole, setWhole] = useState(false);
  if (value.kind === "string") {
    const long = value.end - value.start > MOST_STRING;
    const shown = decoded(text, value);
    return (
      <>
        <bdi class="string">"{line(long && !whole ? beginning(shown, MOST_STRING) : shown)}"</bdi>
        {long && !whole && (
          <button type="button" class="button tiny" onClick={() => setWhole(true)}>
            Show all {bytes(shown.length)}
          </button>
        )}
      </>
    );
  }
  const shown = text.slice(value.start, value.end);
  return <span class={value.kind === "number" ? "number" : "word"}>{shown}</span>;
}
