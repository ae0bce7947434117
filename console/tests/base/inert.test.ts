import { describe, expect, it } from "vitest";

import { line, middle, visible } from "../../src/base/inert";

describe("text that others wrote", () => {
  it("cannot turn itself round", () => {
    expect(visible("abc\u202egnp.exe")).toBe("abc‹U+202E›gnp.exe");
    expect(visible("\u2066a\u2069\u200f")).toBe("‹U+2066›a‹U+2069›‹U+200F›");
  });

  it("cannot hide characters, or command a terminal that it is pasted into", () => {
    expect(visible("a\u200bb\u0000c\u001b[31m\ufeff")).toBe("a‹U+200B›b‹U+0000›c‹U+001B›[31m‹U+FEFF›");
  });

  it("shows halves of characters, and leaves whole ones alone", () => {
    expect(visible("\ud800 😀 \udc00")).toBe("‹U+D800› 😀 ‹U+DC00›");
  });

  it("shows invisible tags that stand beyond the first plane", () => {
    expect(visible("a\u{e0041}b")).toBe("a‹U+E0041›b");
  });

  it("keeps its lines in a block, and has none on a line", () => {
    expect(visible("a\nb\tc")).toBe("a\nb\tc");
    expect(visible("a\r\nb\rc")).toBe("a\r\nb‹U+000D›c");
    expect(line("a\r\nb\tc")).toBe("a⏎b⇥c");
  });

  it("leaves out its middle when it is long, and never half of a character", () => {
    expect(middle("0123456789abcdef", 10)).toBe("01234…cdef");
    expect(middle("short", 10)).toBe("short");
    expect(middle("😀".repeat(30), 10)).toBe("😀😀😀😀😀…😀😀😀😀");
  });
});
