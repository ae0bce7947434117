/**
 * Text that others wrote, made harmless to look at: what would reorder, hide or move text is
 * written out. Nothing here is for copying; copy the original.
 */

const DANGEROUS =
  /\r(?!\n)|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202f\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]|\udb40[\udc00-\uddef]/g;

/** The same text with every control, bidirectional and invisible character shown as its code point; line breaks and tabs stay. */
export function visible(text: string): string {
  return text.replace(DANGEROUS, (character) => `‹U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}›`);
}

/** On one line: line breaks and tabs are shown, too. */
export function line(text: string): string {
  return visible(text).replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥");
}

/** An id that is too long for its place, with its middle left out: its beginning sorts, its end tells apart. */
export function middle(text: string, most = 18): string {
  const shown = [...line(text)];
  if (shown.length <= most) return shown.join("");
  const tail = Math.max(4, Math.floor((most - 1) / 3));
  return `${shown.slice(0, most - 1 - tail).join("")}…${shown.slice(-tail).join("")}`;
}

/** The beginning of a text. */
export function beginning(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most)}…`;
}
