/** A graph and its layout, which is made beside the page, and only when the graph has another shape. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { FlowMap } from "../base/api";
import type { Direction, Layout } from "./layout";
import { type Graph, graphOf, type Level } from "./model";

let worker: Worker | undefined;
let number = 0;
const waiting = new Map<number, (answer: { layout?: Layout; error?: string }) => void>();

function ask(graph: Graph, direction: Direction, before: string[][]): Promise<Layout> {
  if (!worker) {
    worker = new Worker(new URL("./layout.worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = (event: MessageEvent<{ number: number; layout?: Layout; error?: string }>) => {
      waiting.get(event.data.number)?.(event.data);
      waiting.delete(event.data.number);
    };
    worker.onerror = (event) => {
      for (const answer of waiting.values()) answer({ error: event.message || "the layout could not be loaded" });
      waiting.clear();
      worker = undefined;
    };
  }
  const request = {
    nodes: graph.nodes.map(({ id, width, height, service }) => ({ id, width, height, service })),
    edges: graph.edges.map(({ id, from, to }) => ({ id, from, to })),
    direction,
    before,
  };
  const mine = ++number;
  return new Promise((resolve, reject) => {
    waiting.set(mine, ({ layout, error }) => (layout ? resolve(layout) : reject(new Error(error))));
    worker?.postMessage({ number: mine, request });
  });
}

/** The graph of a map, with what is as it was in the one before. */
export function useGraph(map: FlowMap | undefined, level: Level, past: boolean): Graph | undefined {
  const last = useRef<Graph | undefined>(undefined);
  return useMemo(() => (last.current = map && graphOf(map, level, past, last.current)), [map, level, past]);
}

export interface LaidOut {
  layout: Layout | undefined;
  error: string;
}

export function useLayout(graph: Graph | undefined, direction: Direction): LaidOut {
  const [found, setFound] = useState<LaidOut>({ layout: undefined, error: "" });
  const last = useRef<{ direction: Direction; layers: string[][] }>({ direction, layers: [] });
  const shape = graph?.shape ?? "";
  useEffect(() => {
    if (!graph?.nodes.length) return undefined;
    let over = false;
    const before = last.current.direction === direction ? last.current.layers : [];
    ask(graph, direction, before).then(
      (layout) => {
        if (over) return;
        last.current = { direction, layers: layout.layers };
        setFound({ layout, error: "" });
      },
      (error: unknown) => {
        if (!over) setFound((old) => ({ ...old, error: String(error) }));
      },
    );
    return () => {
      over = true;
    };
  }, [shape, direction]);
  return found;
}
