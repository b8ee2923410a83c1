/**
 * The bounded buffer between the reader and the writer of a transfer.
 *
 * A fixed number of slots, allocated once, go round: the reader takes a free slot, fills it and pushes it; the
 * writer shifts it, drains it and gives it back. Slots come out in the order in which they were pushed. Whoever has
 * taken a slot owns it. Back-pressure is waiting for a slot; nothing is ever queued beyond the slots there are.
 *
 * One side's failure ends the other: `fail` rejects every wait from then on with the same error.
 */
import { assert } from "../../common/assert.js";

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

export class RingBuffer<Slot extends object> {
  readonly #capacity: number;
  readonly #free: Slot[];
  readonly #filled: Slot[] = [];
  readonly #freeWaiters: Waiter<Slot>[] = [];
  #filledWaiter: Waiter<Slot | undefined> | undefined;
  #ended = false;
  #failure: { readonly error: unknown } | undefined;

  constructor(slots: readonly Slot[]) {
    assert(slots.length > 0, "a ring has slots");
    this.#capacity = slots.length;
    this.#free = [...slots];
  }

  /** Slots that are filled and wait for the writer: the occupancy that telemetry shows. */
  get filledCount(): number {
    return this.#filled.length;
  }

  /** Reader: waits for a free slot and owns it. */
  acquire(): Promise<Slot> {
    if (this.#failure) {
      return rejected(this.#failure.error);
    }
    const slot = this.#free.pop();
    if (slot) {
      return Promise.resolve(slot);
    }
    assert(this.#freeWaiters.length < this.#capacity, "no more waits than slots");
    return new Promise((resolve, reject) => this.#freeWaiters.push({ resolve, reject }));
  }

  /** Reader: hands a filled slot to the writer. */
  push(slot: Slot): void {
    assert(!this.#ended, "nothing is pushed after the end");
    if (this.#filledWaiter) {
      const waiter = this.#filledWaiter;
      this.#filledWaiter = undefined;
      waiter.resolve(slot);
    } else {
      this.#filled.push(slot);
      assert(this.#filled.length <= this.#capacity, "no more filled slots than there are slots");
    }
  }

  /** Reader: nothing will follow. */
  end(): void {
    this.#ended = true;
    this.#filledWaiter?.resolve(undefined);
    this.#filledWaiter = undefined;
  }

  /** Writer: the next filled slot in order, or undefined after the last. */
  shift(): Promise<Slot | undefined> {
    if (this.#failure) {
      return rejected(this.#failure.error);
    }
    const slot = this.#filled.shift();
    if (slot || this.#ended) {
      return Promise.resolve(slot);
    }
    assert(this.#filledWaiter === undefined, "there is one writer");
    return new Promise((resolve, reject) => {
      this.#filledWaiter = { resolve, reject };
    });
  }

  /** Writer: gives a drained slot back. */
  release(slot: Slot): void {
    const waiter = this.#freeWaiters.shift();
    if (waiter) {
      waiter.resolve(slot);
    } else {
      this.#free.push(slot);
      assert(this.#free.length <= this.#capacity, "a slot is released once");
    }
  }

  /** Either side: ends the transfer; the first error wins. */
  fail(error: unknown): void {
    if (this.#failure) {
      return;
    }
    this.#failure = { error };
    for (const waiter of this.#freeWaiters.splice(0)) {
      waiter.reject(error);
    }
    this.#filledWaiter?.reject(error);
    this.#filledWaiter = undefined;
  }
}

/** Rejects with whatever was thrown or given to an abort: that is not for us to wrap. */
async function rejected(error: unknown): Promise<never> {
  throw error;
}
