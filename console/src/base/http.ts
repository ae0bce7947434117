/** Asking the server. */

import { signal } from "@preact/signals";

/** Why there is no answer. */
export class Failure extends Error {
  /** The HTTP status; 0 when the server could not be reached. */
  readonly status: number;
  readonly path: string;
  readonly at = Date.now() / 1000;

  constructor(status: number, message: string, path: string) {
    super(message);
    this.status = status;
    this.path = path;
  }

  get unreachable(): boolean {
    return this.status === 0;
  }
}

/** When the server was last heard, in seconds since 1970. */
export const heard = signal<number | null>(null);
/** Why nobody is let in. */
export const refused = signal<Failure | null>(null);
/** Since when it cannot be reached. */
export const lost = signal<number | null>(null);

/** Note that the server has said something. */
export function hear(): void {
  heard.value = Date.now() / 1000;
  if (lost.value !== null) lost.value = null;
}

/** Note that the server could not be reached. */
export function miss(): void {
  if (lost.value === null) lost.value = Date.now() / 1000;
}

async function ask<T>(path: string, init: RequestInit): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    miss();
    throw new Failure(0, "The console's server cannot be reached. It may have been stopped, or the network is down.", path);
  }
  hear();
  const text = await response.text();
  let said: unknown;
  try {
    said = JSON.parse(text);
  } catch {
    throw new Failure(response.status, `The server's answer is no JSON (status ${response.status}).`, path);
  }
  if (!response.ok) {
    const why = (said as { error?: unknown } | null)?.error;
    const failure = new Failure(response.status, typeof why === "string" ? why : `The server answered with status ${response.status}.`, path);
    if (failure.status === 401) refused.value = failure;
    throw failure;
  }
  return said as T;
}

export function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return ask<T>(path, signal ? { signal } : {});
}

export function post<T>(path: string, value: unknown): Promise<T> {
  return ask<T>(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) });
}
