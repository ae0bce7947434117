/** What this browser remembers of its user's taste; everything else is in the URL. */

import { effect, signal, type Signal } from "@preact/signals";

function kept<T extends string>(name: string, values: readonly T[], first: T): Signal<T> {
  const key = `millstream.${name}`;
  let before: string | null = null;
  try {
    before = localStorage.getItem(key);
  } catch {
    // Storage can be forbidden; then nothing is remembered.
  }
  const value = signal<T>(values.find((each) => each === before) ?? first);
  effect(() => {
    const now = value.value;
    try {
      if (now === first) localStorage.removeItem(key);
      else localStorage.setItem(key, now);
    } catch {
      // See above.
    }
  });
  return value;
}

export const theme = kept("theme", ["system", "light", "dark"] as const, "system");
export const rail = kept("rail", ["wide", "narrow"] as const, "wide");
/** Single keys can be switched off, for those whose voice or hand types by accident (WCAG 2.1.4). */
export const singleKeys = kept("keys", ["on", "off"] as const, "on");

/** Have the page follow the theme. */
export function startTheme(): void {
  effect(() => {
    if (theme.value === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme.value;
  });
}

export function nextTheme(): void {
  theme.value = theme.value === "system" ? "light" : theme.value === "light" ? "dark" : "system";
}
