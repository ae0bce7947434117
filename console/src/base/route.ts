/** The URL is the state: where we are, and every change of it. */

import { computed, signal } from "@preact/signals";

export interface Place {
  path: string;
  search: string;
}

const here = (): Place => ({ path: location.pathname, search: location.search });

/** Where we are. */
export const place = signal<Place>(here());

export const path = computed(() => place.value.path);
export const params = computed(() => new URLSearchParams(place.value.search));

/** One parameter of the URL. */
export function param(name: string): string | null {
  return params.value.get(name);
}

/** Go somewhere; with `replace` Back does not return here. */
export function go(href: string, replace = false): void {
  const target = new URL(href, location.href);
  if (target.pathname === location.pathname && target.search === location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", target.pathname + target.search + target.hash);
  const moved = target.pathname !== place.value.path;
  place.value = here();
  if (moved) arrived();
}

/** This place with other parameters; null and "" leave one out. */
export function withParams(changes: Record<string, string | null>): string {
  const next = new URLSearchParams(place.value.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") next.delete(name);
    else next.set(name, value);
  }
  const search = next.toString();
  return place.value.path + (search ? `?${search}` : "");
}

/** Change parameters of this place. */
export function setParams(changes: Record<string, string | null>, replace = true): void {
  go(withParams(changes), replace);
}

/** A path from parts of anybody's making. */
export function to(...parts: string[]): string {
  return `/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
}

/** Parameters for a path; what is null is left out. */
export function query(values: Record<string, string | number | null | undefined>): string {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value !== null && value !== undefined && value !== "") made.set(name, String(value));
  const text = made.toString();
  return text ? `?${text}` : "";
}

/** The parts of a path below its first one, decoded; what cannot be decoded is taken as it stands. */
export function parts(whole: string): string[] {
  return whole
    .split("/")
    .filter(Boolean)
    .map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    });
}

function arrived(): void {
  document.getElementById("main")?.scrollTo?.(0, 0);
  scrollTo(0, 0);
}

/** Have links and the browser's buttons change the place without a page load. */
export function startRouting(): void {
  addEventListener("popstate", () => {
    place.value = here();
  });
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const anchor = (event.target as Element | null)?.closest?.("a");
    const href = anchor?.getAttribute("href");
    if (!anchor || !href?.startsWith("/") || anchor.target || anchor.hasAttribute("download")) return;
    event.preventDefault();
    go(href);
  });
}
