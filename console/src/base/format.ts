/** Numbers, durations and times as people read them. What is unknown is a dash, and never a zero. */

export const UNKNOWN = "—";

const THIN = "\u202f";

/** A whole number with its thousands apart; text stays exact whatever its size. */
export function exact(value: number | string | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  const text = String(value);
  return /^-?\d+$/.test(text) ? text.replace(/\B(?=(\d{3})+$)/g, THIN) : text;
}

/** A count that fits a cell: exact to a million, then short. */
export function count(value: number | string | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  const number = Number(value);
  if (!Number.isFinite(number)) return String(value);
  if (Math.abs(number) < 1e6) return exact(Math.round(number));
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]] as const) {
    if (Math.abs(number) >= size) return `${(number / size).toFixed(1)}${THIN}${unit}`;
  }
  return exact(Math.round(number));
}

/** Something a second. */
export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  if (value === 0) return "0/s";
  if (value < 0.01) return "<0.01/s";
  if (value < 10) return `${value.toFixed(value < 1 ? 2 : 1)}/s`;
  return `${count(value)}/s`;
}

/** So many seconds. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return UNKNOWN;
  const size = Math.abs(seconds);
  const sign = seconds < 0 ? "−" : "";
  if (size < 0.0005) return size === 0 ? "0 ms" : "<1 ms";
  if (size < 0.9995) return `${sign}${Math.round(size * 1000)} ms`;
  if (size < 9.95) return `${sign}${size.toFixed(1)} s`;
  if (size < 59.5) return `${sign}${Math.round(size)} s`;
  const whole = Math.round(size);
  if (whole < 3600) return sign + two(Math.floor(whole / 60), "m", whole % 60, "s");
  const minutes = Math.round(size / 60);
  if (minutes < 24 * 60) return sign + two(Math.floor(minutes / 60), "h", minutes % 60, "m");
  const hours = Math.round(size / 3600);
  return sign + two(Math.floor(hours / 24), "d", hours % 24, "h");
}

function two(large: number, unit: string, small: number, smaller: string): string {
  return small ? `${large} ${unit} ${small} ${smaller}` : `${large} ${unit}`;
}

/** How long ago. */
export function ago(at: number | null | undefined, now: number): string {
  if (at === null || at === undefined) return UNKNOWN;
  const passed = now - at;
  if (passed < -1) return `in ${duration(-passed)}`;
  return passed < 1 ? "now" : `${duration(Math.floor(passed))} ago`;
}

/** The time of day, to the millisecond. */
export function clock(at: number, utc = false): string {
  const date = new Date(at * 1000);
  if (Number.isNaN(date.getTime())) return UNKNOWN;
  if (utc) return date.toISOString().slice(11, 23);
  const pad = (value: number, digits = 2) => String(value).padStart(digits, "0");
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;
}

/** Date and time here, and the same in UTC. */
export function moment(at: number): string {
  const date = new Date(at * 1000);
  if (Number.isNaN(date.getTime())) return UNKNOWN;
  const pad = (value: number) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  return `${day} ${clock(at)} (${date.toISOString()})`;
}

/** A size in bytes. */
export function bytes(value: number | string | null | undefined): string {
  if (value === null || value === undefined) return UNKNOWN;
  const number = Number(value);
  if (number < 1024) return `${number} B`;
  for (const [size, unit] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]] as const) {
    if (number >= size) return `${(number / size).toFixed(1)} ${unit}`;
  }
  return `${number} B`;
}

/** `1 event`, `2 events`. */
export function several(number: number, noun: string, plural = `${noun}s`): string {
  return `${count(number)} ${number === 1 ? noun : plural}`;
}
