/** Drawing that can wait a moment is done a little at a time, so that no frame is a long one. */

import { Component, type FunctionComponent } from "preact";

/** Milliseconds of a frame that are drawn in. */
const SLICE = 1;

interface Turn {
  /** Whether something is left to be drawn, which Preact does in a microtask. */
  take(): boolean;
}

const waiting = new Set<Turn>();
let frame = 0;

/**
 * A component that is drawn anew at once when `urgent` says so of what it was given before and what it is given now, and
 * otherwise when its turn comes, with what it has been given until then. What `write` can do with what was drawn last and what
 * is to be drawn needs no drawing: it says whether it has.
 */
export function inTurn<P extends object>(
  draw: FunctionComponent<P>,
  urgent: (before: P, now: P) => boolean,
  write: (drawn: P, now: P) => boolean = () => false,
): FunctionComponent<P> {
  class InTurn extends Component<P> implements Turn {
    private drawn = this.props;

    override shouldComponentUpdate(now: P): boolean {
      if (urgent(this.props, now)) {
        waiting.delete(this);
        return true;
      }
      waiting.add(this);
      frame ||= afterNext();
      return false;
    }

    override componentWillUnmount(): void {
      waiting.delete(this);
    }

    take(): boolean {
      const written = write(this.drawn, this.props);
      if (written) this.drawn = this.props;
      else this.forceUpdate();
      return !written;
    }

    override render() {
      this.drawn = this.props;
      return draw(this.props as Parameters<typeof draw>[0]);
    }
  }
  return InTurn as unknown as FunctionComponent<P>;
}

/** Every other frame: the one in which an answer was read has work enough, and two that come close together are like one. */
function afterNext(): number {
  return requestAnimationFrame(() => {
    frame = requestAnimationFrame(takeTurns);
  });
}

async function takeTurns(): Promise<void> {
  const until = performance.now() + SLICE;
  for (const turn of waiting) {
    waiting.delete(turn);
    // What Preact draws comes before what follows here.
    if (turn.take()) await null;
    if (performance.now() >= until) break;
  }
  frame = waiting.size ? afterNext() : 0;
}
