/** The map as it is drawn: nodes with a size, edges with a name; the same map gives the same graph. */

import type { FlowMap, MapEdge, MapNode, Service, Verdict } from "../base/api";

export type NodeKind = "producer" | "event" | "handler" | "service";

export interface Node {
  id: string;
  kind: NodeKind;
  label: string;
  service: string | null;
  width: number;
  height: number;
  node: MapNode;
  /** Whether any process of its service is alive. */
  alive: boolean;
}

export interface Edge {
  id: string;
  from: string;
  to: string;
  edge: MapEdge;
}

export interface Graph {
  nodes: Node[];
  edges: Edge[];
  services: Service[];
  window: number;
  /** What the layout depends on: as long as it is the same, nothing moves. */
  shape: string;
  /** It shows how it was: nothing is known of the health of groups then. */
  past: boolean;
  /** What each producer publishes and each handler handles in a second; without those of which nothing was seen. */
  rates: ReadonlyMap<string, number>;
  /** Handlers that do not keep up. */
  late: ReadonlySet<string>;
}

export type Level = "handlers" | "services";

/** Above so many nodes the map opens with one node for each service. */
export const TOO_MANY = 300;

/** Severities of verdicts from which on somebody has to do something. */
const SERIOUS = 6;

const CHARACTER = 7.4;

export function edgeId(from: string, to: string): string {
  return `${from}→${to}`;
}

function sizeOf(kind: NodeKind, label: string): { width: number; height: number } {
  const text = Math.min(26, [...label].length) * CHARACTER;
  switch (kind) {
    case "event":
      return { width: Math.max(104, text + 44), height: 34 };
    case "producer":
      return { width: 142, height: 34 };
    case "handler":
    case "service":
      return { width: Math.max(164, text + 92), height: 56 };
  }
}

/** What is as it was in the graph `before` is taken from there: names and sizes are not made anew with all numbers. */
export function graphOf(map: FlowMap, level: Level, past = false, before?: Graph): Graph {
  const alive = new Map(map.services.map((service) => [service.name, service.alive]));
  const shown = level === "services" ? folded(map) : map;
  const nodes = shown.nodes.map((node, index): Node => {
    const kind: NodeKind = node.id.startsWith("service:") ? "service" : node.kind;
    const old = before?.nodes[index];
    const { id, label, service, width, height } =
      old && old.id === node.id && old.kind === kind && old.label === node.label && old.service === node.service ? old : { ...node, ...sizeOf(kind, node.label) };
    return { id, kind, label, service, width, height, node, alive: service === null || (alive.get(service) ?? false) };
  });
  const known = new Set(nodes.map((node) => node.id));
  const edges = shown.edges
    .filter((edge) => known.has(edge.from) && known.has(edge.to) && edge.from !== edge.to)
    .map((edge, index): Edge => {
      const old = before?.edges[index];
      const { id, from, to } = old && old.from === edge.from && old.to === edge.to ? old : { id: edgeId(edge.from, edge.to), from: edge.from, to: edge.to };
      return { id, from, to, edge };
    });
  nodes.sort((a, b) => (a.id < b.id ? -1 : 1));
  edges.sort((a, b) => (a.id < b.id ? -1 : 1));
  const shape = before && hasShapeOf(before, nodes, edges) ? before.shape : signature(nodes, edges);
  const late = new Set(nodes.filter((node) => (node.node.health?.severity ?? 0) >= SERIOUS).map((node) => node.id));
  return { nodes, edges, services: map.services, window: map.span, shape, past, rates: ratesOf(nodes, edges), late };
}

function hasShapeOf(before: Graph, nodes: Node[], edges: Edge[]): boolean {
  const sameNode = (node: Node, index: number) => {
    const old = before.nodes[index];
    return old?.id === node.id && old.width === node.width && old.service === node.service;
  };
  return nodes.length === before.nodes.length && edges.length === before.edges.length && nodes.every(sameNode) && edges.every((edge, index) => edge.id === before.edges[index]?.id);
}

function signature(nodes: Node[], edges: Edge[]): string {
  return `${nodes.map((node) => `${node.id} ${node.width} ${node.service ?? ""}`).join("\n")}\n${edges.map((edge) => edge.id).join("\n")}`;
}

function ratesOf(nodes: Node[], edges: Edge[]): Map<string, number> {
  const producers = new Set(nodes.filter((node) => node.kind === "producer").map((node) => node.id));
  const sums = new Map<string, number>();
  for (const { from, to, edge } of edges) {
    const id = producers.has(from) ? from : to;
    if (edge.observed) sums.set(id, (sums.get(id) ?? 0) + edge.rate);
  }
  return sums;
}

/** One node for each service, with the worst health of its handlers. */
function folded(map: FlowMap): { nodes: MapNode[]; edges: MapEdge[] } {
  const nodes = new Map<string, MapNode>();
  const place = new Map<string, string>();
  for (const node of map.nodes) {
    if (node.service === null) {
      nodes.set(node.id, node);
      place.set(node.id, node.id);
      continue;
    }
    const id = `service:${node.service}`;
    place.set(node.id, id);
    const before = nodes.get(id);
    const worst = [before?.health, node.health].filter((health): health is Verdict => health !== undefined).sort((a, b) => b.severity - a.severity)[0];
    const lags = [before?.lag, node.lag].filter((lag): lag is number => typeof lag === "number");
    const ages = [before?.age, node.age].filter((age): age is number => typeof age === "number");
    nodes.set(id, {
      id,
      kind: "handler",
      label: node.service,
      service: node.service,
      ...(worst ? { health: worst } : {}),
      dead: (before?.dead ?? 0) + (node.dead ?? 0),
      lag: lags.length ? lags.reduce((sum, lag) => sum + lag, 0) : null,
      age: ages.length ? Math.max(...ages) : null,
    });
  }
  const edges = new Map<string, MapEdge>();
  for (const edge of map.edges) {
    const [from, to] = [place.get(edge.from), place.get(edge.to)];
    if (from === undefined || to === undefined) continue;
    const before = edges.get(edgeId(from, to));
    edges.set(
      edgeId(from, to),
      before
        ? {
            ...before,
            declared: before.declared && edge.declared,
            observed: before.observed || edge.observed,
            rate: before.rate + edge.rate,
            failed: before.failed + edge.failed,
            duplicates: before.duplicates + edge.duplicates,
            worked: before.worked + edge.worked,
            waited: before.waited + edge.waited,
          }
        : { ...edge, from, to },
    );
  }
  return { nodes: [...nodes.values()], edges: [...edges.values()] };
}

/** Where a node of the finer map is on the coarser one. */
export function placeOf(id: string, map: FlowMap, level: Level): string {
  if (level === "handlers") return id;
  const service = map.nodes.find((node) => node.id === id)?.service;
  return service ? `service:${service}` : id;
}

/** Everything within so many hops of a node. */
export function around(graph: Graph, id: string, hops: number): Set<string> {
  const found = new Set([id]);
  const walk = (forward: boolean) => {
    let edgeOf: string[] = [id];
    const seen = new Set([id]);
    for (let step = 0; step < hops && edgeOf.length; step++) {
      const next: string[] = [];
      for (const edge of graph.edges) {
        const [near, far] = forward ? [edge.from, edge.to] : [edge.to, edge.from];
        if (edgeOf.includes(near) && !seen.has(far)) {
          seen.add(far);
          found.add(far);
          next.push(far);
        }
      }
      edgeOf = next;
    }
  };
  walk(true);
  walk(false);
  return found;
}

export type EdgeLook = "live" | "silent" | "undeclared" | "failing";

/** From this share of failed attempts on, an edge is red as a whole; below it has a mark only. */
const FAILING = 0.05;

export function lookOf(edge: MapEdge, window: number): EdgeLook {
  if (edge.failed > 0 && edge.failed >= FAILING * (edge.failed + edge.rate * window)) return "failing";
  if (edge.observed && !edge.declared) return "undeclared";
  return edge.observed ? "live" : "silent";
}

/** Five steps, by the logarithm of the rate. */
export const WIDTHS: [least: number, width: number][] = [
  [1000, 5],
  [100, 4],
  [10, 3],
  [1, 2.25],
  [0, 1.5],
];

export function widthOf(edge: MapEdge): number {
  return edge.observed ? (WIDTHS.find((step) => edge.rate >= step[0])?.[1] ?? 1.5) : 1;
}

/** Seconds on average of one delivery, waiting and working; null when none was seen. */
export function meanOf(edge: MapEdge, window: number): { waited: number; worked: number } | null {
  const number = edge.rate * window;
  return number >= 0.5 ? { waited: edge.waited / number, worked: edge.worked / number } : null;
}
