import { describe, expect, it } from "vitest";

import { ago, bytes, count, duration, exact, rate, several, UNKNOWN } from "../../src/base/format";

const plain = (text: string) => text.replace(/\u202f/g, " ");

describe("numbers", () => {
  it("have their thousands apart, and stay exact as text", () => {
    expect(plain(exact(12480))).toBe("12 480");
    expect(plain(exact("9007199254740993"))).toBe("9 007 199 254 740 993");
    expect(plain(exact(-1200))).toBe("-1 200");
  });

  it("tell zero from what is unknown", () => {
    for (const format of [exact, count, rate, duration, bytes]) {
      expect(format(null)).toBe(UNKNOWN);
      expect(format(undefined)).toBe(UNKNOWN);
      expect(format(0)).not.toBe(UNKNOWN);
    }
  });

  it("are short from a million on", () => {
    expect(plain(count(999_999))).toBe("999 999");
    expect(plain(count(1_234_567))).toBe("1.2 M");
    expect(plain(count("12345678901"))).toBe("12.3 G");
  });

  it("are rates with as many digits as mean something", () => {
    expect(rate(0)).toBe("0/s");
    expect(rate(0.001)).toBe("<0.01/s");
    expect(rate(0.25)).toBe("0.25/s");
    expect(rate(3.14)).toBe("3.1/s");
    expect(rate(120.4)).toBe("120/s");
  });
});

describe("durations", () => {
  it.each([
    [0, "0 ms"],
    [0.0002, "<1 ms"],
    [0.812, "812 ms"],
    [3.2, "3.2 s"],
    [59.4, "59 s"],
    [59.7, "1 m"],
    [250, "4 m 10 s"],
    [7500, "2 h 5 m"],
    [86_400 * 2 + 3600, "2 d 1 h"],
    [-5, "−5.0 s"],
  ])("%s seconds are %s", (seconds, words) => {
    expect(duration(seconds)).toBe(words);
  });

  it("say how long ago something was, and what is to come", () => {
    expect(ago(100, 100.5)).toBe("now");
    expect(ago(100, 142)).toBe("42 s ago");
    expect(ago(200, 100)).toBe("in 1 m 40 s");
  });
});

describe("words", () => {
  it("are in the plural where there are several", () => {
    expect(several(1, "process", "processes")).toBe("1 process");
    expect(several(0, "event")).toBe("0 events");
  });
});
