import { describe, expect, it } from "vitest";

import type { Dot, Pulse } from "../../src/base/api";
import { Dots, paceOf, TOO_FAST } from "../../src/map/dots";
import { trackOf } from "../../src/map/layout";

const TRACKS = new Map([
  [
    "a→b",
    trackOf([
      { x: 0, y: 0 },
      { x: 30, y: 0 },
      { x: 60, y: 0 },
      { x: 90, y: 0 },
    ]),
  ],
]);
const idOf = (dot: Dot) => `${dot.from}→${dot.to}`;
const dot = (more: Partial<Dot> = {}): Dot => ({ from: "a", to: "b", kind: "handled", id: "1", key: null, correlation: "c", took: 0, ...more });
const pulse = (dots: Dot[], missed = 0): Pulse => ({ at: 0, dots, missed });

function started(dots: Dot[], missed = 0): Dots {
  const flying = new Dots();
  flying.follow(TRACKS, idOf);
  flying.take(pulse(dots, missed), idOf, 0, false);
  return flying;
}

describe("dots", () => {
  it("go along the edge of their event, and end", () => {
    const flying = started([dot()]);

    flying.step(250);

    expect(flying.near({ x: 45, y: 0 }, 5)).toMatchObject({ id: "1" });
    expect(flying.step(5000)).toBe(false);
    expect(flying.count).toBe(0);
  });

  it("are slow when the delivery was slow, within bounds", () => {
    expect(paceOf(0)).toBeLessThan(paceOf(0.1));
    expect(paceOf(0.1)).toBeLessThan(paceOf(5));
    expect(paceOf(1e9)).toBe(paceOf(1e12));
  });

  it("bounce off the handler's border when a duplicate was suppressed", () => {
    const flying = started([dot({ kind: "duplicate" })]);

    flying.step(510);
    const atBorder = flying.near({ x: 90, y: 0 }, 3);
    flying.step(700);

    expect(atBorder).toBeDefined();
    expect(flying.near({ x: 90, y: 0 }, 3)).toBeUndefined();
  });

  it("are not made for edges that are not on the map", () => {
    expect(started([dot({ to: "elsewhere" })]).count).toBe(0);
  });

  it("are left out when there are too many to mean anything, and are counted all the same", () => {
    const flying = started([dot()], TOO_FAST);

    expect(flying.count).toBe(0);
    expect(flying.meter.perSecond(0)).toBe(TOO_FAST + 1);
    expect(flying.sampled).toBeLessThan(0.01);
  });

  it("say of how many each is one", () => {
    expect(started([dot(), dot()], 6).sampled).toBe(0.25);
  });

  it("stay a bounded number however long it goes on", () => {
    const flying = new Dots();
    flying.follow(TRACKS, idOf);

    for (let now = 0; now < 60_000; now += 100) {
      flying.take(pulse(Array.from({ length: 30 }, () => dot({ took: 100 }))), idOf, now, false);
      flying.step(now);
    }

    expect(flying.count).toBeLessThanOrEqual(1200);
  });

  it("do not start while nothing is to move", () => {
    const flying = new Dots();
    flying.follow(TRACKS, idOf);

    flying.take(pulse([dot()]), idOf, 0, true);

    expect(flying.count).toBe(0);
  });

  it("go on along the edges of a new layout", () => {
    const flying = started([dot()]);

    flying.follow(new Map(), idOf);

    expect(flying.count).toBe(0);
  });
});
