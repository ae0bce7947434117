// @vitest-environment happy-dom
import { describe, expect, it, vi } from "vitest";

import type { Letter } from "../../src/base/api";
import { LetterScreen } from "../../src/screens/letter";
import { answer, button, mount, posted, Refusal, text, type, user } from "./harness";

const SCHEMA = { type: "object", properties: { order_id: { type: "string" }, email: { type: "string" }, cents: { type: "integer" } }, required: ["order_id", "email"] };

const LETTER: Letter = {
  group: "mailer.confirm",
  source: "/shop",
  id: "01-x",
  handler: "confirm",
  type: "order.placed",
  key: "o-1",
  time: 100,
  state: "dead",
  attempts: 3,
  due: 0,
  first: 100,
  last: 130,
  error: "KeyError: 'AT'",
  reason: "3 of 3 attempts failed",
  fingerprint: "f00",
  at: 130,
  topic: "order.placed",
  partition: 2,
  position: "9007199254740993",
  version: 1,
  correlation: "01-x",
  stack: 'Traceback (most recent call last):\n  File "/srv/mailer.py", line 3, in confirm\n    raise\nKeyError: \'AT\'',
  data: { kind: "json", text: '{"order_id":"o-1","email":null,"cents":9007199254740993}', size: 56 },
  size: 56,
  blocked: 2,
  attempts_made: [],
  contract: { app: "mailer", name: "order.placed", version: 1, key: "order_id", topic: "order.placed", kind: "event", summary: "", schema: SCHEMA },
};

const HREF = "/dead/letter?group=mailer.confirm&source=%2Fshop&id=01-x";

async function opened(href = HREF, letter: Letter = LETTER): Promise<HTMLElement> {
  answer({ "/api/letter": letter, "/api/operations": [] });
  const root = mount(href, <LetterScreen />);
  await vi.waitFor(() => expect(text(root)).toContain("KeyError"));
  return root;
}

describe("a dead letter", () => {
  it("says what failed, where, and what waits behind it", async () => {
    user();

    const root = await opened();

    expect(text(root)).toContain("2 events of its key behind it");
    expect(text(root)).toContain("/srv/mailer.py");
    expect(text(root).replace(/\u202f/g, "")).toContain("9007199254740993");
  });

  it("is repaired only when the body keeps to the contract, and with a reason", async () => {
    user();
    const root = await opened(`${HREF}&do=repair`);
    const field = root.querySelector("#repair-text") as HTMLTextAreaElement;
    const repair = () => button(root, "Repair and redrive");

    const asItCame = repair().title;
    type(field, field.value.replace("null", "7"));
    await vi.waitFor(() => expect(repair().title).toContain("does not keep to the contract"));
    type(field, field.value.replace("7,", '"ana@example.com",'));
    await vi.waitFor(() => expect(repair().title).toBe("Say why."));
    type(root.querySelector("#repair-reason") as HTMLInputElement, "it was missing");
    await vi.waitFor(() => expect(repair().getAttribute("aria-disabled")).toBeNull());
    answer({ "/api/letter": LETTER, "/api/operations": { id: "op-1" } });
    repair().click();
    repair().click();

    expect(asItCame).toBe("Nothing is changed yet.");
    await vi.waitFor(() => expect(posted).toHaveLength(1));
    expect(posted[0]?.body).toMatchObject({ kind: "repair", group: "mailer.confirm", events: [["/shop", "01-x"]], reason: "it was missing" });
    expect((posted[0]?.body as { data: string }).data).toContain('"cents": 9007199254740993');
  });

  it("shows a viewer what could be done, and why not by them", async () => {
    user({ role: "viewer" });

    const root = await opened();

    for (const words of ["Repair…", "Redrive…", "Discard…"]) {
      expect(button(root, words).getAttribute("aria-disabled")).toBe("true");
      expect(button(root, words).title).toContain("needs the role operator");
    }
  });

  it("shows everybody that a console is read-only", async () => {
    user({ read_only: true });

    const root = await opened();

    expect(button(root, "Redrive…").title).toBe("This console is read-only.");
  });

  it("is not repaired from its beginning alone", async () => {
    user();

    const root = await opened(HREF, { ...LETTER, size: 10_000_000 });

    expect(button(root, "Repair…").title).toContain("Only the beginning");
  });

  it("that is not there any more says so, with a way to what became of it", async () => {
    answer({ "/api/letter": new Refusal(404, "this delivery is not parked any more"), "/api/operations": [] });
    user();

    const root = mount(HREF.replace("01-x", "01-y"), <LetterScreen />);

    await vi.waitFor(() => expect(text(root)).toContain("not parked any more"));
    expect(root.querySelector('a[href="/trace/01-y"]')).not.toBeNull();
  });
});
