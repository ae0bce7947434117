import { useState } from "preact/hooks";

import { exact } from "../base/format";

/** So many rows are drawn at first, and more each time that somebody asks. */
const ROWS = 200;

/** The beginning of a long list, and what asks for more of it. */
export function useCut<T>(list: T[]): { shown: T[]; more: preact.JSX.Element | null } {
  const [most, setMost] = useState(ROWS);
  return {
    shown: list.length > most ? list.slice(0, most) : list,
    more:
      list.length > most ? (
        <div class="scanbar">
          <span>
            {exact(most)} of {exact(list.length)} are drawn.
          </span>
          <button type="button" class="button tiny" onClick={() => setMost(most * 2)}>
            Draw more
          </button>
        </div>
      ) : null,
  };
}

/** Draws the beginning of a long list by a function, with what asks for more below it. */
export function Cut<T>({ list, children }: { list: T[]; children: (shown: T[]) => preact.JSX.Element }): preact.JSX.Element {
  const { shown, more } = useCut(list);
  return (
    <>
      {children(shown)}
      {more}
    </>
  );
}
