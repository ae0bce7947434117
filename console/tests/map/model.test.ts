import { describe, expect, it } from "vitest";

import type { FlowMap, MapEdge, MapNode } from "../../src/base/api";
import { mermaid } from "../../src/map/export";
import { around, edgeId, graphOf, lookOf, placeOf } from "../../src/map/model";

const node = (id: string, service: string | null, more: Partial<MapNode> = {}): MapNode => ({
  id,
  kind: id.startsWith("event:") ? "event" : id.startsWith("app:") ? "producer" : "handler",
  label: id.slice(id.indexOf(":") + 1),
  service,
  ...more,
});

const edge = (from: string, to: string, more: Partial<MapEdge> = {}): MapEdge => ({
  from,
  to,
  declared: true,
  observed: true,
  rate: 1,
  failed: 0,
  duplicates: 0,
  worked: 0,
  waited: 0,
  p50: null,
  p95: null,
  one_in: 1,
  ...more,
});

const map = (nodes: MapNode[], edges: MapEdge[]): FlowMap => ({
  as_of: 0,
  window: 60,
  span: 60,
  nodes,
  edges,
  services: [{ name: "shop", alive: true, instances: 1 }],
  path: null,
});

const SHOP = map(
  [
    node("app:shop", "shop"),
    node("event:placed", null),
    node("group:shop.follow", "shop", { health: { state: "caught up", rule: 9, sentence: "", severity: 0 }, lag: 1, age: 2 }),
    node("group:mail.send", "mail", { health: { state: "stopped", rule: 3, sentence: "", severity: 9 }, lag: 5, age: 9, dead: 2 }),
    node("group:mail.log", "mail", { health: { state: "behind", rule: 6, sentence: "", severity: 6 }, lag: 3, age: 1, dead: 1 }),
  ],
  [edge("app:shop", "event:placed", { rate: 2 }), edge("event:placed", "group:mail.send", { failed: 4 }), edge("event:placed", "group:mail.log"), edge("event:placed", "group:shop.follow")],
);

describe("the graph of a map", () => {
  it("is the same in whatever order its parts are told", () => {
    const turned = map([...SHOP.nodes].reverse(), [...SHOP.edges].reverse());

    expect(graphOf(turned, "handlers")).toEqual(graphOf(SHOP, "handlers"));
  });

  it("has another shape only when something comes or goes", () => {
    const busier = map(
      SHOP.nodes,
      SHOP.edges.map((one) => ({ ...one, rate: one.rate * 100 })),
    );

    const before = graphOf(SHOP, "handlers");
    expect(graphOf(busier, "handlers").shape).toBe(before.shape);
    expect(graphOf(busier, "handlers", false, before)).toEqual(graphOf(busier, "handlers"));
    const fewer = map(SHOP.nodes.slice(1), SHOP.edges);
    expect(graphOf(fewer, "handlers").shape).not.toBe(before.shape);
    expect(graphOf(fewer, "handlers", false, before)).toEqual(graphOf(fewer, "handlers"));
  });

  it("leaves out edges whose ends it does not have", () => {
    expect(graphOf(map([node("event:placed", null)], SHOP.edges), "handlers").edges).toEqual([]);
  });
});

describe("a map of services", () => {
  it("has the worst health and the sums of each service", () => {
    const mail = graphOf(SHOP, "services").nodes.find((one) => one.id === "service:mail");

    expect(mail?.node).toMatchObject({ health: { state: "stopped" }, lag: 8, age: 9, dead: 3 });
  });

  it("joins edges between the same two, and has a dot find them", () => {
    const { edges } = graphOf(SHOP, "services");

    expect(edges.find((one) => one.id === edgeId("event:placed", "service:mail"))?.edge).toMatchObject({ rate: 2, failed: 4 });
    expect(placeOf("group:mail.log", SHOP, "services")).toBe("service:mail");
    expect(placeOf("event:placed", SHOP, "services")).toBe("event:placed");
  });
});

describe("what is around a node", () => {
  it("goes with the flow and against it, and not round corners", () => {
    const graph = graphOf(SHOP, "handlers");

    expect([...around(graph, "group:mail.send", 2)].sort()).toEqual(["app:shop", "event:placed", "group:mail.send"]);
    expect([...around(graph, "group:mail.send", 1)].sort()).toEqual(["event:placed", "group:mail.send"]);
  });

  it("ends in a circle", () => {
    const graph = graphOf(map([node("event:a", null), node("group:g", "s")], [edge("event:a", "group:g"), edge("group:g", "event:a")]), "handlers");

    expect(around(graph, "event:a", 99).size).toBe(2);
  });
});

describe("the look of an edge", () => {
  it.each([
    [{ observed: true, declared: true }, "live"],
    [{ observed: false, declared: true, rate: 0 }, "silent"],
    [{ observed: true, declared: false }, "undeclared"],
    [{ failed: 30, rate: 1 }, "failing"],
    [{ failed: 1, rate: 10 }, "live"],
  ] as const)("of %o is %s", (given, look) => {
    expect(lookOf(edge("a", "b", given), 60)).toBe(look);
  });
});

describe("the map as Mermaid", () => {
  it("tells declared, observed and undeclared flows apart", () => {
    const text = mermaid(graphOf(map(SHOP.nodes, [edge("app:shop", "event:placed"), edge("event:placed", "group:mail.log", { observed: false }), edge("event:placed", "group:shop.follow", { declared: false })]), "handlers"));

    expect(text).toContain(" --> ");
    expect(text).toContain(" -.-> ");
    expect(text).toContain("undeclared");
    expect(text).toContain('subgraph s2["shop"]'.replace("s2", /s\d(?=\["shop")/.exec(text)?.[0] ?? "?"));
  });

  it("cannot be broken out of by a name", () => {
    const text = mermaid(graphOf(map([node("event:a", null, { label: 'x"]; click n0 "javascript:alert(1)' })], []), "handlers"));

    expect(text.split("\n").filter(Boolean)).toHaveLength(2);
    expect(text).not.toContain('"]; click');
  });
});
