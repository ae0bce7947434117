/** The one clock of the page: ticks once a second while somebody looks. */

import { signal } from "@preact/signals";

/** Seconds since 1970. */
export const now = signal(Date.now() / 1000);

export function startClock(): () => void {
  const timer = setInterval(() => {
    if (!document.hidden) now.value = Date.now() / 1000;
  }, 1000);
  return () => clearInterval(timer);
}
