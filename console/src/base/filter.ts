/**
 * The filter of event lists: `type:order.placed key:ord_81 status:dead -group:analytics since:1h text`.
 *
 * Words stand side by side and all have to fit; `OR` parts alternatives; `-` or `NOT` turns the
 * next word round; quotes keep blanks together.
 */

import type { AttemptKind, ListedEvent } from "./api";

export const FIELDS = ["type", "key", "id", "topic", "source", "corr", "group", "status", "version", "since", "by"] as const;
type Field = (typeof FIELDS)[number];

export interface Term {
  field: Field | null;
  value: string;
  not: boolean;
}

export interface Filter {
  /** One of these has to fit: all terms of one. */
  either: Term[][];
  mistakes: string[];
}

const STATUS: Record<string, AttemptKind[]> = {
  handled: ["handled"],
  failed: ["retry", "parked"],
  retry: ["retry"],
  dead: ["parked"],
  queued: ["queued"],
  duplicate: ["duplicate"],
  discarded: ["discarded"],
};

/** Read a filter; what cannot be understood is named. */
export function parse(text: string): Filter {
  const either: Term[][] = [[]];
  const mistakes: string[] = [];
  let not = false;
  for (const [word] of text.matchAll(/(?:[^\s"]|"(?:[^"\\]|\\.)*"?)+/g)) {
    if (word === "OR") {
      either.push([]);
      continue;
    }
    if (word === "NOT") {
      not = true;
      continue;
    }
    const turned = word.startsWith("-") && word.length > 1;
    const bare = turned ? word.slice(1) : word;
    const colon = bare.startsWith('"') ? -1 : bare.indexOf(":");
    const name = colon > 0 ? bare.slice(0, colon) : "";
    const known = FIELDS.find((field) => field === name) ?? null;
    const term: Term = { field: known, value: unquoted(known ? bare.slice(colon + 1) : bare), not: turned !== not };
    not = false;
    if (name && !known && /^[a-z]+$/.test(name)) mistakes.push(unknownField(name));
    if (known === "status" && !(term.value in STATUS)) mistakes.push(`status: one of ${Object.keys(STATUS).join(", ")}`);
    if (known === "since" && age(term.value) === null) mistakes.push("since: a time like 30s, 15m, 2h or 1d");
    (either.at(-1) as Term[]).push(term);
  }
  return { either: either.filter((terms) => terms.length), mistakes };
}

function unquoted(word: string): string {
  return word.startsWith('"') ? word.slice(1, word.endsWith('"') && word.length > 1 ? -1 : undefined).replace(/\\(.)/g, "$1") : word;
}

function unknownField(name: string): string {
  const near = FIELDS.find((field) => field.startsWith(name.slice(0, 2)));
  return `there is no field ${name}${near ? `: did you mean ${near}?` : `; there are ${FIELDS.join(", ")}`}`;
}

function age(text: string): number | null {
  const found = /^(\d+(?:\.\d+)?)(s|m|h|d)$/.exec(text);
  return found ? Number(found[1]) * { s: 1, m: 60, h: 3600, d: 86400 }[found[2] as "s" | "m" | "h" | "d"] : null;
}

/** Whether an event fits. */
export function fits(filter: Filter, event: ListedEvent, now: number): boolean {
  if (!filter.either.length) return true;
  return filter.either.some((terms) => terms.every((term) => fitsTerm(term, event, now) !== term.not));
}

function fitsTerm({ field, value }: Term, event: ListedEvent, now: number): boolean {
  const within = (text: string | null) => text !== null && text.toLowerCase().includes(value.toLowerCase());
  switch (field) {
    case null:
      return [event.type, event.key, event.id, event.correlation, event.source].some(within);
    case "type":
    case "key":
    case "id":
    case "topic":
    case "source":
    case "by":
      return within(event[field]);
    case "corr":
      return within(event.correlation);
    case "version":
      return String(event.version) === value.replace(/^v/, "");
    case "group":
      return event.outcomes.some(([group]) => within(group));
    case "status":
      return event.outcomes.some(([, kind]) => STATUS[value]?.includes(kind));
    case "since": {
      const seconds = age(value);
      return seconds === null || event.time >= now - seconds;
    }
  }
}
