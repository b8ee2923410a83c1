/**
 * Wrapper that makes a store misbehave on purpose, for tests: by chance (a rate for each fault, from a seed) or on
 * demand (`inject`). The same seed and the same order of calls give the same faults.
 *
 *     fail-before   fails, and nothing has happened
 *     fail-after    has happened, and fails nevertheless; a list breaks off before its last blob
 *     stall         nothing happens until the signal is aborted (INTERNAL if the caller gave none)
 *     cut           a get finds a blob that ends too early: DATA_LOSS for a range beyond it, else fewer bytes
 *     flip-bit      a get gives one wrong bit
 *     lose-delete   a delete says it is done, and is not
 *     hide-newest   a list leaves out the blob written last, as an eventually consistent store may
 */

import { throwIfAborted } from "../../../common/cancellation.js";
import { assert } from "../../../common/assert.js";
import { BlockmoverError, type ErrorCode } from "../../../common/errors.js";
import { blobTooShort } from "./blob-arguments.js";
import type { BlobMetadata, BlobStorage, GetOptions, PutOptions } from "./blob-storage.js";

export type Operation = "get" | "put" | "list" | "delete" | "stat";
export type Fault = "fail-before" | "fail-after" | "stall" | "cut" | "flip-bit" | "lose-delete" | "hide-newest";

const faultsOf: Readonly<Record<Operation, readonly Fault[]>> = {
  get: ["fail-before", "fail-after", "stall", "cut", "flip-bit"],
  put: ["fail-before", "fail-after", "stall"],
  list: ["fail-before", "fail-after", "stall", "hide-newest"],
  delete: ["fail-before", "fail-after", "stall", "lose-delete"],
  stat: ["fail-before", "fail-after", "stall"],
};

export interface FaultOptions {
  readonly seed: number;
  /** How often each fault comes, 0 to 1; those left out never do. At most one comes at a time. */
  readonly rates?: Readonly<Partial<Record<Fault, number>>>;
  /** The code of `fail-before` and `fail-after`. Default UNAVAILABLE. */
  readonly code?: ErrorCode;
}

/** Which requests an injected fault is for. */
export interface FaultTarget {
  readonly operation?: Operation;
  /** Beginning of the id, or of a list's prefix. */
  readonly idPrefix?: string;
  /** For how many requests. Default 1. */
  readonly times?: number;
}

/**
 * `next` with faults.
 *
 * @example const store = faulty(new MemoryStorage(), { seed: 1, rates: { "fail-after": 0.1 } });
 */
export function faulty(next: BlobStorage, options: FaultOptions): FaultyStorage {
  return new FaultyStorage(next, options);
}

/** A generator of numbers from 0 up to, not including, 1 (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** See `faulty`. */
export class FaultyStorage implements BlobStorage {
  readonly description: string;
  /** Faults that came so far. */
  readonly counts = new Map<Fault, number>();
  readonly #next: BlobStorage;
  readonly #options: FaultOptions;
  readonly #random: () => number;
  #injected: { readonly fault: Fault; readonly target: FaultTarget; left: number }[] = [];

  constructor(next: BlobStorage, options: FaultOptions) {
    this.description = next.description;
    this.#next = next;
    this.#options = options;
    this.#random = seededRandom(options.seed);
  }

  /** Makes the next matching requests fail; those injected first come first. */
  inject(fault: Fault, target: FaultTarget = {}): void {
    const operations = target.operation === undefined ? Object.values(faultsOf) : [faultsOf[target.operation]];
    assert(
      operations.some((faults) => faults.includes(fault)),
      `${fault} never happens to ${target.operation}`,
    );
    this.#injected.push({ fault, target, left: target.times ?? 1 });
  }

  async get(id: string, options: GetOptions = {}): Promise<Uint8Array> {
    const { fault, chance } = this.#choose("get", id);
    await this.#before(fault, "get", id, options.signal);
    if (fault === "cut") {
      return this.#getCut(id, options, chance);
    }
    const data = await this.#next.get(id, options);
    const position = Math.floor(chance * data.length);
    const byte = data[position];
    if (fault === "flip-bit" && byte !== undefined) {
      data[position] = byte ^ (1 << Math.floor(this.#random() * 8));
    }
    this.#after(fault, "get", id);
    return data;
  }

  async put(id: string, parts: readonly Uint8Array[], options: PutOptions = {}): Promise<void> {
    const { fault } = this.#choose("put", id);
    await this.#before(fault, "put", id, options.signal);
    await this.#next.put(id, parts, options);
    this.#after(fault, "put", id);
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobMetadata> {
    const { fault } = this.#choose("list", prefix);
    await this.#before(fault, "list", prefix, signal);
    let held: BlobMetadata | undefined; // one blob is held back, for the fault to take
    for await (const blob of this.#next.list(prefix, signal)) {
      if (held === undefined) {
        held = blob;
      } else if (fault === "hide-newest" && held.modifiedMs > blob.modifiedMs) {
        yield blob;
      } else {
        yield held;
        held = blob;
      }
    }
    this.#after(fault, "list", prefix);
    if (held !== undefined && fault !== "hide-newest") {
      yield held;
    }
  }

  async delete(id: string, signal?: AbortSignal): Promise<void> {
    const { fault } = this.#choose("delete", id);
    await this.#before(fault, "delete", id, signal);
    if (fault !== "lose-delete") {
      await this.#next.delete(id, signal);
    }
    this.#after(fault, "delete", id);
  }

  async stat(id: string, signal?: AbortSignal): Promise<BlobMetadata> {
    const { fault } = this.#choose("stat", id);
    await this.#before(fault, "stat", id, signal);
    const blob = await this.#next.stat(id, signal);
    this.#after(fault, "stat", id);
    return blob;
  }

  close(): Promise<void> {
    return this.#next.close();
  }

  /** Decides at the call and not later, so that the order of calls alone decides what comes of a seed. */
  #choose(operation: Operation, id: string): { readonly fault: Fault | undefined; readonly chance: number } {
    let drawn = this.#random();
    const chance = this.#random();
    let fault = this.#takeInjected(operation, id);
    for (const candidate of fault === undefined ? faultsOf[operation] : []) {
      const rate = this.#options.rates?.[candidate] ?? 0;
      if (drawn < rate) {
        fault = candidate;
        break;
      }
      drawn -= rate;
    }
    if (fault !== undefined) {
      this.counts.set(fault, (this.counts.get(fault) ?? 0) + 1);
    }
    return { fault, chance };
  }

  #takeInjected(operation: Operation, id: string): Fault | undefined {
    const found = this.#injected.find(
      ({ fault, target }) =>
        faultsOf[operation].includes(fault) &&
        (target.operation ?? operation) === operation &&
        id.startsWith(target.idPrefix ?? ""),
    );
    if (found === undefined) {
      return undefined;
    }
    found.left--;
    if (found.left === 0) {
      this.#injected = this.#injected.filter((item) => item !== found);
    }
    return found.fault;
  }

  async #before(
    fault: Fault | undefined,
    operation: Operation,
    id: string,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    if (fault === "fail-before") {
      throw this.#error(fault, operation, id);
    }
    if (fault === "stall") {
      assert(
        signal !== undefined,
        `injected fault: ${operation} ${id} stalls, and its caller gave no signal to end it`,
      );
      await new Promise<void>((resolve) => {
        if (signal.aborted) {
          resolve();
        }
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
      throwIfAborted(signal);
    }
  }

  #after(fault: Fault | undefined, operation: Operation, id: string): void {
    if (fault === "fail-after") {
      throw this.#error(fault, operation, id);
    }
  }

  #error(fault: Fault, operation: Operation, id: string): BlockmoverError {
    return new BlockmoverError(this.#options.code ?? "UNAVAILABLE", `injected fault: ${operation} ${id}: ${fault}`);
  }

  async #getCut(id: string, options: GetOptions, chance: number): Promise<Uint8Array> {
    const { lengthBytes } = await this.#next.stat(id, options.signal);
    const { range } = options;
    // Somewhere in what was asked for, so that the fault is felt.
    const end = range === undefined ? lengthBytes : Math.min(range.offsetBytes + range.lengthBytes, lengthBytes);
    const begin = Math.min(range?.offsetBytes ?? 0, end);
    const cutBytes = begin + Math.floor(chance * (end - begin));
    if (range !== undefined) {
      throw blobTooShort(id, this.description, range, cutBytes);
    }
    return this.#next.get(id, { ...options, range: { offsetBytes: 0, lengthBytes: cutBytes } });
  }
}
