import { describe, expect, it } from "vitest";

import { draftOf, field, textOf, withField } from "../../src/base/draft";
import { example, fields, problems, shape, typeName } from "../../src/base/schema";

const ORDER = {
  $ref: "#/$defs/Order",
  $defs: {
    Order: {
      title: "Order",
      type: "object",
      properties: {
        order_id: { type: "string" },
        email: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
        lines: { type: "array", items: { $ref: "#/$defs/Line" } },
        state: { enum: ["new", "paid"] },
        placed_at: { type: "string" },
      },
      required: ["order_id", "lines", "state", "placed_at"],
    },
    Line: { title: "Line", type: "object", properties: { sku: { type: "string" }, quantity: { type: "integer", minimum: 2 } }, required: ["sku", "quantity"] },
  },
};

describe("a contract's schema", () => {
  it("accepts what keeps to it, and its own example does", () => {
    const text = textOf(example(ORDER, ORDER));

    expect(problems(text, ORDER)).toEqual([]);
    expect(JSON.parse(text).lines).toEqual([{ sku: "sku", quantity: 2 }]);
    expect(Number.isNaN(Date.parse(JSON.parse(text).placed_at))).toBe(false);
  });

  it("names the field that is wrong", () => {
    const text = '{"order_id": 7, "lines": [{"sku": "mug"}], "state": "gone", "placed_at": ""}';

    const found = problems(text, ORDER);

    expect(found.map((problem) => problem.where)).toEqual(expect.arrayContaining(["order_id", "lines.0", "state"]));
  });

  it("says that something is no JSON, and nothing else", () => {
    expect(problems("{", ORDER)).toHaveLength(1);
    expect(problems("{", ORDER)[0]?.what).toContain("no JSON");
  });

  it("lets integers through that no browser counts to", () => {
    expect(problems('{"order_id": "o", "lines": [{"sku": "mug", "quantity": 123456789012345678901234567890}], "state": "new", "placed_at": "x"}', ORDER)).toEqual([]);
  });

  it("is told as a table, nested fields below their own", () => {
    expect(fields(ORDER).map((property) => [property.name, property.type, property.required])).toEqual([
      ["order_id", "string", true],
      ["email", "string | null", false],
      ["lines", "list of Line", true],
      ["lines[].sku", "string", true],
      ["lines[].quantity", "integer", true],
      ["state", '"new" | "paid"', true],
      ["placed_at", "string", true],
    ]);
  });

  it("may refer to itself without end", () => {
    const tree = { $ref: "#/$defs/Tree", $defs: { Tree: { title: "Tree", type: "object", properties: { child: { $ref: "#/$defs/Tree" } }, required: ["child"] } } };

    expect(fields(tree).length).toBeLessThan(20);
    expect(textOf(example(tree, tree)).length).toBeLessThan(2000);
    expect(problems('{"child": 1}', tree)).not.toEqual([]);
  });

  it("may be wrong itself, and then anything is let through with a word about it", () => {
    expect(shape({ $ref: "#/nowhere" }, {}).kind).toBe("any");
    expect(typeName({ $ref: "https://evil.example/schema" }, {})).toBe("any");
  });
});

describe("a draft", () => {
  it("keeps every number as it was written", () => {
    const text = '{\n  "a": 9007199254740993,\n  "b": 1.10,\n  "c": [\n    -0\n  ]\n}';

    expect(textOf(draftOf(text))).toBe(text);
  });

  it("changes one field, and leaves the others in their place", () => {
    const draft = draftOf('{"a": 1, "b": 2}');

    const changed = withField(draft, "a", { kind: "raw", text: "10000000000000000000001" });

    expect(JSON.stringify(textOf(changed))).toBe(JSON.stringify('{\n  "a": 10000000000000000000001,\n  "b": 2\n}'));
    expect(field(withField(changed, "b", undefined), "b")).toBeUndefined();
  });
});
