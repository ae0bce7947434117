import { describe, expect, it } from "vitest";

import type { Group } from "../../src/base/api";
import { MOST, noteGroups, pastOf } from "../../src/base/system";

const group = (name: string, lag: number | null, age: number | null = null): Group => ({ name, lag, age, handled_per_second: 2.5, dead: 0 }) as Group;

describe("how groups were", () => {
  it("is remembered, each from when it came, with what is not known as such", () => {
    noteGroups([group("a", 3, 1.5)], 100);
    noteGroups([group("a", 0, 7), group("b", null)], 102);

    expect(pastOf("a")).toEqual({ at: [100, 102], lag: [3, 0], age: [1.5, 0], handled: [2.5, 2.5] });
    expect(pastOf("b")).toEqual({ at: [102], lag: [null], age: [null], handled: [2.5] });
    expect(pastOf("c")).toBeUndefined();
  });

  it("begins anew for a group that was gone", () => {
    noteGroups([group("b", 1)], 104);
    noteGroups([group("a", 2), group("b", 1)], 106);

    expect(pastOf("a")?.at).toEqual([106]);
    expect(pastOf("b")?.at).toEqual([102, 104, 106]);
  });

  it("keeps the newest, oldest first", () => {
    for (let n = 1; n <= MOST + 10; n++) noteGroups([group("a", n)], 1000 + n);

    const past = pastOf("a");
    expect(past?.at).toHaveLength(MOST);
    expect([past?.at[0], past?.lag[0]]).toEqual([1011, 11]);
    expect([past?.at.at(-1), past?.lag.at(-1)]).toEqual([1000 + MOST + 10, MOST + 10]);
    expect(pastOf("a", 2)?.lag).toEqual([MOST + 9, MOST + 10]);
  });
});
