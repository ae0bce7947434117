import { type ComponentChild, render } from "preact";
import { afterEach, vi } from "vitest";

import type { Me } from "../../src/base/api";
import { forget } from "../../src/base/query";
import { go } from "../../src/base/route";
import { groups, me } from "../../src/base/system";

export type Answers = Record<string, unknown>;

/** An answer that is no success. */
export class Refusal {
  constructor(
    readonly status: number,
    readonly error: string,
  ) {}
}

/** What was posted, in order. */
export const posted: { path: string; body: unknown }[] = [];

/** Have questions answered: by their path, or the longest beginning of it; other questions are never answered. */
export function answer(answers: Answers): void {
  vi.stubGlobal(
    "fetch",
    vi.fn((path: string, init?: RequestInit) => {
      if (init?.method === "POST") posted.push({ path, body: JSON.parse(String(init.body)) });
      const key = Object.keys(answers)
        .filter((each) => path === each || path.startsWith(each))
        .sort((a, b) => b.length - a.length)[0];
      if (key === undefined) return new Promise<Response>(() => undefined);
      const found = answers[key];
      if (found instanceof Error) return Promise.reject(found);
      const [status, body] = found instanceof Refusal ? [found.status, { error: found.error }] : [200, found];
      return Promise.resolve(new Response(JSON.stringify(body), { status }));
    }),
  );
}

export function user(given: Partial<Me> = {}): void {
  me.value = { role: "admin", read_only: false, name: "shop", now: 0, ...given } as Me;
}

/** Draw something at a place; `text()` is what somebody reads. */
export function mount(href: string, drawn: ComponentChild): HTMLElement {
  go(href, true);
  const root = document.createElement("main");
  document.body.append(root);
  render(drawn, root);
  return root;
}

export function text(root: HTMLElement): string {
  return (root.textContent ?? "").replace(/\s+/g, " ");
}

export function button(root: ParentNode, words: string): HTMLButtonElement {
  const found = [...root.querySelectorAll("button")].find((each) => each.textContent?.trim().startsWith(words) || each.getAttribute("aria-label") === words);
  if (!found) throw new Error(`there is no button ${words}`);
  return found;
}

export function type(field: HTMLInputElement | HTMLTextAreaElement, value: string): void {
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

afterEach(() => {
  for (const root of document.querySelectorAll("main")) render(null, root);
  document.body.replaceChildren();
  vi.unstubAllGlobals();
  posted.length = 0;
  forget();
  me.value = null;
  groups.value = null;
});
