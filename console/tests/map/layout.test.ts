import { describe, expect, it } from "vitest";

import { layOut, type LayoutRequest, pathOf, placeOn, trackOf } from "../../src/map/layout";

const node = (id: string, service: string | null = null) => ({ id, width: 160, height: 40, service });
const edge = (from: string, to: string) => ({ id: `${from}→${to}`, from, to });

function shop(): LayoutRequest {
  return {
    nodes: [
      node("app:storefront", "storefront"),
      node("event:order.placed"),
      node("event:stock.reserved"),
      node("event:confirmation.sent"),
      node("group:analytics.project", "analytics"),
      node("group:inventory.reserve", "inventory"),
      node("group:mailer.confirm", "mailer"),
      node("group:storefront.follow", "storefront"),
    ],
    edges: [
      edge("app:storefront", "event:order.placed"),
      edge("event:order.placed", "group:inventory.reserve"),
      edge("event:order.placed", "group:analytics.project"),
      edge("group:inventory.reserve", "event:stock.reserved"),
      edge("event:stock.reserved", "group:mailer.confirm"),
      edge("event:stock.reserved", "group:analytics.project"),
      edge("event:stock.reserved", "group:storefront.follow"),
      edge("group:mailer.confirm", "event:confirmation.sent"),
      edge("event:confirmation.sent", "group:storefront.follow"),
      edge("event:confirmation.sent", "group:analytics.project"),
    ],
    direction: "LR",
    before: [],
  };
}

const overlap = (a: { x: number; y: number; width: number; height: number }, b: { x: number; y: number; width: number; height: number }) =>
  a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

describe("layout", () => {
  it("puts causes before effects", () => {
    const { nodes } = layOut(shop());

    const order = ["app:storefront", "event:order.placed", "group:inventory.reserve", "event:stock.reserved", "group:mailer.confirm", "event:confirmation.sent"];

    const places = order.map((id) => nodes[id]?.x ?? 0);
    expect(places).toEqual([...places].sort((a, b) => a - b));
  });

  it("is the same for the same graph, in whatever order it was told", () => {
    const first = layOut(shop());

    const turned = shop();
    turned.nodes.reverse();
    turned.edges.reverse();
    const again = layOut(turned);

    expect(again).toEqual(first);
  });

  it("keeps nodes apart, and frames from each other and from strangers", () => {
    const { nodes, frames } = layOut(shop());

    const boxes = Object.entries(nodes).map(([id, box]) => ({ id, x: box.x - box.width / 2, y: box.y - box.height / 2, width: box.width, height: box.height }));

    for (const a of boxes) for (const b of boxes) if (a.id < b.id) expect(overlap(a, b), `${a.id} ${b.id}`).toBe(false);
    for (const a of frames) for (const b of frames) if (a.id < b.id) expect(overlap(a, b), `${a.id} ${b.id}`).toBe(false);
    for (const frame of frames) for (const box of boxes) if (box.id.startsWith("event:")) expect(overlap(frame, box), `${frame.id} ${box.id}`).toBe(false);
  });

  it("gives the two ends of a service that are far apart a frame each", () => {
    const { frames } = layOut(shop());

    expect(frames.filter((frame) => frame.service === "storefront")).toHaveLength(2);
  });

  it("keeps the order of a layer when a node comes into it", () => {
    const first = layOut(shop());
    const more = shop();
    more.nodes.push(node("group:archive.keep", "archive"));
    more.edges.push(edge("event:order.placed", "group:archive.keep"));

    const second = layOut({ ...more, before: first.layers });

    for (const layer of first.layers) {
      const now = second.layers.flat().filter((id) => layer.includes(id));
      const same = second.layers.filter((ids) => layer.every((id) => ids.includes(id)));
      if (same.length) expect(now).toEqual(layer);
    }
  });

  it("draws circles, too", () => {
    const request = shop();
    request.edges.push(edge("group:storefront.follow", "event:order.placed"));

    const { edges } = layOut(request);

    expect(pathOf(edges["group:storefront.follow→event:order.placed"] ?? [])).toMatch(/^M[\d.-]+,[\d.-]+ C/);
  });

  it("runs from top to bottom as well", () => {
    const { nodes } = layOut({ ...shop(), direction: "TB" });

    expect(nodes["event:order.placed"]?.y).toBeGreaterThan(nodes["app:storefront"]?.y ?? 0);
  });

  it("lays out nothing without complaint", () => {
    expect(layOut({ nodes: [], edges: [], direction: "LR", before: [] }).nodes).toEqual({});
  });

  it("lays out three hundred nodes in a bounded time", () => {
    const nodes = Array.from({ length: 100 }, (_, index) => [node(`event:${index}`), node(`group:${index}`, `service${index % 20}`), node(`app:${index}`, `service${index % 20}`)]).flat();
    const edges = Array.from({ length: 100 }, (_, index) => [
      edge(`app:${index}`, `event:${index}`),
      edge(`event:${index}`, `group:${index}`),
      ...(index + 7 < 100 ? [edge(`group:${index}`, `event:${index + 7}`)] : []),
    ]).flat();

    const layout = layOut({ nodes, edges, direction: "LR", before: [] });

    expect(Object.keys(layout.nodes)).toHaveLength(300);
  }, 30_000);
});

describe("tracks", () => {
  it("begin and end where the curve does", () => {
    const track = trackOf([
      { x: 0, y: 0 },
      { x: 50, y: 0 },
      { x: 50, y: 100 },
      { x: 100, y: 100 },
    ]);

    expect(placeOn(track, 0, { x: 9, y: 9 })).toEqual({ x: 0, y: 0 });
    expect(placeOn(track, 1, { x: 9, y: 9 })).toEqual({ x: 100, y: 100 });
    expect(placeOn(track, 0.5, { x: 9, y: 9 }).x).toBeCloseTo(50, 0);
  });
});
