import { useMemo } from "preact/hooks";

import type { FlowMap } from "../base/api";
import { useQuery } from "../base/query";
import { graphOf, TOO_MANY } from "./model";
import { Definitions, Picture } from "./picture";
import { useLayout } from "./use_layout";
import { Skeleton } from "../ui/states";

/** The map as a picture on another page; it leads to the map. */
export function MiniMap() {
  const found = useQuery<FlowMap>("/api/map?window=60", 4);
  const graph = useMemo(() => (found.data ? graphOf(found.data, found.data.nodes.length > TOO_MANY ? "services" : "handlers") : undefined), [found.data]);
  const { layout } = useLayout(graph, "LR");
  if (found.data && !found.data.nodes.length) return <p class="dim" style={{ padding: "12px 16px" }}>Nothing is declared, and nothing flows.</p>;
  if (!graph || !layout) return <Skeleton lines={5} />;
  const ratio = layout.width / Math.max(1, layout.height);
  const detail = layout.width > 1400 ? "detail-middle" : "detail-near";
  return (
    <a href="/map" class="mini-map" aria-label="The flow map, small: open it">
      <svg class={`drawing ${detail}`} viewBox={`0 0 ${layout.width} ${layout.height}`} style={{ aspectRatio: String(Math.min(4, Math.max(1.2, ratio))) }} aria-hidden="true" inert>
        <Definitions />
        <Picture graph={graph} layout={layout} selected={null} lit={null} walk={null} played={null} />
      </svg>
    </a>
  );
}
