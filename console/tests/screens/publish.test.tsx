// @vitest-environment happy-dom
import { describe, expect, it, vi } from "vitest";

import { PublishScreen } from "../../src/screens/publish";
import { answer, button, mount, posted, text, type, user } from "./harness";

const CONTRACT = {
  app: "shop",
  name: "order.placed",
  version: 3,
  key: "order_id",
  topic: "order.placed",
  kind: "event",
  summary: "A customer ordered.",
  schema: {
    type: "object",
    properties: { order_id: { type: "string" }, cents: { type: "integer" }, note: { anyOf: [{ type: "string" }, { type: "null" }], default: null } },
    required: ["order_id", "cents"],
  },
};

async function opened(): Promise<HTMLElement> {
  answer({ "/api/contracts": [CONTRACT], "/api/publish": { ids: ["01-new"] }, "/api/trace": { correlation: "01-new", events: [], steps: [], sentence: "order.placed: 2 deliveries", cut: false } });
  user();
  const root = mount("/publish?type=order.placed", <PublishScreen />);
  await vi.waitFor(() => expect(text(root)).toContain("order_id"));
  return root;
}

describe("publishing", () => {
  it("begins with an example that keeps to the contract", async () => {
    const root = await opened();

    expect(text(root)).toContain("It keeps to order.placed version 3.");
  });

  it("sends a number exactly as it was typed", async () => {
    const root = await opened();

    type(root.querySelector("#field-cents") as HTMLInputElement, "9007199254740993");
    await vi.waitFor(() => expect((root.querySelector("#field-cents") as HTMLInputElement).value).toBe("9007199254740993"));
    button(root, "Publish it").click();

    await vi.waitFor(() => expect(posted).toHaveLength(1));
    expect((posted[0]?.body as { data: string }).data).toContain('"cents": 9007199254740993');
  });

  it("shows what became of it, and stays there", async () => {
    const root = await opened();

    button(root, "Publish it").click();

    await vi.waitFor(() => expect(text(root)).toContain("The broker has it: 01-new"));
    await vi.waitFor(() => expect(text(root)).toContain("order.placed: 2 deliveries"));
  });

  it("does not send what does not keep to the contract", async () => {
    const root = await opened();

    type(root.querySelector("#field-cents") as HTMLInputElement, "many");

    await vi.waitFor(() => expect(button(root, "Publish it").getAttribute("aria-disabled")).toBe("true"));
    button(root, "Publish it").click();
    expect(posted).toEqual([]);
    expect(root.querySelector(".problems")?.textContent).toContain("cents");
  });
});
