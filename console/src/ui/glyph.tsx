import type { GlyphName, Look } from "../base/health";

/** Twelve pixels square; filled with the text's colour. */
const SHAPES: Record<GlyphName, preact.JSX.Element> = {
  dot: <circle cx="6" cy="6" r="4" />,
  ring: <circle cx="6" cy="6" r="3.5" fill="none" stroke="currentColor" stroke-width="1.5" />,
  half: (
    <>
      <circle cx="6" cy="6" r="3.75" fill="none" stroke="currentColor" stroke-width="1.5" />
      <path d="M6 2.25a3.75 3.75 0 0 1 0 7.5z" />
    </>
  ),
  up: <path d="M6 1.5 11 10.5H1z" />,
  down: <path d="M6 10.5 1 1.5h10z" />,
  square: <rect x="2" y="2" width="8" height="8" rx="1" />,
  bar: <rect x="3.5" y="1" width="5" height="10" rx="1" />,
  pause: <path d="M2.5 1.5h2.4v9H2.5zM7.1 1.5h2.4v9H7.1z" />,
  cross: <path d="M2.3 3.7 3.7 2.3 6 4.6l2.3-2.3 1.4 1.4L7.4 6l2.3 2.3-1.4 1.4L6 7.4 3.7 9.7 2.3 8.3 4.6 6z" />,
  back: (
    <path d="M5 1.5 1.5 5 5 8.5V6h2.2a1.9 1.9 0 0 1 0 3.8H4.5v1.5h2.7a3.4 3.4 0 0 0 0-6.8H5z" />
  ),
  turn: (
    <path
      d="M9.9 4.2A4.3 4.3 0 1 0 10.3 6M10.4 1.6v2.9H7.5"
      fill="none"
      stroke="currentColor"
      stroke-width="1.5"
      stroke-linecap="round"
      stroke-linejoin="round"
    />
  ),
  dash: <rect x="2" y="5" width="8" height="2" rx="1" />,
  question: (
    <path
      d="M4 4.2a2 2 0 1 1 2.9 1.9c-.7.3-.9.7-.9 1.4M6 9.9v.1"
      fill="none"
      stroke="currentColor"
      stroke-width="1.6"
      stroke-linecap="round"
    />
  ),
  slash: (
    <path d="M6 2.2a3.8 3.8 0 1 1 0 7.6 3.8 3.8 0 0 1 0-7.6zM3.4 8.6l5.2-5.2" fill="none" stroke="currentColor" stroke-width="1.5" />
  ),
};

export function GlyphShape({ name }: { name: GlyphName }) {
  return SHAPES[name];
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
      {SHAPES[name]}
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
