// @vitest-environment happy-dom
import { describe, expect, it, vi } from "vitest";

import { Payload } from "../../src/ui/payload";
import { answer, button, mount, text } from "./harness";

const json = (body: string) => ({ kind: "json", text: body, size: body.length }) as const;

describe("a body", () => {
  it("shows integers exactly, and markup as text", () => {
    answer({});

    const root = mount("/", <Payload body={json('{"n": 123456789012345678901234567890, "m": "<script>x</script>"}')} />);

    expect(text(root)).toContain("123456789012345678901234567890");
    expect(text(root)).toContain("<script>x</script>");
    expect(root.querySelector("script")).toBeNull();
  });

  it("writes out what would reorder or hide text", () => {
    answer({});

    const root = mount("/", <Payload body={json(String.raw`{"a\u202eb": "c\u0000d"}`)} />);

    expect(text(root)).toContain("a‹U+202E›b");
    expect(text(root)).toContain("c‹U+0000›d");
  });

  it("is opened where somebody looks, however deep it is", async () => {
    answer({});
    const root = mount("/", <Payload body={json("[".repeat(5000) + "7" + "]".repeat(5000))} />);

    const before = root.querySelectorAll(".tree li").length;
    [...root.querySelectorAll<HTMLButtonElement>("button.fold[aria-expanded=false]")].at(-1)?.click();

    await vi.waitFor(() => expect(root.querySelectorAll(".tree li").length).toBeGreaterThan(before));
    expect(before).toBeLessThan(10);
  });

  it("shows a page of a long list, and more when it is asked for", async () => {
    answer({});
    const root = mount("/", <Payload body={json(JSON.stringify(Array.from({ length: 500 }, (_, index) => index)))} />);

    const before = root.querySelectorAll(".tree li .number").length;
    button(root, "Show more").click();

    await vi.waitFor(() => expect(root.querySelectorAll(".tree li .number")).toHaveLength(500));
    expect(before).toBe(100);
  });

  it("that is no JSON is shown as its bytes", () => {
    answer({});

    const root = mount("/", <Payload body={{ kind: "bytes", base64: btoa("\x00\xffPK"), size: 4 }} />);

    expect(text(root)).toContain("This is no JSON that can be read.");
    expect(text(root)).toContain("00 ff 50 4b");
  });

  it("says when only its beginning is there", () => {
    answer({});

    const root = mount("/", <Payload body={json("{}")} whole={10_000_000} />);

    expect(text(root)).toContain("Only its first");
  });

  it("of which only the beginning is there is shown as text, even where it was cut within a character, and can be downloaded", () => {
    answer({});
    const cut = btoa(String.fromCharCode(...new TextEncoder().encode('{"a": "äö').slice(0, -1)));

    const root = mount("/", <Payload body={{ kind: "bytes", base64: cut, size: 5_000_000 }} raw="/api/raw/1" />);

    expect(text(root)).toContain("Only its first 10 B are here.");
    expect(root.querySelector(".payload pre")?.textContent).toBe('{"a": "ä');
    expect(root.querySelector("a[download]")?.getAttribute("href")).toBe("/api/raw/1");
    expect(root.querySelector("button[title^=Copy]")).toBeNull();
  });
});
