/** The story of a correlation: which event was caused by which handling, and where in time each part lies. */

import type { Delivery, Trace, TracedEvent } from "./api";

export interface EventRow {
  kind: "event";
  id: string;
  depth: number;
  event: TracedEvent;
  /** Its cause is not among what is known. */
  orphan: boolean;
}

export interface DeliveryRow {
  kind: "delivery";
  id: string;
  depth: number;
  event: TracedEvent;
  delivery: Delivery;
}

export type Row = EventRow | DeliveryRow;

const keyOf = (event: TracedEvent) => `${event.source} ${event.id}`;

/** Events and deliveries in the order of a tree: an event, its deliveries, and below each what it published. */
export function rows(trace: Trace): Row[] {
  const byId = new Map<string, TracedEvent>();
  for (const event of trace.events) if (!byId.has(event.id)) byId.set(event.id, event);
  const caused = new Map<string, TracedEvent[]>();
  const first: TracedEvent[] = [];
  for (const event of trace.events) {
    const cause = event.causation === null ? undefined : byId.get(event.causation);
    if (!cause || cause === event) first.push(event);
    else {
      const place = `${keyOf(cause)} ${groupOf(event) ?? ""}`;
      caused.set(place, [...(caused.get(place) ?? []), event]);
    }
  }

  const found: Row[] = [];
  const told = new Set<TracedEvent>();
  const pending: (() => void)[] = [];
  const tell = (event: TracedEvent, depth: number) => {
    if (told.has(event)) return;
    told.add(event);
    found.push({ kind: "event", id: keyOf(event), depth, event, orphan: event.causation !== null && !byId.has(event.causation) });
    const next: (() => void)[] = [];
    const groups = new Set(event.deliveries.map((delivery) => delivery.group));
    for (const delivery of event.deliveries) {
      next.push(() => found.push({ kind: "delivery", id: `${keyOf(event)} ${delivery.group}`, depth: depth + 1, event, delivery }));
      for (const child of caused.get(`${keyOf(event)} ${delivery.group}`) ?? []) next.push(() => tell(child, depth + 2));
    }
    for (const [place, children] of caused) {
      const prefix = `${keyOf(event)} `;
      if (!place.startsWith(prefix) || groups.has(place.slice(prefix.length))) continue;
      for (const child of children) next.push(() => tell(child, depth + 1));
    }
    // A stack instead of recursion: a chain of events may be long.
    pending.push(...next.reverse());
  };
  const run = () => {
    for (let step = pending.pop(); step; step = pending.pop()) step();
  };
  for (const event of first) {
    tell(event, 0);
    run();
  }
  // What is left causes itself in a circle: it is shown all the same.
  for (const event of trace.events) {
    tell(event, 0);
    run();
  }
  return found;
}

/** The group whose handling published an event. */
export function groupOf(event: { by: string | null }): string | null {
  if (event.by === null) return null;
  const slash = event.by.lastIndexOf("/");
  return slash > 0 ? event.by.slice(0, slash) : event.by;
}

export interface Bar {
  kind: "wait" | "work" | "pause";
  start: number;
  end: number;
  /** Which attempt; 0 for the wait before the first one. */
  attempt: number;
  failed: boolean;
}

/** What a delivery's time went into; until `now` for one that waits. */
export function bars(event: TracedEvent, delivery: Delivery, now: number): Bar[] {
  const found: Bar[] = [];
  let free = event.time;
  for (const [index, attempt] of delivery.attempts.entries()) {
    const start = Math.max(free, attempt.at - attempt.worked);
    const first = index === 0;
    found.push({ kind: first ? "wait" : "pause", start: free, end: start, attempt: first ? 0 : attempt.attempt, failed: false });
    const failed = attempt.kind === "retry" || attempt.kind === "parked";
    found.push({ kind: "work", start, end: Math.max(start, attempt.at), attempt: attempt.attempt, failed });
    free = Math.max(start, attempt.at);
  }
  if (delivery.state === "waiting" || delivery.state === "retrying" || delivery.state === "queued") {
    found.push({ kind: delivery.attempts.length ? "pause" : "wait", start: free, end: Math.max(free, now), attempt: 0, failed: false });
  }
  return found.filter((bar) => bar.end > bar.start || bar.kind === "work");
}

export interface Fold {
  start: number;
  end: number;
  /** Where it is drawn, from 0 to 1. */
  at: number;
}

export interface Scale {
  start: number;
  end: number;
  folds: Fold[];
  /** From a time to a place between 0 and 1. */
  place: (time: number) => number;
}

/** Idle time of more than a fifth of the whole, and of seconds, is folded to so much of the width. */
const FOLDED = 0.04;
const LONG = 0.2;
const LEAST = 2;

/** A scale on which long times without anything happening take little room. */
export function scaleOf(start: number, end: number, moments: Iterable<[start: number, end: number]>): Scale {
  const whole = Math.max(end - start, 1e-6);
  const sorted = [...moments].filter(([from, to]) => to >= start && from <= end).sort((a, b) => a[0] - b[0]);
  const idle: { start: number; end: number }[] = [];
  let busy = start;
  for (const [from, to] of [...sorted, [end, end] as const]) {
    if (from - busy > Math.max(LEAST, LONG * whole)) idle.push({ start: busy, end: from });
    busy = Math.max(busy, to);
  }
  const kept = whole - idle.reduce((sum, gap) => sum + gap.end - gap.start, 0);
  const room = 1 - FOLDED * idle.length;
  // With nothing but idle time there is nothing to make room for.
  if (!idle.length || kept <= whole * 1e-9 || room <= 0.2) {
    return { start, end, folds: [], place: (time) => (time - start) / whole };
  }
  const place = (time: number): number => {
    let passed = time - start;
    let folded = 0;
    for (const gap of idle) {
      if (time <= gap.start) break;
      const inside = Math.min(time, gap.end) - gap.start;
      passed -= inside;
      folded += (FOLDED * inside) / (gap.end - gap.start);
    }
    return (passed / kept) * room + folded;
  };
  return { start, end, folds: idle.map((gap) => ({ ...gap, at: place((gap.start + gap.end) / 2) })), place };
}
