/**
 * JSON text as a tree that is read where somebody looks, and nowhere else. Numbers stay as they
 * were written, whatever their size; nothing recurses, however deep the text is.
 *
 * The text has to be valid JSON.
 */

export type Kind = "object" | "array" | "string" | "number" | "boolean" | "null";

/** Where a value stands in the text. */
export interface Value {
  kind: Kind;
  start: number;
  end: number;
}

export interface Child {
  /** Of a field, as it is after decoding; or the index in an array. */
  name: string | number;
  value: Value;
}

export interface Children {
  list: Child[];
  /** Whether there are more after these. */
  more: boolean;
}

/** The value that the whole text is. */
export function root(text: string): Value {
  const start = blank(text, 0);
  return { kind: kindAt(text, start), start, end: endOf(text, start) };
}

/** Fields or items of a value, `most` of them from the `from`-th on. */
export function children(text: string, value: Value, from = 0, most = 200): Children {
  const list: Child[] = [];
  if (value.kind !== "object" && value.kind !== "array") return { list, more: false };
  let at = blank(text, value.start + 1);
  for (let index = 0; at < value.end - 1; index++) {
    if (list.length === most) return { list, more: true };
    let name: string | number = index;
    if (value.kind === "object") {
      const end = endOf(text, at);
      if (index >= from) name = JSON.parse(text.slice(at, end)) as string;
      at = blank(text, blank(text, end) + 1);
    }
    const end = endOf(text, at);
    if (index >= from) list.push({ name, value: { kind: kindAt(text, at), start: at, end } });
    at = blank(text, end);
    if (text[at] === ",") at = blank(text, at + 1);
  }
  return { list, more: false };
}

/** How many fields or items a value has; counting ends at `most`. */
export function size(text: string, value: Value, most = 10_000): { count: number; more: boolean } {
  if (value.kind !== "object" && value.kind !== "array") return { count: 0, more: false };
  let count = 0;
  for (let at = blank(text, value.start + 1); at < value.end - 1; count++) {
    if (count === most) return { count, more: true };
    if (value.kind === "object") at = blank(text, blank(text, endOf(text, at)) + 1);
    at = blank(text, endOf(text, at));
    if (text[at] === ",") at = blank(text, at + 1);
  }
  return { count, more: false };
}

/** A string value, decoded. */
export function decoded(text: string, value: Value): string {
  return JSON.parse(text.slice(value.start, value.end)) as string;
}

/** The text with line breaks and indentation, and not a digit changed; deep parts are not indented further. */
export function pretty(text: string, deepest = 60): string {
  const out: string[] = [];
  let depth = 0;
  const newline = () => out.push("\n", "  ".repeat(Math.min(depth, deepest)));
  for (let at = blank(text, 0); at < text.length; at = blank(text, at)) {
    const character = text[at] as string;
    if (character === "{" || character === "[") {
      const next = blank(text, at + 1);
      if (text[next] === "}" || text[next] === "]") {
        out.push(character, text[next] as string);
        at = next + 1;
        continue;
      }
      depth++;
      out.push(character);
      newline();
      at++;
    } else if (character === "}" || character === "]") {
      depth--;
      newline();
      out.push(character);
      at++;
    } else if (character === ",") {
      out.push(",");
      newline();
      at++;
    } else if (character === ":") {
      out.push(": ");
      at++;
    } else {
      const end = endOf(text, at);
      out.push(text.slice(at, end));
      at = end;
    }
  }
  return out.join("");
}

function kindAt(text: string, at: number): Kind {
  switch (text[at]) {
    case "{":
      return "object";
    case "[":
      return "array";
    case '"':
      return "string";
    case "t":
    case "f":
      return "boolean";
    case "n":
      return "null";
    default:
      return "number";
  }
}

/** The next place that is not white. */
function blank(text: string, at: number): number {
  for (;;) {
    const code = text.charCodeAt(at);
    if (code !== 32 && code !== 10 && code !== 13 && code !== 9) return at;
    at++;
  }
}

/** Where the value that starts here ends. */
function endOf(text: string, at: number): number {
  const first = text[at];
  if (first === '"') return endOfString(text, at);
  if (first !== "{" && first !== "[") {
    while (at < text.length && !",]}: \n\r\t".includes(text[at] as string)) at++;
    return at;
  }
  let depth = 0;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (code === 34) {
      at = endOfString(text, at);
      continue;
    }
    if (code === 123 || code === 91) depth++;
    else if (code === 125 || code === 93) depth--;
    at++;
    if (depth === 0) return at;
  }
  return at;
}

function endOfString(text: string, at: number): number {
  for (at++; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 92) at++;
    else if (code === 34) return at + 1;
  }
  return at;
}
