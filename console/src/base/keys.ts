/** The keyboard. Single keys do nothing while somebody types, and can be switched off. */

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";

import { announce } from "./live";
import { frozen } from "./query";
import { go, to } from "./route";
import { nextTheme, rail, singleKeys, theme } from "./settings";

export const paletteOpen = signal(false);
export const helpOpen = signal(false);
export const trayOpen = signal(false);

/** Where `g` and a second key lead. */
export const PLACES: Record<string, string> = {
  o: "/",
  m: "/map",
  e: "/events",
  t: "/trace",
  g: "/groups",
  c: "/groups",
  d: "/dead",
  k: "/contracts",
  s: "/services",
  p: "/publish",
  a: "/operations",
  l: "/lab",
};

type Keys = Record<string, (event: KeyboardEvent) => void>;
const own = new Set<{ current: Keys }>();

/** Keys of a screen, for as long as it is there. */
export function useKeys(keys: Keys): void {
  const held = { current: keys };
  useEffect(() => {
    own.add(held);
    return () => {
      own.delete(held);
    };
  });
}

const typing = (target: EventTarget | null) =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) && !/^(checkbox|radio|button)$/.test((target as HTMLInputElement).type);

let chord = 0;

export function startKeys(): void {
  addEventListener("keydown", (event) => {
    if ((event.metaKey || event.ctrlKey) && !event.altKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      paletteOpen.value = !paletteOpen.value;
      return;
    }
    if ((event.metaKey || event.ctrlKey) && event.shiftKey && event.key.toLowerCase() === "c") {
      event.preventDefault();
      void navigator.clipboard?.writeText(location.href).then(() => announce("Link copied"));
      return;
    }
    if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (typing(event.target)) {
      if (event.key === "Escape") (event.target as HTMLElement).blur();
      return;
    }
    if (event.key.startsWith("Arrow") || event.key === "Escape" || event.key === "Enter" || singleKeys.peek() === "on") single(event);
  });
}

function single(event: KeyboardEvent): void {
  const { key } = event;
  if (Date.now() - chord < 1200) {
    chord = 0;
    const place = PLACES[key];
    if (place) {
      event.preventDefault();
      go(place);
      return;
    }
  }
  for (const { current } of own) {
    const handle = current[key];
    if (handle) {
      handle(event);
      if (event.defaultPrevented) return;
    }
  }
  const handle = GLOBAL[key];
  if (!handle) return;
  if (handle(event) !== false) event.preventDefault();
}

const GLOBAL: Record<string, (event: KeyboardEvent) => boolean | void> = {
  g: () => {
    chord = Date.now();
  },
  "/": () => {
    const field = document.querySelector<HTMLInputElement>("main input[data-filter]");
    if (field) {
      field.focus();
      field.select();
    } else paletteOpen.value = true;
  },
  "?": () => {
    helpOpen.value = true;
  },
  ".": () => {
    frozen.value = !frozen.value;
    announce(frozen.value ? "The page stands still" : "The page is live");
  },
  "[": () => {
    rail.value = rail.value === "wide" ? "narrow" : "wide";
  },
  o: () => {
    trayOpen.value = !trayOpen.value;
  },
  T: () => {
    nextTheme();
    announce(`Theme: ${theme.value}`);
  },
  Escape: () => {
    if (!trayOpen.value) return false;
    trayOpen.value = false;
    return true;
  },
  j: () => move(1),
  k: () => move(-1),
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  x: () => {
    const box = focusedRow()?.querySelector<HTMLInputElement>("input[type=checkbox]");
    if (!box) return false;
    box.click();
    return true;
  },
  y: () => {
    const id = focusedRow()?.dataset["copy"];
    if (!id) return false;
    void navigator.clipboard?.writeText(id).then(() => announce("Id copied"));
    return true;
  },
  t: () => {
    const id = focusedRow()?.dataset["trace"];
    if (!id) return false;
    go(to("trace", id));
    return true;
  },
};

function focusedRow(): HTMLElement | null {
  return document.activeElement?.closest<HTMLElement>("tr") ?? null;
}

/** To the next row of the table that has the focus, or of the first one. */
function move(step: number): boolean {
  const active = document.activeElement;
  if (active?.closest("[role=tree], svg, .tray, nav")) return false;
  const table = active?.closest("table") ?? document.querySelector("main table");
  const links = [...(table?.querySelectorAll<HTMLElement>("tbody a.row-link, tbody tr[tabindex]") ?? [])];
  if (!links.length) return false;
  const row = focusedRow();
  const at = links.findIndex((link) => link.closest("tr") === row);
  const next = links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + step))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
  return true;
}
