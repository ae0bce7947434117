/** One set of icons: sixteen pixels, one stroke; always beside words, or on a button with a label. */
const PATHS = {
  overview: "M2.5 8.5 8 3l5.5 5.5M4 7.5v6h3v-3.5h2v3.5h3v-6",
  map: "M2 4.5a1.5 1.5 0 1 0 3 0 1.5 1.5 0 1 0-3 0M11 3.5a1.5 1.5 0 1 0 3 0 1.5 1.5 0 1 0-3 0M11 12a1.5 1.5 0 1 0 3 0 1.5 1.5 0 1 0-3 0M5 4.4l6-.8M4.7 5.5l6.5 5.6",
  topics: "M2.5 3.5h11M2.5 8h11M2.5 12.5h11",
  events: "M2.5 3h11v10h-11zM2.5 6.5h11M6 6.5V13",
  trace: "M2.5 3.5h5M5.5 8h5M8.5 12.5h5M4 3.5V8h1.5M7 8v4.5h1.5",
  groups: "M2.5 2.5h4.5v4.5h-4.5zM9 2.5h4.5v4.5H9zM2.5 9h4.5v4.5h-4.5zM9 9h4.5v4.5H9z",
  dead: "M5.2 2.5h5.6l2.7 2.7v5.6l-2.7 2.7H5.2l-2.7-2.7V5.2zM8 5v3.8M8 11v.1",
  contracts: "M4 2h6l2.5 2.5V14H4zM10 2v2.5h2.5M6 8h4.5M6 10.8h4.5",
  services: "M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.1M5 11h.1",
  publish: "M14 2 7.5 8.5M14 2l-4 12-2.5-5.5L2 6z",
  operations: "M8 2.5v2M8 11.5v2M2.5 8h2M11.5 8h2M4.1 4.1l1.4 1.4M10.5 10.5l1.4 1.4M11.9 4.1l-1.4 1.4M5.5 10.5l-1.4 1.4",
  lab: "M6 2.5h4M6.8 2.5v4L3.3 12.3a1.1 1.1 0 0 0 1 1.7h7.4a1.1 1.1 0 0 0 1-1.7L9.2 6.5v-4M5.2 10h5.6",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM10.3 10.3 14 14",
  fold: "M10 3.5 5.5 8l4.5 4.5",
  unfold: "M6 3.5 10.5 8 6 12.5",
  close: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  copy: "M5.5 5.5h8v8h-8zM3.5 10.5h-1v-8h8v1",
  done: "M3 8.5 6.5 12 13 4.5",
  sun: "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6zM8 1.5v1.4M8 13.1v1.4M1.5 8h1.4M13.1 8h1.4M3.4 3.4l1 1M11.6 11.6l1 1M12.6 3.4l-1 1M4.4 11.6l-1 1",
  moon: "M13 9.6A5.5 5.5 0 0 1 6.4 3 5.5 5.5 0 1 0 13 9.6z",
  screen: "M2 3h12v8H2zM6 13.5h4",
  help: "M5.7 6a2.3 2.3 0 1 1 3.3 2.1c-.7.3-1 .8-1 1.6M8 12v.1",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  play: "M5 3l8 5-8 5z",
  plus: "M8 3v10M3 8h10",
  minus: "M3 8h10",
  fit: "M2.5 6v-3.5h3.5M10 2.5h3.5v3.5M13.5 10v3.5h-3.5M6 13.5h-3.5v-3.5",
  turn: "M2.5 5.5h8.5M8.5 3l2.5 2.5L8.5 8M13.5 10.5H5M7.5 8 5 10.5 7.5 13",
  export: "M8 2v8M5 7l3 3 3-3M2.5 13.5h11",
  focus: "M8 5.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM8 1.5v2M8 12.5v2M1.5 8h2M12.5 8h2",
  table: "M2.5 3h11v10h-11zM2.5 6.3h11M2.5 9.6h11",
  more: "M3.5 8h.1M8 8h.1M12.5 8h.1",
  undo: "M5.5 3 2.5 6l3 3M2.5 6h7a3.5 3.5 0 0 1 0 7H6",
  edit: "M3 13l.6-3L10.5 3l2.5 2.5-7 7zM9 4.5 11.5 7",
  trash: "M3 4.5h10M6 4.5V2.5h4v2M4.5 4.5l.5 9h6l.5-9",
  terminal: "M2 3h12v10H2zM4.5 6l2 2-2 2M8.5 10.5h3",
  empty: "M2.5 9h3l1 2h3l1-2h3M2.5 9l2-6h7l2 6v4.5h-11z",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 16 16"
      fill="none"
      stroke="currentColor"
      stroke-width="1.4"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The mill-wheel. */
export function Wheel({ size = 22 }: { size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 32 32" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" aria-hidden="true">
      <circle cx="16" cy="16" r="10" />
      <circle cx="16" cy="16" r="2.6" />
      <path d="M16 2.5v8M16 21.5v8M2.5 16h8M21.5 16h8M6.5 6.5l5.6 5.6M19.9 19.9l5.6 5.6M25.5 6.5l-5.6 5.6M12.1 19.9l-5.6 5.6" />
    </svg>
  );
}
