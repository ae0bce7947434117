/** How something is: colour, glyph and word always go together, so that none of them carries it alone. */

import type { AttemptKind, Fate, GroupState, OperationStatus } from "./api";

export type Tone = "ok" | "warn" | "error" | "progress" | "neutral";

export type GlyphName =
  | "dot"
  | "ring"
  | "half"
  | "up"
  | "down"
  | "square"
  | "bar"
  | "pause"
  | "cross"
  | "back"
  | "turn"
  | "dash"
  | "question"
  | "slash";

export interface Look {
  tone: Tone;
  glyph: GlyphName;
  word: string;
}

const GROUPS: Record<GroupState, Look> = {
  unknown: { tone: "neutral", glyph: "question", word: "Unknown" },
  paused: { tone: "neutral", glyph: "pause", word: "Paused" },
  replaying: { tone: "progress", glyph: "turn", word: "Replaying" },
  stopped: { tone: "error", glyph: "square", word: "Stopped" },
  rewound: { tone: "error", glyph: "back", word: "Rewound" },
  stalled: { tone: "error", glyph: "bar", word: "Stalled" },
  behind: { tone: "warn", glyph: "up", word: "Behind" },
  "catching up": { tone: "progress", glyph: "down", word: "Catching up" },
  idle: { tone: "neutral", glyph: "dash", word: "Idle" },
  "caught up": { tone: "ok", glyph: "dot", word: "Caught up" },
};

/** Of a group. */
export function ofGroup(state: GroupState | undefined): Look {
  return GROUPS[state ?? "unknown"] ?? GROUPS.unknown;
}

const FATES: Record<Fate | AttemptKind, Look> = {
  handled: { tone: "ok", glyph: "dot", word: "Handled" },
  waiting: { tone: "neutral", glyph: "ring", word: "Waiting" },
  retrying: { tone: "warn", glyph: "half", word: "Tried again" },
  retry: { tone: "warn", glyph: "half", word: "Failed, to be tried again" },
  queued: { tone: "warn", glyph: "pause", word: "Waits behind a failure" },
  dead: { tone: "error", glyph: "cross", word: "Dead letter" },
  parked: { tone: "error", glyph: "cross", word: "Dead letter" },
  duplicate: { tone: "neutral", glyph: "slash", word: "Duplicate suppressed" },
  discarded: { tone: "neutral", glyph: "dash", word: "Discarded" },
  skipped: { tone: "neutral", glyph: "dash", word: "Skipped" },
  passed: { tone: "ok", glyph: "ring", word: "Passed: handled, and not told one by one" },
  unknown: { tone: "neutral", glyph: "question", word: "Not told of: handled, kept back by a filter, or not sent yet" },
};

/** Of a delivery, or of one attempt at it. */
export function ofFate(state: Fate | AttemptKind): Look {
  return FATES[state] ?? { tone: "neutral", glyph: "question", word: state };
}

const OPERATIONS: Record<OperationStatus, Look> = {
  sent: { tone: "progress", glyph: "ring", word: "Sent" },
  accepted: { tone: "progress", glyph: "half", word: "Accepted" },
  done: { tone: "ok", glyph: "dot", word: "Done" },
  refused: { tone: "error", glyph: "cross", word: "Refused" },
  failed: { tone: "error", glyph: "cross", word: "Failed" },
};

/** Of an operation. */
export function ofOperation(status: OperationStatus): Look {
  return OPERATIONS[status] ?? { tone: "neutral", glyph: "question", word: status };
}
