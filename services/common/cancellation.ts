/**
 * Cancellation: an outcome, not an error.
 *
 * Whatever can wait takes an AbortSignal and, once that is aborted, rejects with the signal's own reason, never with
 * an error made on the way. So the one who aborted recognises his reason, and `isCancelled` tells everybody else.
 * No function here leaves a listener or a timer behind.
 */

/* eslint-disable @typescript-eslint/prefer-promise-reject-errors -- a signal's reason is whatever the one who aborted chose */

import { assert } from "./assert.js";

/** The longest time that setTimeout keeps; it fires at once for more. */
const maxTimerMs = 2 ** 31 - 1;

/** Somebody else has cancelled what this process waited for. */
export class CancelledElsewhere extends Error {
  override readonly name = "CancelledElsewhere";
}

/** Throws the signal's reason if it is aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw signal.reason;
  }
}

/**
 * Whether `error` is the outcome of aborting `signal`: its reason, or what Node's own functions make of it (an
 * AbortError whose cause is the reason). Errors that merely happened after the abort are still errors.
 */
export function isCancelled(error: unknown, signal: AbortSignal | undefined): boolean {
  if (signal?.aborted !== true) {
    return false;
  }
  return (
    error === signal.reason || (error instanceof Error && error.name === "AbortError" && error.cause === signal.reason)
  );
}

/**
 * Waits `ms` milliseconds, or until the signal is aborted: then rejects with its reason.
 *
 * @example await sleep(500, signal);
 */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  assert(ms >= 0 && ms <= maxTimerMs, `sleep of ${ms} ms is not between 0 and ${maxTimerMs}`);
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason);
      return;
    }
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/**
 * Settles as `promise` does, or rejects with the signal's reason as soon as that is aborted.
 *
 * The work behind `promise` goes on after an abort, and its result or failure is dropped: only for work that owns no
 * memory of the caller's and that somebody else ends.
 */
export function raceAbort<T>(promise: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (signal === undefined) {
    return promise;
  }
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    // Both handlers stay on `promise` even when the abort wins, so that a late failure is not an unhandled rejection.
    promise.then(
      (value) => {
        signal.removeEventListener("abort", onAbort);
        resolve(value);
      },
      (error: unknown) => {
        signal.removeEventListener("abort", onAbort);
        reject(error);
      },
    );
    if (signal.aborted) {
      onAbort();
    } else {
      signal.addEventListener("abort", onAbort, { once: true });
    }
  });
}
