import { useEffect, useMemo, useRef } from "preact/hooks";

import type { Dot, FlowMap } from "../base/api";
import { onPulse } from "../base/live";
import { theme } from "../base/settings";
import type { Colours, Dots } from "./dots";
import { type Layout, type Track, trackOf } from "./layout";
import { edgeId, type Level, placeOf } from "./model";
import type { View } from "./viewport";

/** How fast events come, and how they are shown. */
export interface Pace {
  /** The system asks for little motion. */
  still: boolean;
  /** Which part of them is told one by one. */
  sampled: number;
  /** Events a second. */
  rate: number;
}

interface Props {
  map: FlowMap;
  level: Level;
  layout: Layout;
  dots: Dots;
  view: { current: View };
  /** Set to what draws the dots once more, after the view has moved. */
  paint: { current: () => void };
  correlation: string | null;
  still?: boolean;
  onPace?: (pace: Pace) => void;
}

/** The canvas above the map, on which real events are dots. */
export function DotLayer(props: Props) {
  const { layout, dots, view, paint } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const latest = useRef(props);
  latest.current = props;
  const tracks = useMemo(() => new Map<string, Track>(Object.entries(layout.edges).map(([id, points]) => [id, trackOf(points)])), [layout]);
  useEffect(() => {
    const idOf = (dot: Dot) => {
      const { map, level } = latest.current;
      return edgeId(placeOf(dot.from, map, level), placeOf(dot.to, map, level));
    };
    dots.follow(tracks, idOf);
    return animate(canvas.current as HTMLCanvasElement, dots, view, paint, idOf, latest);
  }, [tracks]);
  return <canvas ref={canvas} aria-hidden="true" />;
}

/** Draw while something flies, and rest when nothing does. Returns what ends it. */
function animate(
  canvas: HTMLCanvasElement,
  dots: Dots,
  view: { current: View },
  paint: { current: () => void },
  idOf: (dot: Dot) => string,
  latest: { current: Props },
): () => void {
  const element = canvas.parentElement as HTMLElement;
  const context = canvas.getContext("2d");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  // Kept, because to look them up has everything styled anew that has changed.
  let colours: Colours | null = null;
  let frame = 0;
  // Asked for in a frame, it would have everything laid out that has changed.
  let [width, height] = [element.clientWidth, element.clientHeight];
  const observer = new ResizeObserver(() => {
    [width, height] = [element.clientWidth, element.clientHeight];
    if (!frame) draw();
  });
  observer.observe(element);

  const draw = () => {
    if (!context) return;
    const ratio = Math.min(2, devicePixelRatio || 1);
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const { x, y, scale } = view.current;
    context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
    if (!dots.count) return;
    colours ??= coloursOf(element);
    dots.draw(context, performance.now(), colours, latest.current.correlation);
  };
  const step = () => {
    frame = 0;
    const now = performance.now();
    const busy = dots.step(now);
    draw();
    if (busy) frame = requestAnimationFrame(step);
  };
  paint.current = () => {
    if (!frame) draw();
  };
  const stop = onPulse((pulse) => {
    dots.take(pulse, idOf, performance.now(), calm.matches || document.hidden || latest.current.still === true);
    if (!frame && dots.count) frame = requestAnimationFrame(step);
  });
  const recolour = () => {
    colours = null;
  };
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", recolour);
  const stopTheme = theme.subscribe(recolour);
  const timer = setInterval(() => {
    const now = performance.now();
    latest.current.onPace?.({ still: calm.matches, sampled: dots.sampled, rate: dots.meter.perSecond(now) });
  }, 1000);
  return () => {
    stop();
    stopTheme();
    scheme.removeEventListener("change", recolour);
    observer.disconnect();
    clearInterval(timer);
    cancelAnimationFrame(frame);
    paint.current = () => undefined;
  };
}

function coloursOf(element: Element): Colours {
  const probe = document.createElement("i");
  element.append(probe);
  const of = (name: string) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = { accent: of("--accent"), error: of("--error"), neutral: of("--neutral"), surface: of("--surface") };
  probe.remove();
  return found;
}

