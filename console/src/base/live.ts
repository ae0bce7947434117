/** What the server tells on its own: real deliveries, verdicts that changed, operations that were answered. */

import { signal } from "@preact/signals";

import type { OperationStatus, Pulse, Verdict } from "./api";
import { ofGroup } from "./health";
import { hear } from "./http";
import { line } from "./inert";
import { frozen, refresh } from "./query";

/** Whether the stream is open. */
export const streaming = signal(false);
/** What is read out to those who cannot see it. */
export const announced = signal("");

type Listener = (pulse: Pulse) => void;
const listeners = new Set<Listener>();

/** Hear of every pulse, until the returned function is called. */
export function onPulse(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const QUIET = 5000;
let waiting: string[] = [];
let timer: ReturnType<typeof setTimeout> | undefined;

/** Have something read out, at most once in five seconds. */
export function announce(text: string): void {
  waiting.push(text);
  timer ??= setTimeout(() => {
    announced.value = waiting.slice(-4).join(". ");
    waiting = [];
    timer = undefined;
  }, announced.value ? QUIET : 50);
}

/** Listen, and again whenever the connection was lost. */
export function startListening(): () => void {
  const source = new EventSource("/api/live");
  const on = <T>(name: string, told: (value: T) => void) =>
    source.addEventListener(name, (event) => {
      hear();
      told(JSON.parse((event as MessageEvent<string>).data) as T);
    });
  source.onopen = () => {
    streaming.value = true;
    hear();
  };
  source.onerror = () => {
    streaming.value = false;
  };
  on<Pulse>("pulse", (pulse) => {
    if (!frozen.value) for (const listener of listeners) listener(pulse);
  });
  on<Verdict & { group: string }>("verdict", (verdict) => {
    announce(`${line(verdict.group)} is ${ofGroup(verdict.state).word.toLowerCase()}: ${line(verdict.sentence)}`);
    refresh();
  });
  on<{ id: string; status: OperationStatus; detail: string }>("operation", ({ status, detail }) => {
    announce(`Operation ${status}: ${line(detail)}`);
    refresh();
  });
  on("manifest", refresh);
  return () => source.close();
}
