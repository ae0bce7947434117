import { describe, expect, it } from "vitest";

import type { Letter } from "../../src/base/api";
import { asTest, bytesLiteral, className } from "../../src/base/as_test";

const letter = (given: Partial<Letter>): Letter =>
  ({ group: "mailer.confirm", handler: "confirm", type: "order.placed", id: "01-x", key: "o-1", error: "KeyError: 'AT'", reason: "", contract: null, ...given }) as Letter;

describe("a dead letter as a test", () => {
  it("has its bytes exactly, whatever they are", () => {
    expect(bytesLiteral(new Uint8Array([0x7b, 0x22, 0x5c, 0x00, 0xff, 0x0a]))).toBe(String.raw`b"{\"\\\x00\xff\x0a"`);
  });

  it("names the class of the contract", () => {
    expect(className(letter({ contract: { schema: { $ref: "#/$defs/OrderPlaced" } } as never }))).toBe("OrderPlaced");
    expect(className(letter({}))).toBe("OrderPlaced");
    expect(className(letter({ type: "2fa.sent" }))).toBe("Event2faSent");
  });

  it("cannot be broken out of by what others wrote", () => {
    const hostile = letter({ error: 'x\n"""\nimport os', handler: "a b;c", type: 'order"); evil(', key: "../../etc" });

    const lines = asTest(hostile, new TextEncoder().encode("{}")).split("\n");

    expect(lines.filter((each) => each.includes("evil") && !each.startsWith("#")).every((each) => /^(async def test_[a-z0-9_]+\(\) -> None:|.*\bOrderEvil\b.*)$/.test(each))).toBe(true);
    expect(lines.some((each) => each === "import os")).toBe(false);
  });
});
