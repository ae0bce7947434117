/**
 * JSON that is being written: numbers are kept as their text, so that none is rounded on its way
 * through a form.
 */

import { children, decoded, root, type Value } from "./json_tree";

export type Draft =
  | { kind: "string"; value: string }
  | { kind: "object"; fields: [name: string, draft: Draft][] }
  | { kind: "array"; items: Draft[] }
  /** A number, true, false, null: whatever stands there. */
  | { kind: "raw"; text: string };

export const NULL: Draft = { kind: "raw", text: "null" };

/** Deeper than this, text is taken over as it stands. */
const DEEPEST = 60;

/** A draft of valid JSON text. */
export function draftOf(text: string): Draft {
  return read(text, root(text), 0);
}

function read(text: string, value: Value, depth: number): Draft {
  if (value.kind === "string") return { kind: "string", value: decoded(text, value) };
  if (depth < DEEPEST && value.kind === "object") {
    const fields = children(text, value, 0, Infinity).list;
    return { kind: "object", fields: fields.map((field) => [String(field.name), read(text, field.value, depth + 1)]) };
  }
  if (depth < DEEPEST && value.kind === "array") {
    return { kind: "array", items: children(text, value, 0, Infinity).list.map((item) => read(text, item.value, depth + 1)) };
  }
  return { kind: "raw", text: text.slice(value.start, value.end) };
}

/** The draft as JSON text. */
export function textOf(draft: Draft, indent = ""): string {
  const inner = `${indent}  `;
  switch (draft.kind) {
    case "string":
      return JSON.stringify(draft.value);
    case "raw":
      return draft.text.trim() || "null";
    case "array":
      if (!draft.items.length) return "[]";
      return `[\n${draft.items.map((item) => inner + textOf(item, inner)).join(",\n")}\n${indent}]`;
    case "object":
      if (!draft.fields.length) return "{}";
      return `{\n${draft.fields.map(([name, value]) => `${inner}${JSON.stringify(name)}: ${textOf(value, inner)}`).join(",\n")}\n${indent}}`;
  }
}

/** A field of an object; undefined where there is none. */
export function field(draft: Draft | undefined, name: string): Draft | undefined {
  return draft?.kind === "object" ? draft.fields.find(([each]) => each === name)?.[1] : undefined;
}

/** The object with one field set, in its place or at the end; undefined takes it out. */
export function withField(draft: Draft | undefined, name: string, value: Draft | undefined): Draft {
  const fields = draft?.kind === "object" ? draft.fields : [];
  if (value === undefined) return { kind: "object", fields: fields.filter(([each]) => each !== name) };
  if (fields.some(([each]) => each === name)) {
    return { kind: "object", fields: fields.map((pair) => (pair[0] === name ? [name, value] : pair)) };
  }
  return { kind: "object", fields: [...fields, [name, value]] };
}
