import { describe, expect, it } from "vitest";

import { detailOf, fit, toMap, zoom } from "../../src/map/viewport";

describe("the view", () => {
  it("has everything in sight, and in the middle", () => {
    const view = fit(1000, 500, { width: 2000, height: 500 });

    expect(view).toEqual({ scale: 0.5, x: 0, y: 125 });
  });

  it("keeps the place under the pointer when it comes nearer", () => {
    const before = fit(1000, 500, { width: 2000, height: 500 });
    const pointer = { x: 700, y: 300 };

    const after = zoom(before, 1.7, pointer);

    expect(toMap(after, pointer).x).toBeCloseTo(toMap(before, pointer).x);
    expect(toMap(after, pointer).y).toBeCloseTo(toMap(before, pointer).y);
  });

  it("goes no nearer and no farther than makes sense", () => {
    expect(zoom({ x: 0, y: 0, scale: 1 }, 1e9, { x: 0, y: 0 }).scale).toBe(2);
    expect(zoom({ x: 0, y: 0, scale: 1 }, 1e-9, { x: 0, y: 0 }).scale).toBe(0.08);
    expect(fit(0, 0, { width: 0, height: 0 }).scale).toBe(1);
  });

  it("shows less from far away", () => {
    expect([0.2, 0.5, 1].map(detailOf)).toEqual(["far", "middle", "near"]);
  });
});
