import { useEffect, useState } from "preact/hooks";

import { ago, clock, moment, UNKNOWN } from "../base/format";
import { line, middle, visible } from "../base/inert";
import { now } from "../base/time";
import { announce } from "../base/live";
import { commandLine } from "../base/shell_words";
import { Icon } from "./icon";

/** Text that others wrote, on one line and inert. */
export function Foreign({ text, mono, most }: { text: string | null | undefined; mono?: boolean; most?: number }) {
  if (text === null || text === undefined || text === "") return <span class="faint">{UNKNOWN}</span>;
  const shown = most === undefined ? line(text) : middle(text, most);
  return (
    <bdi class={mono ? "foreign mono" : "foreign"} title={most !== undefined && shown !== line(text) ? line(text) : undefined}>
      {shown}
    </bdi>
  );
}

/** The same, with its line breaks. */
export function ForeignBlock({ text, class: name }: { text: string; class?: string }) {
  return (
    <pre class={`foreign ${name ?? ""}`} dir="ltr">
      {visible(text)}
    </pre>
  );
}

/** An id, its middle left out, with a button that copies the whole. */
export function Id({ id, most = 20, copy = false }: { id: string; most?: number; copy?: boolean }) {
  return (
    <>
      <Foreign text={id} mono most={most} />
      {copy && <Copy text={id} label="Copy the id" />}
    </>
  );
}

/** Put a text where it can be pasted from; says whether that worked. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
    return true;
  } catch {
    return false;
  }
}

export function Copy({ text, label, words }: { text: string | (() => string); label: string; words?: string }) {
  const [state, setState] = useState<"" | "copied" | "failed">("");
  useEffect(() => {
    if (!state) return undefined;
    const timer = setTimeout(() => setState(""), 1600);
    return () => clearTimeout(timer);
  }, [state]);
  const copy = async (event: MouseEvent) => {
    event.stopPropagation();
    setState((await copyText(typeof text === "function" ? text() : text)) ? "copied" : "failed");
  };
  const said = state === "copied" ? "Copied" : state === "failed" ? "The browser refused" : words;
  return (
    <button type="button" class={words ? "button" : "button plain tiny icon"} aria-label={words ? undefined : label} title={label} onClick={copy}>
      <Icon name={state === "copied" ? "done" : "copy"} size={words ? 16 : 14} />
      {words !== undefined && said}
    </button>
  );
}

/** A moment, as how long ago it was; the exact time is its title. */
export function Time({ at, exact }: { at: number | null | undefined; exact?: boolean }) {
  if (at === null || at === undefined) return <span class="faint">{UNKNOWN}</span>;
  const date = new Date(at * 1000);
  return (
    <time class="nowrap" dateTime={Number.isNaN(date.getTime()) ? undefined : date.toISOString()} title={moment(at)}>
      {exact ? clock(at) : ago(at, now.value)}
    </time>
  );
}

/** A command, or a few lines of code, to copy. */
export function Command({ text }: { text: string }) {
  return (
    <span class="command">
      <code tabIndex={0}>{line(text)}</code>
      <Copy text={text} label="Copy the command" />
    </span>
  );
}

/** The command that shows the same in a terminal. */
export function InTerminal({ words }: { words: string[] }) {
  const text = commandLine("millstream", ...words);
  if (text === null) return null;
  return (
    <div class="row no-print">
      <span class="small faint">The same in the terminal:</span>
      <Command text={text} />
    </div>
  );
}
