// @vitest-environment happy-dom
import { describe, expect, it, vi } from "vitest";

import type { Group } from "../../src/base/api";
import { GroupsScreen } from "../../src/screens/groups";
import { answer, mount, Refusal, text, user } from "./harness";

const group = (name: string, more: Partial<Group> = {}): Group => ({
  name,
  app: name.split(".")[0] ?? "",
  verdict: { state: "caught up", rule: 9, sentence: "Caught up", severity: 0 },
  lag: 0,
  age: null,
  members: 1,
  drained_in: null,
  topics: ["order.placed"],
  paused: false,
  instances: 1,
  handled_per_second: 3,
  failed: 0,
  duplicates: 0,
  mean_work: 0.01,
  p50_work: 0.01,
  p95_work: 0.02,
  p95_latency: 0.05,
  one_in: 1,
  parked: 0,
  dead: 0,
  troubles: [],
  ...more,
});

const stopped = group("mailer.confirm", { verdict: { state: "stopped", rule: 3, sentence: "Nobody works on it; 212 events wait", severity: 9 }, lag: 212, age: 42, instances: 0 });

describe("groups", () => {
  it("show their place while they are asked for", () => {
    answer({});
    user();

    const root = mount("/groups", <GroupsScreen />);

    expect(root.querySelector("[role=status][aria-label=Loading]")).not.toBeNull();
  });

  it("come with the worst first, in colour, glyph and word", async () => {
    answer({ "/api/groups": [group("analytics.project"), stopped] });
    user();

    const root = mount("/groups", <GroupsScreen />);

    await vi.waitFor(() => expect(root.querySelectorAll("tbody tr")).toHaveLength(2));
    const first = root.querySelector("tbody tr") as HTMLElement;
    expect(text(first)).toContain("Stopped");
    expect(text(first)).toContain("Nobody works on it; 212 events wait");
    expect(first.querySelector(".tone-error svg")).not.toBeNull();
    expect(first.querySelector("a")?.getAttribute("href")).toBe("/groups/mailer.confirm");
  });

  it("tell what is unknown from zero", async () => {
    answer({ "/api/groups": [group("a.b", { lag: null, p95_work: null })] });
    user();

    const root = mount("/groups", <GroupsScreen />);

    await vi.waitFor(() => expect(root.querySelector("[data-label=Waiting]")?.textContent).toBe("—"));
  });

  it("say what makes the first one when there is none", async () => {
    answer({ "/api/groups": [] });
    user();

    const root = mount("/groups", <GroupsScreen />);

    await vi.waitFor(() => expect(text(root)).toContain("@app.subscriber"));
  });

  it("say that a filter hides them all, and let it be cleared", async () => {
    answer({ "/api/groups": [group("a.b"), group("c.d")] });
    user();

    const root = mount("/groups?q=nothing-like-it", <GroupsScreen />);

    await vi.waitFor(() => expect(text(root)).toContain("None of 2 groups fits"));
    root.querySelector<HTMLButtonElement>(".blank button")?.click();
    await vi.waitFor(() => expect(root.querySelectorAll("tbody tr")).toHaveLength(2));
  });

  it("say why they could not be asked for", async () => {
    answer({ "/api/groups": new Refusal(503, "the broker cannot be reached: it was stopped") });
    user();

    const root = mount("/groups", <GroupsScreen />);

    await vi.waitFor(() => expect(root.querySelector("[role=alert]")?.textContent).toContain("the broker cannot be reached"));
    expect(text(root)).toContain("Try again");
  });

  it("draw names that others chose as text", async () => {
    answer({ "/api/groups": [group('x.<img src=x onerror="hacked()">\u202e')] });
    user();

    const root = mount("/groups", <GroupsScreen />);

    await vi.waitFor(() => expect(text(root)).toContain("‹U+202E›"));
    expect(root.querySelector("img")).toBeNull();
  });
});
