/** Bodies of events, as bytes and as text. */

import type { Body } from "./api";

export function bytesOf(body: Body): Uint8Array {
  if (body.kind === "json") return new TextEncoder().encode(body.text);
  const binary = atob(body.base64);
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

/** How much of the body is here, in bytes. */
export function kept(body: Body): number {
  return body.kind === "json" ? body.size : (body.base64.length / 4) * 3 - (/=*$/.exec(body.base64)?.[0].length ?? 0);
}

/** The body as text, as far as it is here, where it is some. */
export function textOfBody(body: Body, whole = body.size): string | null {
  if (body.kind === "json") return body.text;
  try {
    // What was cut may end in the middle of a character.
    return new TextDecoder("utf-8", { fatal: true }).decode(bytesOf(body), { stream: kept(body) < whole });
  } catch {
    return null;
  }
}

/** Offsets, bytes and their characters, sixteen to a line. */
export function hex(data: Uint8Array, most = 4096): string {
  const lines: string[] = [];
  for (let at = 0; at < Math.min(data.length, most); at += 16) {
    const row = [...data.subarray(at, at + 16)];
    const left = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const right = row.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${left.padEnd(47)}  ${right}`);
  }
  return lines.join("\n");
}
