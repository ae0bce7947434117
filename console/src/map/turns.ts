/** Drawing that can wait a moment is done a little in each frame, so that no frame is a long one. */

import { Component, type FunctionComponent } from "preact";

/** Milliseconds of a frame that are drawn in. */
const SLICE = 2;

const waiting = new Set<Component>();
let frame = 0;

/**
 * A component that is drawn anew at once when `urgent` says so of what it was given before and what it is given now, and
 * otherwise when its turn comes, with what it has been given until then.
 */
export function inTurn<P extends object>(draw: FunctionComponent<P>, urgent: (before: P, now: P) => boolean): FunctionComponent<P> {
  class InTurn extends Component<P> {
    override shouldComponentUpdate(now: P): boolean {
      if (urgent(this.props, now)) {
        waiting.delete(this as unknown as Component);
        return true;
      }
      waiting.add(this as unknown as Component);
      frame ||= requestAnimationFrame(takeTurns);
      return false;
    }

    override componentWillUnmount(): void {
      waiting.delete(this as unknown as Component);
    }

    override render() {
      return draw(this.props as Parameters<typeof draw>[0]);
    }
  }
  return InTurn as unknown as FunctionComponent<P>;
}

async function takeTurns(): Promise<void> {
  const until = performance.now() + SLICE;
  for (const component of waiting) {
    waiting.delete(component);
    component.forceUpdate();
    // Preact draws in a microtask, which comes before what follows here.
    await null;
    if (performance.now() >= until) break;
  }
  frame = waiting.size ? requestAnimationFrame(takeTurns) : 0;
}
