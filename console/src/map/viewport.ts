/** What part of the map is seen: moved with the pointer, the wheel, two fingers, and keys. */

import type { Point } from "./layout";

export interface View {
  x: number;
  y: number;
  scale: number;
}

export const NEAREST = 2;
export const FARTHEST = 0.08;

/** Everything in sight, and not larger than life. */
export function fit(width: number, height: number, content: { width: number; height: number }, largest = 1): View {
  if (!content.width || !content.height || !width || !height) return { x: 0, y: 0, scale: 1 };
  const scale = Math.max(FARTHEST, Math.min(largest, width / content.width, height / content.height));
  return { x: (width - content.width * scale) / 2, y: (height - content.height * scale) / 2, scale };
}

/** Nearer or farther, with one point of the screen kept where it is. */
export function zoom(view: View, factor: number, at: Point): View {
  const scale = Math.min(NEAREST, Math.max(FARTHEST, view.scale * factor));
  const real = scale / view.scale;
  return { scale, x: at.x - (at.x - view.x) * real, y: at.y - (at.y - view.y) * real };
}

/** From the screen to the map. */
export function toMap(view: View, point: Point): Point {
  return { x: (point.x - view.x) / view.scale, y: (point.y - view.y) / view.scale };
}

export type Detail = "far" | "middle" | "near";

export function detailOf(scale: number): Detail {
  return scale < 0.35 ? "far" : scale < 0.62 ? "middle" : "near";
}

/** Listen to pointers and the wheel on an element; `moved` is told of every new view. Returns what ends it. */
export function control(element: HTMLElement | SVGElement, view: () => View, moved: (view: View) => void): () => void {
  const pointers = new Map<number, Point>();
  let travelled = 0;

  const place = (event: MouseEvent): Point => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const down = (event: PointerEvent) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, place(event));
    travelled = 0;
  };
  const move = (event: PointerEvent) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    travelled += Math.hypot(now.x - before.x, now.y - before.y);
    if (travelled > 4 && !element.hasPointerCapture(event.pointerId)) element.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, now);
    const other = others[0];
    if (other) {
      const [was, is] = [Math.hypot(before.x - other.x, before.y - other.y), Math.hypot(now.x - other.x, now.y - other.y)];
      if (was > 0) moved(zoom(view(), is / was, { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 }));
    } else if (travelled > 4) {
      const seen = view();
      moved({ ...seen, x: seen.x + now.x - before.x, y: seen.y + now.y - before.y });
    }
  };
  const up = (event: PointerEvent) => {
    pointers.delete(event.pointerId);
  };
  // A click that ends a drag is none.
  const click = (event: MouseEvent) => {
    if (travelled > 4) {
      event.stopPropagation();
      event.preventDefault();
      travelled = 0;
    }
  };
  const wheel = (event: WheelEvent) => {
    event.preventDefault();
    const seen = view();
    if (event.ctrlKey || event.metaKey || !event.shiftKey) {
      moved(zoom(seen, Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), place(event)));
    } else moved({ ...seen, x: seen.x - event.deltaX - event.deltaY, y: seen.y });
  };

  const target = element as HTMLElement;
  target.addEventListener("pointerdown", down);
  target.addEventListener("pointermove", move);
  target.addEventListener("pointerup", up);
  target.addEventListener("pointercancel", up);
  target.addEventListener("click", click, true);
  target.addEventListener("wheel", wheel, { passive: false });
  return () => {
    target.removeEventListener("pointerdown", down);
    target.removeEventListener("pointermove", move);
    target.removeEventListener("pointerup", up);
    target.removeEventListener("pointercancel", up);
    target.removeEventListener("click", click, true);
    target.removeEventListener("wheel", wheel);
  };
}
