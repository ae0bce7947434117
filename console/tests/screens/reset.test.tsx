// @vitest-environment happy-dom
import { describe, expect, it, vi } from "vitest";

import type { GroupDetail } from "../../src/base/api";
import { ResetSheet } from "../../src/screens/reset";
import { answer, button, mount, posted, text, type, user } from "./harness";

const PREVIEW = "/api/reset-preview/mailer.confirm?to=back%3A";

function row(partition: number, again: number) {
  return { topic: "order.placed", partition, before: "500", after: String(500 - again), events: again, again };
}

async function opened(): Promise<HTMLElement> {
  answer({ [`${PREVIEW}100`]: [row(0, 100), row(1, 7)], [`${PREVIEW}250`]: [row(0, 250), row(1, 250)], "/api/operations": { id: "op-1", events: 0 } });
  user();
  const root = mount("/groups/mailer.confirm", <ResetSheet group={{ name: "mailer.confirm" } as GroupDetail} onClose={() => undefined} />);
  button(root, "Events back").click();
  await vi.waitFor(() => expect(text(root)).toContain("107 events that it was past come again."));
  return root;
}

function field(root: HTMLElement, name: string): HTMLInputElement {
  return root.querySelector(`input[aria-label^="${name}"], input#${name}`) as HTMLInputElement;
}

describe("going back so many events", () => {
  it("shows what that means, and where there are fewer", async () => {
    const root = await opened();

    expect(text(root)).toContain("1 partition has fewer events to go back.");
  });

  it("asks for as many as were typed, and sends just that", async () => {
    const root = await opened();

    type(field(root, "How"), "250");
    await vi.waitFor(() => expect(text(root)).toContain("500 events that it was past come again."));
    expect(text(root)).not.toContain("fewer");
    type(field(root, "reset-reason"), "the mails were lost");
    type(field(root, "reset-confirm"), "mailer.confirm");
    await vi.waitFor(() => expect(button(root, "Reset").disabled).toBe(false));
    button(root, "Reset").click();

    await vi.waitFor(() => expect(posted).toHaveLength(1));
    expect(posted[0]?.body).toMatchObject({ kind: "reset", group: "mailer.confirm", to: "back:250", effects: false });
  });

  it.each(["", "0", "-3", "1.5", "10001"])("refuses %j", async (typed) => {
    const root = await opened();

    type(field(root, "How"), typed);

    await vi.waitFor(() => expect(text(root)).toContain("This is no number from 1 to 10"));
    expect(button(root, "Reset").disabled).toBe(true);
  });
});
