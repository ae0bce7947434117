import { useMemo, useRef, useState } from "preact/hooks";

import type { Letter } from "../base/api";
import { bytesOf, hex, textOfBody } from "../base/body";
import { textOf } from "../base/draft";
import { exact } from "../base/format";
import { Failure } from "../base/http";
import { line, visible } from "../base/inert";
import { pretty } from "../base/json_tree";
import { example, problems } from "../base/schema";
import { Glyph } from "../ui/glyph";
import { operate } from "../ui/operate";
import { Action, Panel } from "../ui/parts";

function shown(text: string): string {
  try {
    JSON.parse(text);
    return pretty(text);
  } catch {
    return text;
  }
}

/** Another body for the same delivery, checked against the contract while it is written. The original is kept. */
export function RepairEditor({ letter, blocked, onClose }: { letter: Letter; blocked: string | null; onClose: () => void }) {
  const readable = useMemo(() => textOfBody(letter.data), [letter.id]);
  const original = useMemo(() => (readable === null ? hex(bytesOf(letter.data)) : shown(readable)), [readable]);
  // Bytes that are no text cannot be written on: an example of the contract is a place to begin.
  const first = useMemo(() => (readable !== null ? original : letter.contract ? textOf(example(letter.contract.schema, letter.contract.schema)) : "{}"), [original]);
  const [text, setText] = useState(first);
  const [reason, setReason] = useState("");
  const [failure, setFailure] = useState("");
  const [busy, setBusy] = useState(false);
  const sent = useRef(false);
  const wrong = useMemo(() => problems(text, letter.contract?.schema ?? null), [text, letter.contract]);
  const same = readable !== null && text === original;
  const changed = useMemo(() => changes(original, text), [original, text]);
  const why = blocked ?? (same ? "Nothing is changed yet." : wrong.length ? "It does not keep to the contract." : reason.trim() ? null : "Say why.");

  const submit = async () => {
    if (sent.current) return;
    sent.current = true;
    setBusy(true);
    try {
      await operate({ kind: "repair", group: letter.group, events: [[letter.source, letter.id]], data: text, reason: reason.trim() });
      onClose();
    } catch (error) {
      sent.current = false;
      setBusy(false);
      setFailure(error instanceof Failure ? error.message : String(error));
    }
  };

  return (
    <Panel title="Repair" actions={<span class="small dim">The repaired body is handled in the place of this one. The original stays in its topic.</span>}>
      <p class="narrow-only small dim">There is little room here for writing JSON: a wider screen helps.</p>
      <div class="diff">
        <div class="field">
          <span class="label">As it came</span>
          <pre class="foreign original" dir="ltr" tabIndex={0}>
            {visible(original)}
          </pre>
        </div>
        <div class="field">
          <label for="repair-text">Repaired</label>
          <textarea
            id="repair-text"
            class="code"
            rows={Math.min(28, Math.max(8, original.split("\n").length + 1))}
            spellcheck={false}
            autocomplete="off"
            aria-invalid={wrong.length && !same ? "true" : undefined}
            aria-describedby="repair-problems"
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </div>
      </div>
      <div id="repair-problems" aria-live="polite">
        {wrong.length ? (
          <ul class="problems">
            {wrong.slice(0, 8).map((problem) => (
              <li key={problem.where + problem.what}>
                <Glyph name="cross" />
                <span>
                  {problem.where && <code>{line(problem.where)}: </code>}
                  {line(problem.what)}
                </span>
              </li>
            ))}
          </ul>
        ) : (
          <p class="row small tone-ok" style={{ color: "var(--tone)" }}>
            <Glyph name="dot" />
            {letter.contract ? `It keeps to ${letter.contract.name} version ${letter.contract.version}.` : "It is JSON. No running code knows the contract: nothing else was checked."}
          </p>
        )}
        {!same && readable !== null && (
          <p class="small dim">
            {exact(changed.added)} lines added, {exact(changed.removed)} removed.
          </p>
        )}
      </div>
      <div class="row top">
        <div class="field" style={{ flex: "1 1 240px" }}>
          <label for="repair-reason">Reason</label>
          <input id="repair-reason" type="text" maxLength={500} autocomplete="off" value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
          <span class="hint">Kept with the operation, for everybody to see.</span>
        </div>
        <div class="row" style={{ marginTop: "20px" }}>
          <button type="button" class="button" onClick={() => setText(first)} disabled={text === first}>
            As it was
          </button>
          <button type="button" class="button" onClick={onClose}>
            Close
          </button>
          <Action needs="operator" kind="primary" blocked={busy ? "It is being sent." : why} onClick={() => void submit()}>
            {busy ? "Sending…" : "Repair and redrive"}
          </Action>
        </div>
      </div>
      {why !== null && !busy && <p class="reason">{why}</p>}
      {failure && (
        <p class="problems" role="alert">
          {line(failure)}
        </p>
      )}
    </Panel>
  );
}

/** How many lines are in one and not in the other. */
function changes(before: string, after: string): { added: number; removed: number } {
  const left = new Map<string, number>();
  for (const each of before.split("\n")) left.set(each, (left.get(each) ?? 0) + 1);
  let added = 0;
  for (const each of after.split("\n")) {
    const there = left.get(each) ?? 0;
    if (there) left.set(each, there - 1);
    else added++;
  }
  return { added, removed: [...left.values()].reduce((sum, number) => sum + number, 0) };
}
