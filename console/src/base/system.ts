/** What every screen needs of the system: who asks, and how its groups are and were. */

import { computed, signal } from "@preact/signals";

import type { Group, Me, Role } from "./api";

export const me = signal<Me | null>(null);

export const groups = signal<Group[] | null>(null);

export const deadLetters = computed(() => groups.value?.reduce((sum, group) => sum + group.dead, 0) ?? 0);
/** Groups that need somebody. */
export const troubled = computed(() => groups.value?.filter((group) => group.verdict.severity >= 6 || group.troubles.length).length ?? 0);

const ORDER: Role[] = ["viewer", "operator", "admin"];

/** Why this user may not do what needs a role; null when it is allowed. The server decides again. */
export function denied(needed: Role): string | null {
  const who = me.value;
  if (who === null) return "It is not known yet who you are.";
  if (needed !== "viewer" && who.read_only) return "This console is read-only.";
  return ORDER.indexOf(who.role) >= ORDER.indexOf(needed) ? null : `This needs the role ${needed}; yours is ${who.role}.`;
}

/** So many moments are remembered, one for every answer. */
export const MOST = 450;
const CURVES = ["lag", "age", "handled"] as const;

/** How a group was since this page was opened, or the last part of it; the oldest first. */
export type Past = Record<(typeof CURVES)[number], (number | null)[]> & { at: number[] };

/** Room for all moments is taken at once, so that a page that is open for long needs no more memory than a new one. */
const times = new Float64Array(MOST);
/** How many moments there were; the newest is in the place of the last number, modulo the room. */
let moments = 0;

interface Kept {
  /** The moment with which it began. */
  from: number;
  /** A curve after the other; what is not known is no number. */
  values: Float32Array;
}

const kept = new Map<string, Kept>();

/** Remember how the groups are now. */
export function noteGroups(found: Group[], at: number): void {
  groups.value = found;
  const names = new Set(found.map((group) => group.name));
  for (const gone of [...kept.keys()].filter((name) => !names.has(name))) kept.delete(gone);
  const place = moments % MOST;
  times[place] = at;
  for (const { name, lag, age, handled_per_second } of found) {
    let mine = kept.get(name);
    if (!mine) kept.set(name, (mine = { from: moments, values: new Float32Array(CURVES.length * MOST) }));
    mine.values[place] = lag ?? NaN;
    mine.values[MOST + place] = (lag === 0 ? 0 : age) ?? NaN;
    mine.values[2 * MOST + place] = handled_per_second;
  }
  moments++;
}

/** How a group was, so many moments back. */
export function pastOf(group: string, most = MOST): Past | undefined {
  const mine = kept.get(group);
  if (!mine) return undefined;
  const past: Past = { at: [], lag: [], age: [], handled: [] };
  for (let moment = Math.max(mine.from, moments - Math.min(most, MOST)); moment < moments; moment++) {
    const place = moment % MOST;
    past.at.push(times[place] ?? 0);
    CURVES.forEach((curve, number) => {
      const value = mine.values[number * MOST + place] ?? NaN;
      past[curve].push(Number.isNaN(value) ? null : value);
    });
  }
  return past;
}
