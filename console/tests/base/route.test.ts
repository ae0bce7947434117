// @vitest-environment happy-dom
import { beforeEach, describe, expect, it } from "vitest";

import { go, param, parts, path, query, setParams, to, withParams } from "../../src/base/route";

describe("the URL", () => {
  beforeEach(() => go("/", true));

  it("carries any name, and gives it back", () => {
    const name = "a/b?c#d %2F ü ‮";

    go(to("groups", name));

    expect(parts(path.value)).toEqual(["groups", name]);
  });

  it("does not fall over what cannot be decoded", () => {
    expect(parts("/events/%zz")).toEqual(["events", "%zz"]);
  });

  it("has parameters that come and go by themselves", () => {
    go("/map?window=60&corr=o-1");

    setParams({ node: "event:a b", corr: null });

    expect(param("node")).toBe("event:a b");
    expect(param("corr")).toBeNull();
    expect(withParams({ window: "" })).toBe("/map?node=event%3Aa+b");
  });

  it("leaves out what is not there", () => {
    expect(query({ a: null, b: undefined, c: "", d: 0 })).toBe("?d=0");
    expect(query({})).toBe("");
  });
});
