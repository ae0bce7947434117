/** Real events on their way: one dot each, on a canvas above the map. Nothing moves that did not happen. */

import type { Dot, Pulse } from "../base/api";
import { placeOn, type Point, type Track } from "./layout";

/** At so many events a second dots say nothing any more: edges show rates instead. */
export const TOO_FAST = 400;
/** Dots that are on their way at once. */
const MOST = 1200;

const LEAST = 500;
const LONGEST = 3200;
const FADE = 220;

/** How long a dot takes, in milliseconds: slow deliveries are slow dots. */
export function paceOf(took: number): number {
  return Math.min(LONGEST, LEAST + 350 * Math.log10(1 + Math.max(0, took) * 1000));
}

/** Dots that are neither failed attempts nor duplicates are plain. */
const SHAPES: Partial<Record<Dot["kind"], string>> = { retry: "diamond", parked: "diamond", duplicate: "ring" };
/** A dot fades in so many steps. */
const FADES = 4;

function diamond(context: CanvasRenderingContext2D, x: number, y: number, size: number): void {
  context.moveTo(x, y - size);
  context.lineTo(x + size, y);
  context.lineTo(x, y + size);
  context.lineTo(x - size, y);
  context.closePath();
}

interface Flying {
  dot: Dot;
  track: Track;
  start: number;
  lasts: number;
  x: number;
  y: number;
}

export interface Colours {
  accent: string;
  error: string;
  neutral: string;
  surface: string;
}

/** Counts what came in the last second. */
export class Meter {
  private readonly times: number[] = [];
  private readonly counts: number[] = [];
  private sum = 0;

  add(at: number, count: number): void {
    this.times.push(at);
    this.counts.push(count);
    this.sum += count;
    this.drop(at);
  }

  perSecond(at: number): number {
    this.drop(at);
    return this.sum;
  }

  private drop(at: number): void {
    while ((this.times[0] ?? at) < at - 1000) {
      this.times.shift();
      this.sum -= this.counts.shift() ?? 0;
    }
  }
}

/** What flies, where it is, and how it is drawn. Time is given from outside, in milliseconds. */
export class Dots {
  readonly meter = new Meter();
  /** Share of the last second's events that were told one by one; 1 when all were. */
  sampled = 1;
  private flying: Flying[] = [];
  private readonly told = new Meter();
  private tracks: ReadonlyMap<string, Track> = new Map();

  /** After a new layout: what is on its way goes on along the new edges. */
  follow(tracks: ReadonlyMap<string, Track>, idOf: (dot: Dot) => string): void {
    this.tracks = tracks;
    this.flying = this.flying.flatMap((one) => {
      const track = tracks.get(idOf(one.dot));
      return track ? [{ ...one, track }] : [];
    });
  }

  /** Let the dots of a pulse start; spread over a short time, as they came. */
  take(pulse: Pulse, idOf: (dot: Dot) => string, now: number, still: boolean): void {
    const all = pulse.dots.length + pulse.missed;
    this.meter.add(now, all);
    this.told.add(now, pulse.dots.length);
    const rate = this.meter.perSecond(now);
    this.sampled = rate ? this.told.perSecond(now) / rate : 1;
    if (still || rate > TOO_FAST) return;
    const spread = Math.min(250, pulse.dots.length * 4);
    pulse.dots.forEach((dot, index) => {
      const track = this.tracks.get(idOf(dot));
      if (!track || this.flying.length >= MOST) return;
      this.flying.push({ dot, track, start: now + (index / pulse.dots.length) * spread, lasts: paceOf(dot.took), x: 0, y: 0 });
    });
  }

  clear(): void {
    this.flying = [];
  }

  get count(): number {
    return this.flying.length;
  }

  /** Move everything to where it is now; false when nothing is on its way any more. */
  step(now: number): boolean {
    let kept = 0;
    for (const one of this.flying) {
      const passed = now - one.start;
      if (passed > one.lasts + FADE) continue;
      const part = passed / one.lasts;
      // What was suppressed as a duplicate bounces off the border of the handler.
      placeOn(one.track, one.dot.kind === "duplicate" && part > 1 ? 1 - (part - 1) * 0.6 : part, one);
      this.flying[kept++] = one;
    }
    this.flying.length = kept;
    return kept > 0;
  }

  /** All dots of one look are one path: a call for each would take most of a frame. */
  draw(context: CanvasRenderingContext2D, now: number, colours: Colours, correlation: string | null): void {
    const batches = new Map<string, Flying[]>();
    for (const one of this.flying) {
      const passed = now - one.start;
      if (passed < 0) continue;
      const late = Math.min(1, Math.max(0, passed - one.lasts) / FADE);
      const chosen = correlation !== null && one.dot.correlation === correlation;
      const alpha = Math.ceil((1 - late) * FADES) * (correlation !== null && !chosen ? 0.15 : 1);
      if (!alpha) continue;
      const key = `${SHAPES[one.dot.kind] ?? "dot"} ${alpha / FADES} ${chosen ? 6 : 4}`;
      const batch = batches.get(key);
      if (batch) batch.push(one);
      else batches.set(key, [one]);
    }
    for (const [key, batch] of batches) {
      const [shape, alpha, size] = key.split(" ") as ["dot" | "diamond" | "ring", string, string];
      context.globalAlpha = Number(alpha);
      context.beginPath();
      for (const { x, y } of batch) {
        if (shape === "diamond") diamond(context, x, y, Number(size) + 1.5);
        else {
          context.moveTo(x + Number(size), y);
          context.arc(x, y, Number(size), 0, 7);
        }
      }
      context.fillStyle = shape === "dot" ? colours.accent : shape === "ring" ? colours.surface : colours.error;
      context.fill();
      if (shape !== "diamond") {
        context.strokeStyle = shape === "ring" ? colours.neutral : colours.surface;
        context.lineWidth = shape === "ring" ? 2 : 1.5;
        context.stroke();
      }
    }
    context.globalAlpha = 1;
  }

  /** The dot nearest to a point of the map, if one is near. */
  near(point: Point, distance: number): Dot | undefined {
    let best: Flying | undefined;
    let least = distance;
    for (const one of this.flying) {
      const away = Math.hypot(one.x - point.x, one.y - point.y);
      if (away < least) [best, least] = [one, away];
    }
    return best?.dot;
  }
}
