import { useEffect, useRef } from "preact/hooks";

import type { FlowMap } from "../base/api";
import { useQuery } from "../base/query";
import { Skeleton } from "../ui/states";
import { DotLayer } from "./dot_layer";
import { Dots } from "./dots";
import { TOO_MANY } from "./model";
import { Definitions, Picture } from "./picture";
import { useGraph, useLayout } from "./use_layout";
import type { View } from "./viewport";

/** The map as a picture on another page, with its dots; it leads to the map. */
export function MiniMap() {
  const found = useQuery<FlowMap>("/api/map?window=60", 3);
  const level = (found.data?.nodes.length ?? 0) > TOO_MANY ? "services" : "handlers";
  const graph = useGraph(found.data, level, false);
  const { layout } = useLayout(graph, "LR");
  const place = useRef<HTMLDivElement>(null);
  const view = useRef<View>({ x: 0, y: 0, scale: 1 });
  const paint = useRef<() => void>(() => undefined);
  const dots = useRef(new Dots());

  useEffect(() => {
    const element = place.current;
    if (!element || !layout) return undefined;
    const measure = () => {
      // As the browser fits the drawing into its box: whole, in the middle.
      const scale = Math.min(element.clientWidth / layout.width, element.clientHeight / layout.height);
      view.current = { scale, x: (element.clientWidth - layout.width * scale) / 2, y: (element.clientHeight - layout.height * scale) / 2 };
      paint.current();
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, [layout]);

  if (found.data && !found.data.nodes.length) {
    return (
      <p class="dim" style={{ padding: "12px 16px" }}>
        Nothing is declared, and nothing flows.
      </p>
    );
  }
  if (!found.data || !graph || !layout) return <Skeleton lines={5} />;
  const ratio = Math.min(5, Math.max(1.4, layout.width / layout.height));
  return (
    <div class="mini-map" ref={place} style={{ aspectRatio: String(ratio), maxWidth: `${layout.width * 1.15}px` }}>
      <svg class="drawing detail-near" viewBox={`0 0 ${layout.width} ${layout.height}`} role="presentation" aria-hidden="true" inert>
        <Definitions />
        <Picture graph={graph} layout={layout} selected={null} lit={null} walk={null} played={null} />
      </svg>
      <DotLayer map={found.data} level={level} layout={layout} dots={dots.current} view={view} paint={paint} correlation={null} />
      <a href="/map" aria-label="The flow map: open it" />
    </div>
  );
}
