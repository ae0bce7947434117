import { describe, expect, it } from "vitest";

import type { Attempt, Delivery, Trace, TracedEvent } from "../../src/base/api";
import { bars, rows, scaleOf } from "../../src/base/story";

const attempt = (group: string, kind: Attempt["kind"], at: number, worked = 0.1, number = 1): Attempt => ({
  group,
  handler: group,
  id: "",
  source: "",
  kind,
  attempt: number,
  at,
  waited: 0,
  worked,
  error: "",
  process: "p",
});

const delivery = (group: string, state: Delivery["state"], attempts: Attempt[] = []): Delivery => ({ group, state, attempts, duplicates: 0 });

const event = (id: string, time: number, deliveries: Delivery[], causation: string | null = null, by: string | null = null): TracedEvent => ({
  id,
  source: "/s",
  type: `type.${id}`,
  topic: "t",
  key: null,
  time,
  version: 1,
  correlation: "c",
  causation,
  by,
  partition: 0,
  position: "0",
  deliveries,
});

const trace = (...events: TracedEvent[]): Trace => ({ correlation: "c", events, steps: [], sentence: "", cut: false });

describe("the tree of a trace", () => {
  it("has each effect below the handling that published it", () => {
    const story = trace(
      event("a", 1, [delivery("stock", "handled"), delivery("mail", "handled")]),
      event("b", 2, [delivery("mail", "waiting")], "a", "stock/1"),
      event("c", 3, [], "a", "mail/2"),
    );

    const told = rows(story).map((row) => `${"  ".repeat(row.depth)}${row.kind === "event" ? row.event.id : row.delivery.group}`);

    expect(told).toEqual(["a", "  stock", "    b", "      mail", "  mail", "    c"]);
  });

  it("shows what has lost its cause, and says so", () => {
    const told = rows(trace(event("b", 2, [], "gone", "stock/1")));

    expect(told).toMatchObject([{ kind: "event", orphan: true }]);
  });

  it("shows what causes itself in a circle, once", () => {
    const told = rows(trace(event("a", 1, [], "b"), event("b", 2, [], "a")));

    expect(told.map((row) => row.event.id).sort()).toEqual(["a", "b"]);
  });

  it("is as deep as a chain of two thousand", () => {
    const chain = Array.from({ length: 2000 }, (_, index) => event(String(index), index, [delivery("g", "handled")], index ? String(index - 1) : null, index ? "g/1" : null));

    expect(rows(trace(...chain))).toHaveLength(4000);
  });
});

describe("the bars of a delivery", () => {
  it("tell waiting, working, and waiting to be tried again apart", () => {
    const one = delivery("mail", "handled", [attempt("mail", "retry", 1.2, 0.1, 1), attempt("mail", "handled", 3, 0.5, 2)]);

    const found = bars(event("a", 1, [one]), one, 9).map((bar) => [bar.kind, Number(bar.start.toFixed(2)), Number(bar.end.toFixed(2)), bar.failed]);

    expect(found).toEqual([
      ["wait", 1, 1.1, false],
      ["work", 1.1, 1.2, true],
      ["pause", 1.2, 2.5, false],
      ["work", 2.5, 3, false],
    ]);
  });

  it("go on until now while nobody has come to it", () => {
    const one = delivery("mail", "waiting");

    expect(bars(event("a", 1, [one]), one, 5)).toMatchObject([{ kind: "wait", start: 1, end: 5 }]);
  });
});

describe("the scale", () => {
  it("is even while something happens", () => {
    const scale = scaleOf(0, 10, [
      [0, 4],
      [5, 10],
    ]);

    expect(scale.folds).toEqual([]);
    expect(scale.place(5)).toBe(0.5);
  });

  it("folds hours in which nothing happens", () => {
    const scale = scaleOf(0, 3610, [
      [0, 5],
      [3605, 3610],
    ]);

    expect(scale.folds).toHaveLength(1);
    expect(scale.place(5)).toBeCloseTo(0.48);
    expect(scale.place(3605)).toBeCloseTo(0.52);
    expect(scale.place(3610)).toBeCloseTo(1);
  });

  it("does not fold what is shorter than seconds", () => {
    expect(scaleOf(0, 1, [[0, 0.1], [0.9, 1]]).folds).toEqual([]);
  });
});
