/** Who publishes and who handles each type, as the map knows it. */

import type { FlowMap } from "./api";
import { useQuery } from "./query";

export interface Uses {
  /** Groups that handle it. */
  groups: string[];
  /** Services and groups that publish it. */
  publishers: { kind: "app" | "group"; name: string; declared: boolean; observed: boolean }[];
}

const WINDOW = 900;

export function useTopology(): FlowMap | undefined {
  return useQuery<FlowMap>(`/api/map?window=${WINDOW}`, 15).data;
}

export function usesOf(map: FlowMap | undefined, type: string): Uses {
  const id = `event:${type}`;
  const edges = map?.edges ?? [];
  return {
    groups: edges.filter((edge) => edge.from === id).map((edge) => edge.to.slice("group:".length)),
    publishers: edges
      .filter((edge) => edge.to === id)
      .map((edge) => {
        const [kind = "", ...rest] = edge.from.split(":");
        return { kind: kind === "app" ? "app" : "group", name: rest.join(":"), declared: edge.declared, observed: edge.observed };
      }),
  };
}
