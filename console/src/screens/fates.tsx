import type { AttemptKind, Delivery, Fate, ListedEvent } from "../base/api";
import { ofFate } from "../base/health";
import { line } from "../base/inert";
import { Glyph } from "../ui/glyph";

/** What is told of several outcomes of one delivery: the one that counts. */
const FIRST: [AttemptKind, Fate][] = [
  ["handled", "handled"],
  ["discarded", "discarded"],
  ["parked", "dead"],
  ["queued", "queued"],
  ["retry", "retrying"],
  ["skipped", "skipped"],
  ["duplicate", "duplicate"],
];

/** What became of a listed event in each group; groups that have yet to handle it are waiting. */
export function fatesOf(event: ListedEvent, expected: string[]): [group: string, fate: Fate][] {
  const names = [...new Set([...expected, ...event.outcomes.map(([group]) => group)])].sort();
  return names.map((group) => {
    const kinds = event.outcomes.filter(([name]) => name === group).map(([, kind]) => kind);
    return [group, FIRST.find(([kind]) => kinds.includes(kind))?.[1] ?? "waiting"];
  });
}

/** A glyph for each group. */
export function Fates({ fates }: { fates: [group: string, fate: Fate][] }) {
  if (!fates.length) return <span class="faint">nobody</span>;
  return (
    <span class="fates" role="list">
      {fates.map(([group, fate]) => {
        const look = ofFate(fate);
        return (
          <span key={group} role="listitem" class={`tone-${look.tone}`} title={`${line(group)}: ${look.word}`}>
            <Glyph name={look.glyph} title={`${line(group)}: ${look.word}`} />
          </span>
        );
      })}
    </span>
  );
}

/** How many attempts, and how the last one went. */
export function attemptsWord(delivery: Delivery): string {
  const made = delivery.attempts.filter((attempt) => attempt.kind !== "duplicate" && attempt.kind !== "skipped" && attempt.kind !== "queued").length;
  const untold = delivery.state === "passed" || delivery.state === "unknown" ? "no attempt told of" : "not tried yet";
  return made === 0 ? untold : made === 1 ? "1 attempt" : `${made} attempts`;
}
