import { describe, expect, it } from "vitest";

import type { FlowMap, Trace } from "../../src/base/api";
import { rests, walkOf } from "../../src/map/walk";

const MAP = { nodes: [], edges: [], services: [] } as unknown as FlowMap;

const TRACE: Trace = {
  correlation: "c",
  cut: false,
  sentence: "",
  steps: [
    { from: "app:shop", to: "event:placed", at: 10, id: "1" },
    { from: "event:placed", to: "group:mail.send", at: 11, kind: "retry", id: "1" },
    { from: "event:placed", to: "group:mail.send", at: 14, kind: "handled", id: "1" },
  ],
  events: [
    {
      id: "1",
      source: "/shop",
      type: "placed",
      topic: "placed",
      key: "o",
      time: 10,
      version: 1,
      correlation: "c",
      causation: null,
      by: null,
      partition: 0,
      position: "0",
      deliveries: [
        { group: "mail.send", state: "handled", attempts: [], duplicates: 0 },
        { group: "stats.count", state: "waiting", attempts: [], duplicates: 0 },
      ],
    },
  ],
};

describe("the walk of a correlation", () => {
  it("numbers its steps, and those on one edge together", () => {
    const walk = walkOf(TRACE, MAP, "handlers");

    expect(walk.numbers.get("app:shop→event:placed")).toEqual([1]);
    expect(walk.numbers.get("event:placed→group:mail.send")).toEqual([2, 3]);
    expect(walk.steps.map((step) => step.failed)).toEqual([false, true, false]);
  });

  it("shows where it has not come to yet", () => {
    const walk = walkOf(TRACE, MAP, "handlers");

    expect([...walk.open]).toEqual(["event:placed→group:stats.count"]);
    expect(walk.ends.get("group:stats.count")).toBe("waiting");
    expect(walk.nodes.has("group:stats.count")).toBe(true);
  });

  it("is played in proportion to what it took", () => {
    const [first, second, third] = rests(walkOf(TRACE, MAP, "handlers"), 1);

    expect(third).toBeGreaterThan((second ?? 0) * 2);
    expect(first).toBeLessThan(second ?? 0);
    expect(rests(walkOf(TRACE, MAP, "handlers"), 10)[2]).toBeCloseTo((third ?? 0) / 10);
  });
});
