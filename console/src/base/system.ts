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

export interface Past {
  at: number[];
  lag: (number | null)[];
  age: (number | null)[];
  handled: (number | null)[];
}

/** So many moments of each group are remembered, one for every answer. */
const MOST = 450;
const pasts = new Map<string, Past>();

/** Remember how the groups are now. */
export function noteGroups(found: Group[], at: number): void {
  groups.value = found;
  const names = new Set(found.map((group) => group.name));
  for (const gone of [...pasts.keys()].filter((name) => !names.has(name))) pasts.delete(gone);
  for (const group of found) {
    let past = pasts.get(group.name);
    if (!past) pasts.set(group.name, (past = { at: [], lag: [], age: [], handled: [] }));
    past.at.push(at);
    past.lag.push(group.lag);
    past.age.push(group.lag === 0 ? 0 : group.age);
    past.handled.push(group.handled_per_second);
    if (past.at.length > MOST) for (const values of Object.values(past) as unknown[][]) values.shift();
  }
}

/** How a group was since this page was opened. */
export function pastOf(group: string): Past | undefined {
  return pasts.get(group);
}
