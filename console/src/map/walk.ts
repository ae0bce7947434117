/** One correlation's way over the map: which edges it took, in which order, and where it is not yet or no more. */

import type { Fate, FlowMap, Trace } from "../base/api";
import { edgeId, type Level, placeOf } from "./model";

export interface WalkStep {
  edge: string;
  to: string;
  at: number;
  failed: boolean;
  duplicate: boolean;
  /** What of it is told in a line. */
  words: string;
}

export interface Walk {
  steps: WalkStep[];
  nodes: Set<string>;
  /** Numbers of its steps, by edge. */
  numbers: Map<string, number[]>;
  /** How it ended, or not yet, at each handler. */
  ends: Map<string, Fate>;
  /** Edges to handlers that have not come to it. */
  open: Set<string>;
  start: number;
  end: number;
}

export function walkOf(trace: Trace, map: FlowMap, level: Level): Walk {
  const at = (id: string) => placeOf(id, map, level);
  const steps: WalkStep[] = [];
  const nodes = new Set<string>();
  const numbers = new Map<string, number[]>();
  for (const step of trace.steps) {
    const [from, to] = [at(step.from), at(step.to)];
    nodes.add(from);
    nodes.add(to);
    if (from === to) continue;
    const edge = edgeId(from, to);
    const failed = step.kind === "retry" || step.kind === "parked";
    const name = (id: string) => id.slice(id.indexOf(":") + 1);
    steps.push({
      edge,
      to,
      at: step.at,
      failed,
      duplicate: step.kind === "duplicate",
      words: step.kind === undefined ? `${name(step.from)} published ${name(step.to)}` : `${name(step.to)}: ${name(step.from)} ${word(step.kind)}`,
    });
    numbers.set(edge, [...(numbers.get(edge) ?? []), steps.length]);
  }
  const ends = new Map<string, Fate>();
  const open = new Set<string>();
  for (const event of trace.events) {
    for (const delivery of event.deliveries) {
      const node = at(`group:${delivery.group}`);
      nodes.add(node);
      const before = ends.get(node);
      ends.set(node, before && SERIOUS.indexOf(before) > SERIOUS.indexOf(delivery.state) ? before : delivery.state);
      if (delivery.state === "waiting") open.add(edgeId(at(`event:${event.type}`), node));
    }
  }
  const times = [...steps.map((step) => step.at), ...trace.events.map((event) => event.time)];
  return { steps, nodes, numbers, ends, open, start: Math.min(...times), end: Math.max(...times) };
}

const SERIOUS: Fate[] = ["skipped", "duplicate", "handled", "discarded", "waiting", "queued", "retrying", "dead"];

function word(kind: string): string {
  switch (kind) {
    case "handled":
      return "handled";
    case "retry":
      return "failed, to be tried again";
    case "parked":
      return "became a dead letter";
    case "duplicate":
      return "suppressed as a duplicate";
    default:
      return kind;
  }
}

const WHOLE = 6000;
const BRIEFEST = 180;

/** How long the walk rests before each step when it is played: as it was, made as long as a few seconds. */
export function rests(walk: Walk, speed: number): number[] {
  const whole = Math.max(walk.end - walk.start, 1e-6);
  return walk.steps.map((step, index) => {
    const before = walk.steps[index - 1]?.at ?? walk.start;
    return Math.max(BRIEFEST, (Math.max(0, step.at - before) / whole) * WHOLE) / speed;
  });
}
