/** Rows that are selected, by their keys; what is gone from the list is not selected any more. */

import { useState } from "preact/hooks";

export interface Selection {
  has: (key: string) => boolean;
  toggle: (key: string) => void;
  all: (on: boolean) => void;
  count: number;
}

export function useSelection(keys: string[]): Selection {
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const there = keys.filter((key) => chosen.has(key));
  return {
    has: (key) => chosen.has(key),
    toggle: (key) => {
      const next = new Set(there);
      if (!next.delete(key)) next.add(key);
      setChosen(next);
    },
    all: (on) => setChosen(new Set(on ? keys : [])),
    count: there.length,
  };
}
