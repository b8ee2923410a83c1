/**
 * Wrapper that tries again what failed with UNAVAILABLE: with exponential back-off, jitter, and a budget of time for
 * each request. Everything else, and an abort, passes at once.
 *
 * A try may have taken effect although it failed. Gets, stats, deletes and plain puts do not care. A put with
 * `onlyIfAbsent` that then meets a blob of its name compares the bytes: equal ones are taken for its own. So when two
 * writers put the same bytes under one name at the same time and the storage falters, both can win.
 *
 * A listing that breaks off begins anew and leaves out what it gave before. For that it remembers the ids, up to
 * 262 144 of them (some 30 MB); one that is longer is not retried after that point.
 */

import { sleep, throwIfAborted } from "../../../common/cancellation.js";
import { BlockmoverError, isBlockmoverError } from "../../../common/errors.js";
import { totalLengthBytes } from "./blob-arguments.js";
import type { BlobMetadata, BlobStorage, GetOptions, PutOptions } from "./blob-storage.js";

export interface RetryPolicy {
  /** Pause after the first failure, before jitter (which makes it 50 to 100 % of this). */
  readonly firstDelayMs: number;
  /** Each pause is this many times as long as the one before, … */
  readonly factor: number;
  /** … up to this. */
  readonly maxDelayMs: number;
  /** No try begins later than this after the first. 0: no retries. For a list, counted from the last blob it gave. */
  readonly budgetMs: number;
}

/** Two minutes cover the restart of a storage server, and leave its users time to report before they time out. */
export const defaultRetryPolicy: RetryPolicy = {
  firstDelayMs: 100,
  factor: 1.5,
  maxDelayMs: 16_000,
  budgetMs: 120_000,
};

/** Time and chance, so that tests own them. */
export interface RetryClock {
  /** A monotonic clock. */
  nowMs(): number;
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** At least 0, below 1. */
  random(): number;
}

const systemClock: RetryClock = { nowMs: () => performance.now(), sleep, random: Math.random };

const maxRememberedIds = 262_144;

/**
 * `next` with retries.
 *
 * @example retrying(store, { budgetMs: 30_000 })
 */
export function retrying(
  next: BlobStorage,
  policy: Partial<RetryPolicy> = {},
  clock: RetryClock = systemClock,
): BlobStorage {
  return new RetryingStorage(next, { ...defaultRetryPolicy, ...policy }, clock);
}

class RetryingStorage implements BlobStorage {
  readonly description: string;
  readonly #next: BlobStorage;
  readonly #policy: RetryPolicy;
  readonly #clock: RetryClock;

  constructor(next: BlobStorage, policy: RetryPolicy, clock: RetryClock) {
    this.description = next.description;
    this.#next = next;
    this.#policy = policy;
    this.#clock = clock;
  }

  get(id: string, options?: GetOptions): Promise<Uint8Array> {
    return this.#run(() => this.#next.get(id, options), options?.signal);
  }

  put(id: string, parts: readonly Uint8Array[], options?: PutOptions): Promise<void> {
    let isFirstTry = true;
    return this.#run(async () => {
      try {
        await this.#next.put(id, parts, options);
      } catch (error) {
        const mayBeOurs = !isFirstTry && isBlockmoverError(error, "ALREADY_EXISTS");
        isFirstTry = false;
        if (!mayBeOurs || !(await this.#holds(id, parts, options?.signal))) {
          throw error;
        }
      }
    }, options?.signal);
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobMetadata> {
    const given = new Set<string>();
    let backOff = new BackOff(this.#policy, this.#clock);
    for (;;) {
      try {
        for await (const blob of this.#next.list(prefix, signal)) {
          if (given.has(blob.id)) {
            continue;
          }
          if (given.size <= maxRememberedIds) {
            given.add(blob.id);
          }
          yield blob;
          backOff = new BackOff(this.#policy, this.#clock);
        }
        return;
      } catch (error) {
        if (given.size > maxRememberedIds) {
          throw error;
        }
        await backOff.waitAfter(error, signal);
      }
    }
  }

  delete(id: string, signal?: AbortSignal): Promise<void> {
    return this.#run(() => this.#next.delete(id, signal), signal);
  }

  stat(id: string, signal?: AbortSignal): Promise<BlobMetadata> {
    return this.#run(() => this.#next.stat(id, signal), signal);
  }

  close(): Promise<void> {
    return this.#next.close();
  }

  async #run<T>(attempt: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const backOff = new BackOff(this.#policy, this.#clock);
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        await backOff.waitAfter(error, signal);
      }
    }
  }

  /** Whether the blob `id` is there and consists of `parts`. */
  async #holds(id: string, parts: readonly Uint8Array[], signal: AbortSignal | undefined): Promise<boolean> {
    let stored: Uint8Array;
    try {
      const { lengthBytes } = await this.#next.stat(id, signal);
      if (lengthBytes !== totalLengthBytes(parts)) {
        return false; // not worth the memory
      }
      stored = await this.#next.get(id, { signal });
    } catch (error) {
      if (isBlockmoverError(error, "NOT_FOUND")) {
        return false; // deleted meanwhile
      }
      throw error;
    }
    let position = 0;
    for (const part of parts) {
      if (Buffer.compare(stored.subarray(position, position + part.length), part) !== 0) {
        return false;
      }
      position += part.length;
    }
    return position === stored.length;
  }
}

/** The tries of one request. */
class BackOff {
  readonly #policy: RetryPolicy;
  readonly #clock: RetryClock;
  readonly #startedMs: number;
  #tries = 0;
  #delayMs: number;

  constructor(policy: RetryPolicy, clock: RetryClock) {
    this.#policy = policy;
    this.#clock = clock;
    this.#startedMs = clock.nowMs();
    this.#delayMs = policy.firstDelayMs;
  }

  /** Returns when it is time to try again; throws if that would be of no use, too late, or not wanted any more. */
  async waitAfter(error: unknown, signal: AbortSignal | undefined): Promise<void> {
    if (!isBlockmoverError(error, "UNAVAILABLE")) {
      throw error;
    }
    throwIfAborted(signal);
    this.#tries++;
    const elapsedMs = this.#clock.nowMs() - this.#startedMs;
    const pauseMs = this.#delayMs * (1 - this.#clock.random() / 2);
    if (elapsedMs + pauseMs > this.#policy.budgetMs) {
      const tries = `${this.#tries} ${this.#tries === 1 ? "try" : "tries"}`;
      throw new BlockmoverError(
        "UNAVAILABLE",
        `${error.message} (gave up after ${tries} in ${(elapsedMs / 1000).toFixed(1)} s)`,
        {
          cause: error,
          hint: error.hint,
        },
      );
    }
    await this.#clock.sleep(pauseMs, signal);
    this.#delayMs = Math.min(this.#delayMs * this.#policy.factor, this.#policy.maxDelayMs);
  }
}
