/** Questions to the server that are asked again and again while a screen is open. */

import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";

import { Failure, get } from "./http";

export interface Query<T> {
  /** The newest answer; stays when a later question fails. */
  data: T | undefined;
  error: Failure | undefined;
  /** When `data` came, in seconds since 1970. */
  at: number | undefined;
  again: () => void;
}

/** Whether screens stand still: nothing is asked until it is false again. */
export const frozen = signal(false);

/** Answers of the places that were seen last, so that going back paints at once. */
const known = new Map<string, { data: unknown; at: number }>();
const MOST_KNOWN = 60;
/** After a refusal the same question is asked so many times less often. */
const SLOWER = 2;

const asking = new Set<() => void>();
let soon: ReturnType<typeof setTimeout> | undefined;

/** Something has changed: everything on screen is asked for again, soon and once. */
export function refresh(): void {
  soon ??= setTimeout(() => {
    soon = undefined;
    for (const ask of asking) ask();
  }, 150);
}

/** Keep nothing of what was seen: whoever looked is not signed in any more. */
export function forget(): void {
  known.clear();
}

function remember(path: string, data: unknown, at: number): void {
  known.delete(path);
  known.set(path, { data, at });
  const oldest = known.keys().next();
  if (known.size > MOST_KNOWN && !oldest.done) known.delete(oldest.value);
}

/**
 * Ask for `path`, and again every so many seconds; 0 asks once. A null path asks nothing. While
 * the tab is hidden, or everything is frozen, nobody asks.
 */
export function useQuery<T>(path: string | null, every = 2): Query<T> {
  const [, draw] = useState(0);
  const state = useRef<{ path: string | null; data: T | undefined; error: Failure | undefined; at: number | undefined }>({
    path: null,
    data: undefined,
    error: undefined,
    at: undefined,
  });
  const again = useRef<() => void>(() => undefined);
  const often = useRef(every);
  often.current = every;

  if (state.current.path !== path) {
    const before = path === null ? undefined : known.get(path);
    state.current = { path, data: before?.data as T | undefined, error: undefined, at: before?.at };
  }

  useEffect(() => {
    if (path === null) return undefined;
    const mine = state.current;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let abort: AbortController | undefined;
    let over = false;

    const later = (times = 1) => {
      clearTimeout(timer);
      if (!over && often.current > 0) timer = setTimeout(ask, often.current * times * 1000);
    };
    const ask = () => {
      if (abort) return;
      if (document.hidden || (frozen.peek() && mine.data !== undefined)) {
        later();
        return;
      }
      clearTimeout(timer);
      // Somebody else on this page has just asked the same.
      const theirs = known.get(path);
      if (theirs && theirs.at > (mine.at ?? 0) && Date.now() / 1000 - theirs.at < often.current / 2) {
        Object.assign(mine, { data: theirs.data, at: theirs.at, error: undefined });
        draw((n) => n + 1);
        later();
        return;
      }
      const running = (abort = new AbortController());
      get<T>(path, running.signal).then(
        (data) => {
          abort = undefined;
          if (over) return;
          const at = Date.now() / 1000;
          remember(path, data, at);
          Object.assign(mine, { data, at, error: undefined });
          draw((n) => n + 1);
          later();
        },
        (error: unknown) => {
          abort = undefined;
          if (over) return;
          mine.error = error instanceof Failure ? error : new Failure(0, String(error), path);
          if (mine.error.status === 404) mine.data = undefined;
          draw((n) => n + 1);
          later(mine.error.unreachable ? 1 : SLOWER);
        },
      );
    };
    const seen = () => {
      if (!document.hidden) ask();
    };

    again.current = ask;
    asking.add(ask);
    document.addEventListener("visibilitychange", seen);
    ask();
    return () => {
      over = true;
      clearTimeout(timer);
      abort?.abort();
      asking.delete(ask);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [path]);

  return { data: state.current.data, error: state.current.error, at: state.current.at, again: () => again.current() };
}
