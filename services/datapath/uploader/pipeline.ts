/**
 * Joins a reader and a writer by a ring of slots, and owns their start, stop, first error and release.
 *
 * Both run at once. When either fails, or the signal aborts, the other is stopped at its next wait; the pipeline
 * settles only after both have, with everything they had under way, so that memory and device are nobody's then.
 */
import { RingBuffer } from "./ring-buffer.js";

export async function runPipeline<Slot extends object>(options: {
  readonly slots: readonly Slot[];
  readonly read: (ring: RingBuffer<Slot>) => Promise<void>;
  readonly write: (ring: RingBuffer<Slot>) => Promise<void>;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { slots, read, write, signal } = options;
  signal.throwIfAborted();
  const ring = new RingBuffer(slots);
  const onAbort = (): void => ring.fail(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  let first: { readonly error: unknown } | undefined;
  const side = async (run: (ring: RingBuffer<Slot>) => Promise<void>): Promise<void> => {
    try {
      await run(ring);
    } catch (error) {
      first ??= { error };
      ring.fail(error);
    }
  };
  try {
    await Promise.all([side(read), side(write)]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
  signal.throwIfAborted();
  if (first) {
    throw first.error;
  }
}

/**
 * Work that was started and has to be waited for: at most `limit` at once, failures reported to `onError` at once.
 */
export class WorkInFlight {
  readonly #limit: number;
  readonly #onError: (error: unknown) => void;
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;

  constructor(limit: number, onError: (error: unknown) => void) {
    this.#limit = limit;
    this.#onError = onError;
  }

  /** Waits for a free place; rejects with the first failure. */
  async add(start: () => Promise<void>): Promise<void> {
    while (this.#running.size >= this.#limit) {
      await Promise.race(this.#running);
    }
    this.#throwIfFailed();
    const work = start().catch((error: unknown) => {
      this.#failure ??= { error };
      this.#onError(error);
    });
    this.#running.add(work);
    void work.then(() => this.#running.delete(work));
  }

  /** Waits for all of it; never rejects. To be called on every path. */
  async settle(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Waits for all of it; rejects with the first failure. */
  async finish(): Promise<void> {
    await this.settle();
    this.#throwIfFailed();
  }

  #throwIfFailed(): void {
    if (this.#failure) {
      throw this.#failure.error;
    }
  }
}
