/** Waiting for something that nobody announces. */
import { setTimeout as sleep } from "node:timers/promises";

export interface WaitOptions {
  /** What is awaited, for the message. */
  readonly what: string;
  readonly deadlineMs?: number;
}

/**
 * Polls `probe` until it gives something other than `undefined` or `false`.
 *
 * @throws Error when `deadlineMs` (10 s) passes first
 */
export async function waitFor<T>(
  probe: () => T | false | undefined | Promise<T | false | undefined>,
  { what, deadlineMs = 10_000 }: WaitOptions,
): Promise<T> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > end) throw new Error(`waited ${deadlineMs} ms for ${what}`);
    await sleep(20);
  }
}
