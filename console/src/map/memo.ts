import { Component, type FunctionComponent } from "preact";

/**
 * A component that is drawn anew only when what it is given has changed: property by property, and objects by what is in them,
 * so many levels deep. One level compares properties by identity.
 */
export function memo<P extends object>(draw: FunctionComponent<P>, levels = 5): FunctionComponent<P> {
  class Memo extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      return !same(this.props, next, levels);
    }

    override render() {
      return draw(this.props as Parameters<typeof draw>[0]);
    }
  }
  return Memo as unknown as FunctionComponent<P>;
}

function same(a: unknown, b: unknown, depth: number): boolean {
  if (Object.is(a, b)) return true;
  if (depth === 0 || typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  const left = a as Record<string, unknown>;
  const right = b as Record<string, unknown>;
  // Lists of names would be garbage in every comparison.
  let more = 0;
  for (const name in left) {
    if (!same(left[name], right[name], depth - 1)) return false;
    more++;
  }
  for (const _ in right) more--;
  return more === 0;
}
