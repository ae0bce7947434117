// @vitest-environment happy-dom
import { render } from "preact";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { FlowMap, MapEdge, MapNode } from "../../src/base/api";
import type { Layout } from "../../src/map/layout";
import { type Graph, graphOf } from "../../src/map/model";
import { Picture } from "../../src/map/picture";

const frames: (() => unknown)[] = [];
const next = async () => {
  while (frames.length) await Promise.all(frames.splice(0).map((step) => step()));
};

const NODES: MapNode[] = [
  { id: "event:placed", kind: "event", label: "placed", service: null, version: 2 },
  { id: "group:shop.charge", kind: "handler", label: "charge", service: "shop", group: "shop.charge" },
];
const LAYOUT: Layout = {
  width: 500,
  height: 100,
  nodes: { "event:placed": { x: 60, y: 50, width: 110, height: 34 }, "group:shop.charge": { x: 350, y: 50, width: 164, height: 56 } },
  edges: { "event:placed→group:shop.charge": [{ x: 120, y: 50 }, { x: 150, y: 50 }, { x: 200, y: 50 }, { x: 260, y: 50 }] },
  frames: [],
  layers: [["event:placed"], ["group:shop.charge"]],
};

let graph: Graph | undefined;

function show(node: Partial<MapNode>, edge: Partial<MapEdge>): void {
  const map: FlowMap = {
    as_of: 0,
    window: 60,
    span: 60,
    nodes: NODES.map((one) => (one.kind === "handler" ? { ...one, ...node } : one)),
    edges: [
      { from: "event:placed", to: "group:shop.charge", declared: true, observed: true, rate: 1, failed: 0, duplicates: 0, worked: 6, waited: 0, p50: null, p95: null, one_in: 1, ...edge },
    ],
    services: [{ name: "shop", alive: true, instances: 1 }],
    path: null,
  };
  graph = graphOf(map, "handlers", false, graph);
  render(
    <svg>
      <Picture graph={graph} layout={LAYOUT} selected={null} lit={null} walk={null} played={null} />
    </svg>,
    document.body,
  );
}

const texts = (of: string) => [...document.querySelectorAll(`${of} text`)].map((one) => one.textContent);
const handler = () => document.querySelector('[data-node="group:shop.charge"]');

describe("the picture of a map", () => {
  beforeEach(() => {
    vi.stubGlobal("requestAnimationFrame", (step: () => unknown) => frames.push(step));
    graph = undefined;
  });
  afterEach(async () => {
    await next();
    render(null, document.body);
    vi.unstubAllGlobals();
  });

  it("shows new numbers on what stays as it was", async () => {
    show({ lag: 0, age: null, health: { state: "caught up", rule: 9, sentence: "", severity: 0 } }, {});
    expect(texts(".edge")).toEqual(["1.0/s", "1.0/s · 100 ms"]);
    expect(handler()?.getAttribute("aria-label")).toContain("caught up");
    const [edge, node] = [document.querySelector(".edge"), handler()];

    show({ lag: 4, age: 2, health: { state: "caught up", rule: 9, sentence: "", severity: 0 } }, { rate: 1.2, p95: 0.5 });
    await next();

    expect(texts(".edge")).toEqual(["1.2/s", "1.2/s · p95 500 ms"]);
    expect(texts(".node.handler")).toContain("1.2/s");
    expect(handler()?.getAttribute("aria-label")).toContain("4 events wait, the oldest for 2.0 s");
    expect([document.querySelector(".edge"), handler()]).toEqual([edge, node]);
  });

  it("draws anew what looks different", async () => {
    show({ lag: 0, age: null, health: { state: "caught up", rule: 9, sentence: "", severity: 0 } }, {});
    show({ lag: 9000, age: 70, dead: 3, health: { state: "stopped", rule: 3, sentence: "", severity: 9 } }, { rate: 2000, failed: 1 });
    await next();

    expect(handler()?.getAttribute("class")).toContain("tone-error");
    expect(texts(".node.handler")).toEqual(expect.arrayContaining(["Stopped", "3"]));
    expect(handler()?.textContent).toContain("1 m 10 s");
    expect(document.querySelector(".edge .wire")?.getAttribute("stroke-width")).toBe("5");
    expect(document.querySelector(".edge .mark.failed")).not.toBeNull();

    show({ lag: 9000, age: 70, dead: 3 }, { observed: false, rate: 0 });
    await next();
    expect(texts(".edge")).toEqual([]);
    show({ lag: 9000, age: 70, dead: 3 }, { rate: 3 });
    await next();
    expect(texts(".edge")).toEqual(["3.0/s", "3.0/s · 33 ms"]);
  });
});
