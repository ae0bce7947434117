/** Where everything stands: layers in the direction of flow; the same graph always gives the same picture. */

import { Graph as Dagre, layout as arrange, type OrderConstraint } from "@dagrejs/dagre";

export type Direction = "LR" | "TB";

export interface Point {
  x: number;
  y: number;
}

export interface Box extends Point {
  width: number;
  height: number;
}

export interface LayoutNode {
  id: string;
  width: number;
  height: number;
  service: string | null;
}

export interface LayoutRequest {
  nodes: LayoutNode[];
  edges: { id: string; from: string; to: string }[];
  direction: Direction;
  /** Layers of an earlier layout, each in its order: what is still there keeps it. */
  before: string[][];
}

export interface Frame extends Box {
  id: string;
  service: string;
}

export interface Layout {
  /** Centres. */
  nodes: Record<string, Box>;
  frames: Frame[];
  /** Along each edge, ready for Bézier curves: a point, then two controls and a point for each piece. */
  edges: Record<string, Point[]>;
  layers: string[][];
  width: number;
  height: number;
}

const PAD = { side: 12, top: 26, bottom: 12 };
const MARGIN = 12;
/** Members of a service that are farther apart than so many layers get frames of their own. */
const APART = 2;

export function layOut(given: LayoutRequest): Layout {
  const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);
  const request = { ...given, nodes: [...given.nodes].sort(byId), edges: [...given.edges].sort(byId) };
  const { direction } = request;
  const flat = run(request, new Map(), []);
  const layers = layersOf(flat, request, direction);
  const clusters = clustersOf(request.nodes, layers);
  const constraints = keep(request.before, layers);
  let placed = flat;
  for (const order of constraints.length ? [constraints, []] : [[]]) {
    try {
      placed = run(request, clusters, order);
      break;
    } catch {
      // Some orders and frames contradict each other; a picture without them is better than none.
    }
  }
  const nodes = boxesOf(placed, request.nodes);
  const frames = framesOf(clusters, nodes);
  return fitted({ nodes, frames, edges: curves(placed, request, nodes), layers: layersOf(placed, request, direction), width: 0, height: 0 });
}

function run(request: LayoutRequest, parents: ReadonlyMap<string, string>, constraints: OrderConstraint[]): Dagre {
  const graph = new Dagre({ compound: true });
  const across = request.direction === "LR" ? 40 : 36;
  graph.setGraph({ rankdir: request.direction, nodesep: across, edgesep: 18, ranksep: request.direction === "LR" ? 46 : 44, marginx: 0, marginy: 0, ranker: "network-simplex" });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const name of [...new Set(parents.values())].sort()) graph.setNode(name, { width: 0, height: 0 });
  for (const node of request.nodes) {
    graph.setNode(node.id, { width: node.width, height: node.height });
    const parent = parents.get(node.id);
    if (parent !== undefined) graph.setParent(node.id, parent);
  }
  for (const edge of request.edges) graph.setEdge(edge.from, edge.to, { weight: 1, minlen: 1 });
  arrange(graph, constraints.length ? { constraints } : {});
  return graph;
}

/** Nodes by layer, each layer in its order. */
function layersOf(graph: Dagre, request: LayoutRequest, direction: Direction): string[][] {
  const [main, cross] = direction === "LR" ? (["x", "y"] as const) : (["y", "x"] as const);
  const byPlace = new Map<number, string[]>();
  const at = (id: string) => graph.node(id) as Box;
  for (const node of request.nodes) {
    const place = Math.round(at(node.id)[main]);
    byPlace.set(place, [...(byPlace.get(place) ?? []), node.id]);
  }
  return [...byPlace.entries()].sort((a, b) => a[0] - b[0]).map(([, ids]) => ids.sort((a, b) => at(a)[cross] - at(b)[cross] || (a < b ? -1 : 1)));
}

/** The frame of each node: members of one service that are near each other share one. */
function clustersOf(nodes: LayoutNode[], layers: string[][]): Map<string, string> {
  const layerOf = new Map(layers.flatMap((ids, index) => ids.map((id) => [id, index] as const)));
  const members = new Map<string, string[]>();
  for (const node of nodes) if (node.service !== null) members.set(node.service, [...(members.get(node.service) ?? []), node.id]);
  const found = new Map<string, string>();
  for (const [service, ids] of [...members].sort((a, b) => (a[0] < b[0] ? -1 : 1))) {
    const sorted = ids.sort((a, b) => (layerOf.get(a) ?? 0) - (layerOf.get(b) ?? 0) || (a < b ? -1 : 1));
    let number = 0;
    let last = layerOf.get(sorted[0] ?? "") ?? 0;
    for (const id of sorted) {
      const layer = layerOf.get(id) ?? 0;
      if (layer - last > APART) number++;
      last = layer;
      found.set(id, `frame:${service}:${number}`);
    }
  }
  return found;
}

/** Neighbours of an earlier picture that are still in one layer stay in their order. */
function keep(before: string[][], layers: string[][]): OrderConstraint[] {
  const now = new Map(layers.flatMap((ids, index) => ids.map((id) => [id, index] as const)));
  const found: OrderConstraint[] = [];
  for (const ids of before) {
    const there = ids.filter((id) => now.has(id));
    for (let at = 1; at < there.length; at++) {
      const [left, right] = [there[at - 1] as string, there[at] as string];
      if (now.get(left) === now.get(right)) found.push({ left, right });
    }
  }
  return found;
}

function boxesOf(graph: Dagre, nodes: LayoutNode[]): Record<string, Box> {
  return Object.fromEntries(
    nodes.map((node) => {
      const { x, y } = graph.node(node.id) as Box;
      return [node.id, { x: Math.round(x), y: Math.round(y), width: node.width, height: node.height }];
    }),
  );
}

function framesOf(clusters: Map<string, string>, nodes: Record<string, Box>): Frame[] {
  const members = new Map<string, Box[]>();
  for (const [id, frame] of clusters) members.set(frame, [...(members.get(frame) ?? []), nodes[id] as Box]);
  return [...members].map(([id, boxes]) => {
    const left = Math.min(...boxes.map((box) => box.x - box.width / 2)) - PAD.side;
    const right = Math.max(...boxes.map((box) => box.x + box.width / 2)) + PAD.side;
    const top = Math.min(...boxes.map((box) => box.y - box.height / 2)) - PAD.top;
    const bottom = Math.max(...boxes.map((box) => box.y + box.height / 2)) + PAD.bottom;
    return { id, service: id.slice("frame:".length, id.lastIndexOf(":")), x: left, y: top, width: right - left, height: bottom - top };
  });
}

/** Edges leave and enter at the sides that face the flow, each at a place of its own, and swing through the gaps between layers. */
function curves(graph: Dagre, request: LayoutRequest, nodes: Record<string, Box>): Record<string, Point[]> {
  const lr = request.direction === "LR";
  const cross = (point: Point) => (lr ? point.y : point.x);
  const main = (point: Point) => (lr ? point.x : point.y);
  const columns = columnsOf(request, nodes, main, lr);
  const inner = new Map<string, Point[]>();
  for (const edge of request.edges) {
    const points = (graph.edge(edge.from, edge.to) as { points?: Point[] }).points ?? [];
    inner.set(edge.id, through(points.slice(1, -1), columns, lr));
  }
  const port = (id: string, outwards: boolean) => {
    const box = nodes[id] as Box;
    const mine = request.edges.filter((edge) => (outwards ? edge.from : edge.to) === id);
    const towards = (edge: { id: string; from: string; to: string }) => {
      const points = inner.get(edge.id) ?? [];
      return (outwards ? points[0] : points.at(-1)) ?? (nodes[outwards ? edge.to : edge.from] as Box);
    };
    const forward = mine.filter((edge) => main(towards(edge)) > main(box) === outwards || main(towards(edge)) === main(box));
    const places = new Map<string, Point>();
    for (const [group, side] of [
      [forward, outwards ? 1 : -1],
      [mine.filter((edge) => !forward.includes(edge)), outwards ? -1 : 1],
    ] as const) {
      const sorted = [...group].sort((a, b) => cross(towards(a)) - cross(towards(b)) || (a.id < b.id ? -1 : 1));
      const room = (lr ? box.height : box.width) * 0.5;
      sorted.forEach((edge, index) => {
        const shift = sorted.length > 1 ? (index / (sorted.length - 1) - 0.5) * Math.min(room, 10 * (sorted.length - 1)) : 0;
        places.set(edge.id, lr ? { x: box.x + (side * box.width) / 2, y: box.y + shift } : { x: box.x + shift, y: box.y + (side * box.height) / 2 });
      });
    }
    return places;
  };
  const out = new Map(request.nodes.map((node) => [node.id, port(node.id, true)]));
  const into = new Map(request.nodes.map((node) => [node.id, port(node.id, false)]));
  return Object.fromEntries(
    request.edges.map((edge) => {
      const start = out.get(edge.from)?.get(edge.id) as Point;
      const end = into.get(edge.to)?.get(edge.id) as Point;
      const stops = [start, ...(inner.get(edge.id) ?? []), end];
      const points: Point[] = [start];
      for (let at = 1; at < stops.length; at++) {
        const [a, b] = [stops[at - 1] as Point, stops[at] as Point];
        const half = (main(b) - main(a)) / 2;
        points.push(lr ? { x: a.x + half, y: a.y } : { x: a.x, y: a.y + half }, lr ? { x: b.x - half, y: b.y } : { x: b.x, y: b.y - half }, b);
      }
      return [edge.id, points];
    }),
  );
}

interface Column {
  start: number;
  end: number;
}

/** How wide each layer is, in the direction of flow. */
function columnsOf(request: LayoutRequest, nodes: Record<string, Box>, main: (point: Point) => number, lr: boolean): Column[] {
  const half = new Map<number, number>();
  for (const node of request.nodes) {
    const box = nodes[node.id] as Box;
    half.set(main(box), Math.max(half.get(main(box)) ?? 0, (lr ? box.width : box.height) / 2));
  }
  return [...half].map(([middle, size]) => ({ start: middle - size, end: middle + size }));
}

/** An edge goes straight through each layer that it passes, and turns in the gaps between them. */
function through(points: Point[], columns: Column[], lr: boolean): Point[] {
  const found: Point[] = [];
  for (const [index, point] of points.entries()) {
    const at = lr ? point.x : point.y;
    const column = columns.find(({ start, end }) => at > start && at < end);
    if (!column) continue;
    const near = points[index - 1] ?? points[index + 1];
    const forward = !near || (points[index - 1] ? at >= (lr ? near.x : near.y) : at <= (lr ? near.x : near.y));
    for (const place of forward ? [column.start, column.end] : [column.end, column.start]) found.push(lr ? { x: place, y: point.y } : { x: point.x, y: place });
  }
  return found;
}

/** Moved so that everything is inside, with a margin. */
function fitted(layout: Layout): Layout {
  const xs: number[] = [];
  const ys: number[] = [];
  for (const box of Object.values(layout.nodes)) {
    xs.push(box.x - box.width / 2, box.x + box.width / 2);
    ys.push(box.y - box.height / 2, box.y + box.height / 2);
  }
  for (const frame of layout.frames) {
    xs.push(frame.x, frame.x + frame.width);
    ys.push(frame.y, frame.y + frame.height);
  }
  for (const points of Object.values(layout.edges)) {
    for (const point of points) {
      xs.push(point.x);
      ys.push(point.y);
    }
  }
  if (!xs.length) return layout;
  const least = (values: number[]) => values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = (values: number[]) => values.reduce((a, b) => Math.max(a, b), -Infinity);
  const [left, top] = [least(xs) - MARGIN, least(ys) - MARGIN];
  const move = <T extends Point>(point: T): T => ({ ...point, x: Math.round((point.x - left) * 10) / 10, y: Math.round((point.y - top) * 10) / 10 });
  return {
    ...layout,
    nodes: Object.fromEntries(Object.entries(layout.nodes).map(([id, box]) => [id, move(box)])),
    frames: layout.frames.map(move),
    edges: Object.fromEntries(Object.entries(layout.edges).map(([id, points]) => [id, points.map(move)])),
    width: most(xs) - left + MARGIN,
    height: most(ys) - top + MARGIN,
  };
}

/** The curve for SVG. */
export function pathOf(points: Point[]): string {
  const [first, ...rest] = points;
  if (!first) return "";
  let path = `M${first.x},${first.y}`;
  for (let at = 0; at + 2 < rest.length; at += 3) {
    const [a, b, c] = [rest[at] as Point, rest[at + 1] as Point, rest[at + 2] as Point];
    path += ` C${a.x},${a.y} ${b.x},${b.y} ${c.x},${c.y}`;
  }
  return path;
}

export interface Track {
  /** x, y, x, y, … */
  points: Float32Array;
  /** How far each point is from the start. */
  along: Float32Array;
  length: number;
}

const PIECES = 12;

/** The curve as a line of short pieces, on which a place can be found quickly. */
export function trackOf(points: Point[]): Track {
  const flat: number[] = [points[0]?.x ?? 0, points[0]?.y ?? 0];
  for (let at = 1; at + 2 < points.length; at += 3) {
    const [p, a, b, q] = [points[at - 1] as Point, points[at] as Point, points[at + 1] as Point, points[at + 2] as Point];
    for (let step = 1; step <= PIECES; step++) {
      const t = step / PIECES;
      const s = 1 - t;
      flat.push(
        s * s * s * p.x + 3 * s * s * t * a.x + 3 * s * t * t * b.x + t * t * t * q.x,
        s * s * s * p.y + 3 * s * s * t * a.y + 3 * s * t * t * b.y + t * t * t * q.y,
      );
    }
  }
  const along = new Float32Array(flat.length / 2);
  for (let at = 1; at < along.length; at++) {
    const dx = (flat[at * 2] ?? 0) - (flat[at * 2 - 2] ?? 0);
    const dy = (flat[at * 2 + 1] ?? 0) - (flat[at * 2 - 1] ?? 0);
    along[at] = (along[at - 1] ?? 0) + Math.hypot(dx, dy);
  }
  return { points: Float32Array.from(flat), along, length: along.at(-1) ?? 0 };
}

/** The place at a part of the way, from 0 to 1. */
export function placeOn(track: Track, part: number, into: Point): Point {
  const { points, along } = track;
  const goal = Math.min(1, Math.max(0, part)) * track.length;
  let low = 0;
  let high = along.length - 1;
  while (low + 1 < high) {
    const middle = (low + high) >> 1;
    if ((along[middle] ?? 0) <= goal) low = middle;
    else high = middle;
  }
  const [start, end] = [along[low] ?? 0, along[high] ?? 0];
  const rest = end > start ? (goal - start) / (end - start) : 0;
  const [ax, ay, bx, by] = [points[low * 2] ?? 0, points[low * 2 + 1] ?? 0, points[high * 2] ?? 0, points[high * 2 + 1] ?? 0];
  into.x = ax + (bx - ax) * rest;
  into.y = ay + (by - ay) * rest;
  return into;
}
