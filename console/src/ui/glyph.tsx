import type { GlyphName, Look } from "../base/health";

interface Stroke {
  /** From the corner above on the left, and by relative commands only, so that it can stand anywhere without a transformation. */
  d: string;
  /** How thick a line it is; filled otherwise. */
  line?: number;
  round?: true;
}

/** Twelve pixels square; filled with the text's colour. */
const SHAPES: Record<GlyphName, Stroke[]> = {
  dot: [{ d: "m2 6a4 4 0 1 0 8 0 4 4 0 1 0-8 0z" }],
  ring: [{ d: "m2.5 6a3.5 3.5 0 1 0 7 0 3.5 3.5 0 1 0-7 0z", line: 1.5 }],
  half: [{ d: "m2.25 6a3.75 3.75 0 1 0 7.5 0 3.75 3.75 0 1 0-7.5 0z", line: 1.5 }, { d: "m6 2.25a3.75 3.75 0 0 1 0 7.5z" }],
  up: [{ d: "m6 1.5 5 9h-10z" }],
  down: [{ d: "m6 10.5-5-9h10z" }],
  square: [{ d: "m3 2h6a1 1 0 0 1 1 1v6a1 1 0 0 1-1 1h-6a1 1 0 0 1-1-1v-6a1 1 0 0 1 1-1z" }],
  bar: [{ d: "m4.5 1h3a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1h-3a1 1 0 0 1-1-1v-8a1 1 0 0 1 1-1z" }],
  pause: [{ d: "m2.5 1.5h2.4v9h-2.4zm4.6 0h2.4v9h-2.4z" }],
  cross: [{ d: "m2.3 3.7 1.4-1.4 2.3 2.3 2.3-2.3 1.4 1.4-2.3 2.3 2.3 2.3-1.4 1.4-2.3-2.3-2.3 2.3-1.4-1.4 2.3-2.3z" }],
  back: [{ d: "m5 1.5-3.5 3.5 3.5 3.5v-2.5h2.2a1.9 1.9 0 0 1 0 3.8h-2.7v1.5h2.7a3.4 3.4 0 0 0 0-6.8h-2.2z" }],
  turn: [{ d: "m9.9 4.2a4.3 4.3 0 1 0 .4 1.8m.1-4.4v2.9h-2.9", line: 1.5, round: true }],
  dash: [{ d: "m3 5h6a1 1 0 0 1 0 2h-6a1 1 0 0 1 0-2z" }],
  question: [{ d: "m4 4.2a2 2 0 1 1 2.9 1.9c-.7.3-.9.7-.9 1.4m0 2.4v.1", line: 1.6, round: true }],
  slash: [{ d: "m6 2.2a3.8 3.8 0 1 1 0 7.6 3.8 3.8 0 0 1 0-7.6zm-2.6 6.4 5.2-5.2", line: 1.5 }],
};

/** In a drawing, its corner at a place of it. */
export function GlyphShape({ name, x = 0, y = 0 }: { name: GlyphName; x?: number; y?: number }) {
  return (
    <>
      {SHAPES[name].map(({ d, line, round }) => {
        const how = line === undefined ? {} : { fill: "none", stroke: "currentColor", "stroke-width": line };
        return <path key={d} d={`M${x} ${y}${d}`} {...how} {...(round ? { "stroke-linecap": "round", "stroke-linejoin": "round" } : {})} />;
      })}
    </>
  );
}

export function Glyph({ name, size = 12, title }: { name: GlyphName; size?: number; title?: string }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 12 12"
      fill="currentColor"
      role={title ? "img" : undefined}
      aria-label={title}
      aria-hidden={title ? undefined : "true"}
    >
      <GlyphShape name={name} />
    </svg>
  );
}

/** How something is: colour, glyph and word. */
export function State({ look, word }: { look: Look; word?: string }) {
  return (
    <span class={`state tone-${look.tone}`}>
      <Glyph name={look.glyph} />
      {word ?? look.word}
    </span>
  );
}
