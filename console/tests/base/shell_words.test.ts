import { describe, expect, it } from "vitest";

import { commandLine } from "../../src/base/shell_words";

describe("a command to paste", () => {
  it("leaves simple words alone, and quotes all others", () => {
    expect(commandLine("millstream", "tail", "--topic", "order.placed")).toBe("millstream tail --topic order.placed");
    expect(commandLine("a; rm -rf ~", "$(x)", "it's")).toBe(`'a; rm -rf ~' '$(x)' 'it'\\''s'`);
    expect(commandLine("")).toBe("''");
  });

  it("is not given when a terminal would act on a name", () => {
    expect(commandLine("trace", "a\u001b[31m")).toBeNull();
    expect(commandLine("trace", "a\nb")).toBeNull();
    expect(commandLine("trace", "a\u202eb")).toBeNull();
  });
});
