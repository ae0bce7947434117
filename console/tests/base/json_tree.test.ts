import { describe, expect, it } from "vitest";

import { children, decoded, pretty, root, size } from "../../src/base/json_tree";

const raw = (text: string, value: { start: number; end: number }) => text.slice(value.start, value.end);

describe("a tree of JSON text", () => {
  it("has the fields in their order, with their values as they were written", () => {
    const text = ' {"b": 9007199254740993, "a": [1, {"x": null}], "b": true} ';

    const { list } = children(text, root(text));

    expect(list.map(({ name, value }) => [name, value.kind, raw(text, value)])).toEqual([
      ["b", "number", "9007199254740993"],
      ["a", "array", '[1, {"x": null}]'],
      ["b", "boolean", "true"],
    ]);
  });

  it("is not confused by braces, quotes and backslashes in strings", () => {
    const text = String.raw`{"a\"}":"\\","b":"{[\"]}"}`;

    const { list } = children(text, root(text));

    expect(list.map(({ name, value }) => [name, decoded(text, value)])).toEqual([
      ['a"}', "\\"],
      ["b", '{["]}'],
    ]);
  });

  it("gives a page at a time, and says whether there is more", () => {
    const text = JSON.stringify(Array.from({ length: 25 }, (_, index) => index));

    const page = children(text, root(text), 10, 10);

    expect(page.list.map((child) => child.name)).toEqual([10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    expect(page.more).toBe(true);
    expect(children(text, root(text), 20, 10).more).toBe(false);
  });

  it("counts, up to a bound", () => {
    expect(size("[]", root("[]"))).toEqual({ count: 0, more: false });
    expect(size('{"a": 1, "b": [2, 3]}', root('{"a": 1, "b": [2, 3]}'))).toEqual({ count: 2, more: false });
    expect(size("[1,2,3]", root("[1,2,3]"), 2)).toEqual({ count: 2, more: true });
  });

  it("is read ten thousand levels deep", () => {
    const text = "[".repeat(10_000) + "1" + "]".repeat(10_000);

    let value = root(text);
    let depth = 0;
    for (let next = children(text, value).list[0]; next; next = children(text, value).list[0]) {
      value = next.value;
      if (++depth > 100) break;
    }

    expect(depth).toBe(101);
    expect(pretty(text, 3).startsWith("[\n  [\n    [\n      [")).toBe(true);
  });

  it("is printed with line breaks, and not a digit changed", () => {
    expect(pretty('{"n":1.50e+400,"l":[],"o":{"x":-0}}')).toBe('{\n  "n": 1.50e+400,\n  "l": [],\n  "o": {\n    "x": -0\n  }\n}');
  });
});
