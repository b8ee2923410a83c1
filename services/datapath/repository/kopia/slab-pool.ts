/**
 * A bounded number of equally long, page-aligned pieces of memory, allocated on first use and then reused.
 *
 * Waiting for a slab is what keeps the writer from running ahead of the uploads: there is no other queue.
 */
import { allocateAligned } from "../../../../native/index.js";
import { assert } from "../../../common/assert.js";
import { throwIfAborted } from "../../../common/cancellation.js";

interface Waiter {
  readonly resolve: (slab: Buffer) => void;
  readonly reject: (error: unknown) => void;
}

export class SlabPool {
  readonly slabSizeBytes: number;
  readonly #capacity: number;
  readonly #free: Buffer[] = [];
  readonly #waiters = new Set<Waiter>();
  #allocated = 0;

  constructor(options: { slabSizeBytes: number; capacity: number }) {
    this.slabSizeBytes = options.slabSizeBytes;
    this.#capacity = options.capacity;
  }

  /** Waits for a slab and owns it until `release`. */
  acquire(signal?: AbortSignal): Promise<Buffer> {
    throwIfAborted(signal);
    const slab = this.#free.pop();
    if (slab) {
      return Promise.resolve(slab);
    }
    if (this.#allocated < this.#capacity) {
      this.#allocated++;
      return Promise.resolve(allocateAligned(this.slabSizeBytes));
    }
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        resolve: (granted) => {
          signal?.removeEventListener("abort", onAbort);
          resolve(granted);
        },
        reject,
      };
      const onAbort = (): void => {
        this.#waiters.delete(waiter);
        reject(signal?.reason as Error);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiters.add(waiter);
    });
  }

  release(slab: Buffer): void {
    const [waiter] = this.#waiters;
    if (waiter) {
      this.#waiters.delete(waiter);
      waiter.resolve(slab);
    } else {
      this.#free.push(slab);
      assert(this.#free.length <= this.#allocated, "a slab is released once");
    }
  }
}
