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
  private readonly seen: [at: number, count: number][] = [];

  add(at: number, count: number): void {
    this.seen.push([at, count]);
    this.drop(at);
  }

  perSecond(at: number): number {
    this.drop(at);
    return this.seen.reduce((sum, [, count]) => sum + count, 0);
  }

  private drop(at: number): void {
    while (this.seen.length && (this.seen[0] as [number, number])[0] < at - 1000) this.seen.shift();
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

  draw(context: CanvasRenderingContext2D, now: number, colours: Colours, correlation: string | null): void {
    for (const one of this.flying) {
      const passed = now - one.start;
      if (passed < 0) continue;
      const late = Math.max(0, passed - one.lasts) / FADE;
      const chosen = correlation !== null && one.dot.correlation === correlation;
      context.globalAlpha = (1 - Math.min(1, late)) * (correlation !== null && !chosen ? 0.15 : 1);
      const size = chosen ? 6 : 4;
      context.beginPath();
      switch (one.dot.kind) {
        case "retry":
        case "parked":
          context.fillStyle = colours.error;
          context.moveTo(one.x, one.y - size - 1.5);
          context.lineTo(one.x + size + 1.5, one.y);
          context.lineTo(one.x, one.y + size + 1.5);
          context.lineTo(one.x - size - 1.5, one.y);
          context.closePath();
          context.fill();
          break;
        case "duplicate":
          context.strokeStyle = colours.neutral;
          context.fillStyle = colours.surface;
          context.lineWidth = 2;
          context.arc(one.x, one.y, size, 0, 7);
          context.fill();
          context.stroke();
          break;
        default:
          context.fillStyle = colours.accent;
          context.strokeStyle = colours.surface;
          context.lineWidth = 1.5;
          context.arc(one.x, one.y, size, 0, 7);
          context.fill();
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
