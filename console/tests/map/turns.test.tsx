// @vitest-environment happy-dom
import { render } from "preact";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { inTurn } from "../../src/map/turns";

const frames: (() => unknown)[] = [];
let drawn: string[] = [];
let written: string[] = [];
let took = 0;
let now = 0;

interface Props {
  name: string;
  number: number;
  chosen: boolean;
}

const Part = inTurn(
  ({ name, number, chosen }: Props) => {
    drawn.push(name);
    now += took;
    return (
      <i>
        {number}
        {chosen ? "!" : ""}
      </i>
    );
  },
  (before, now) => before.chosen !== now.chosen,
  (before, now) => {
    if (before.number % 10 !== now.number % 10) return false;
    written.push(`${now.name}: ${before.number} to ${now.number}`);
    return true;
  },
);

function show(names: string[], number: number, chosen = false): void {
  drawn = [];
  render(
    <>
      {names.map((name) => (
        <Part key={name} name={name} number={number} chosen={chosen} />
      ))}
    </>,
    document.body,
  );
}

const frame = async () => {
  drawn = [];
  await Promise.all(frames.splice(0).map((step) => step()));
};

/** Every other frame is left to others. */
const turn = async () => {
  await frame();
  await frame();
};

describe("drawing in turns", () => {
  beforeEach(() => {
    took = 0.6;
    written = [];
    vi.stubGlobal("requestAnimationFrame", (step: () => unknown) => frames.push(step));
    vi.spyOn(performance, "now").mockImplementation(() => now);
  });
  afterEach(async () => {
    while (frames.length) await frame();
    render(null, document.body);
    vi.restoreAllMocks();
    vi.unstubAllGlobals();
  });

  it("draws at once what was not there, and what somebody has asked for", () => {
    show(["a", "b"], 1);
    expect(document.body.textContent).toBe("11");

    show(["a", "b"], 2, true);
    expect(document.body.textContent).toBe("2!2!");
  });

  it("draws the rest a little in every other frame, until nothing is left", async () => {
    show(["a", "b", "c"], 1);
    show(["a", "b", "c"], 2);
    expect(drawn).toEqual([]);

    const turns: string[][] = [];
    while (frames.length) {
      await frame();
      turns.push(drawn);
    }
    expect(turns).toEqual([[], ["a", "b"], [], ["c"]]);

    expect(document.body.textContent).toBe("222");
    expect(frames).toEqual([]);
  });

  it("draws the newest when a turn comes late, and nothing that has gone", async () => {
    took = 0;
    show(["a", "b"], 1);
    show(["a", "b"], 2);
    show(["a"], 3);

    await turn();

    expect(drawn).toEqual(["a"]);
    expect(document.body.textContent).toBe("3");
  });

  it("draws nothing where it is enough to write", async () => {
    show(["a"], 1);
    show(["a"], 11);
    await turn();
    show(["a"], 21);
    await turn();
    expect(drawn).toEqual([]);
    expect(written).toEqual(["a: 1 to 11", "a: 11 to 21"]);

    show(["a"], 22);
    await turn();
    expect(drawn).toEqual(["a"]);
    show(["a"], 32);
    await turn();
    expect(written.at(-1)).toBe("a: 22 to 32");
  });
});
