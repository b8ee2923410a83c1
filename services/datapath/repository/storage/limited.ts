/**
 * Wrapper that bounds how many requests a store has to serve at once; the others wait in the order they came.
 *
 * A listing takes a slot for each step and not for its whole duration, so that whoever lists may read what is listed.
 */

import { assert } from "../../../common/assert.js";
import { throwIfAborted } from "../../../common/cancellation.js";
import { BlockmoverError } from "../../../common/errors.js";
import type { BlobMetadata, BlobStorage, GetOptions, PutOptions } from "./blob-storage.js";

export interface Limits {
  /** Requests that run at the same time, at least 1. */
  readonly maxRunning: number;
  /** Requests that wait. More are refused with RESOURCE_EXHAUSTED: whoever sends so many has no bound. Default 1024. */
  readonly maxWaiting?: number;
}

/**
 * `next` with at most `maxRunning` requests at a time.
 *
 * @example limited(store, { maxRunning: 16 })
 */
export function limited(next: BlobStorage, limits: Limits): BlobStorage {
  return new LimitedStorage(next, new Slots(limits, next.description));
}

class LimitedStorage implements BlobStorage {
  readonly description: string;
  readonly #next: BlobStorage;
  readonly #slots: Slots;

  constructor(next: BlobStorage, slots: Slots) {
    this.description = next.description;
    this.#next = next;
    this.#slots = slots;
  }

  get(id: string, options?: GetOptions): Promise<Uint8Array> {
    return this.#slots.run(() => this.#next.get(id, options), options?.signal);
  }

  put(id: string, parts: readonly Uint8Array[], options?: PutOptions): Promise<void> {
    return this.#slots.run(() => this.#next.put(id, parts, options), options?.signal);
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobMetadata> {
    const iterator = this.#next.list(prefix, signal)[Symbol.asyncIterator]();
    let finished = false;
    try {
      for (;;) {
        const step = await this.#slots.run(() => iterator.next(), signal);
        if (step.done === true) {
          finished = true;
          return;
        }
        yield step.value;
      }
    } finally {
      if (!finished) {
        await iterator.return?.();
      }
    }
  }

  delete(id: string, signal?: AbortSignal): Promise<void> {
    return this.#slots.run(() => this.#next.delete(id, signal), signal);
  }

  stat(id: string, signal?: AbortSignal): Promise<BlobMetadata> {
    return this.#slots.run(() => this.#next.stat(id, signal), signal);
  }

  close(): Promise<void> {
    return this.#next.close();
  }
}

class Slots {
  readonly #maxRunning: number;
  readonly #maxWaiting: number;
  readonly #where: string;
  #running = 0;
  /** A Set, because it keeps the order and forgets one that is aborted in constant time. */
  readonly #waiting = new Set<() => void>();

  constructor(limits: Limits, where: string) {
    this.#maxRunning = limits.maxRunning;
    this.#maxWaiting = limits.maxWaiting ?? 1024;
    this.#where = where;
    assert(this.#maxRunning >= 1, `maxRunning ${this.#maxRunning} lets nothing run`);
  }

  async run<T>(work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    await this.#acquire(signal);
    try {
      return await work();
    } finally {
      this.#release();
    }
  }

  async #acquire(signal: AbortSignal | undefined): Promise<void> {
    throwIfAborted(signal);
    if (this.#running < this.#maxRunning) {
      this.#running++;
      return;
    }
    if (this.#waiting.size >= this.#maxWaiting) {
      throw new BlockmoverError(
        "RESOURCE_EXHAUSTED",
        `${this.#where}: ${this.#waiting.size} requests are waiting already`,
      );
    }
    await new Promise<void>((resolve, reject) => {
      const start = (): void => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      };
      const onAbort = (): void => {
        this.#waiting.delete(start);
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- a reason is what the aborter chose
        reject(signal?.reason);
      };
      this.#waiting.add(start);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** Hands the slot to whoever waits longest; `#running` stays as it is then, so that nobody can slip in between. */
  #release(): void {
    const [start] = this.#waiting;
    if (start === undefined) {
      this.#running--;
      return;
    }
    this.#waiting.delete(start);
    start();
  }
}
