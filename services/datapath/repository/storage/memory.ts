/**
 * A blob store in memory, for tests and simulations: the same semantics as every other, no durability, and memory
 * without a bound. Blobs are copied on the way in and on the way out.
 */

import { throwIfAborted } from "../../../common/cancellation.js";
import {
  blobExists,
  blobNotFound,
  blobTooShort,
  checkBlobId,
  checkRange,
  readTarget,
  totalLengthBytes,
} from "./blob-arguments.js";
import type { BlobMetadata, BlobStorage, GetOptions, PutOptions } from "./blob-storage.js";

interface StoredBlob {
  readonly bytes: Uint8Array;
  readonly modifiedMs: number;
}

export interface MemoryStorageOptions {
  readonly description?: string;
  /** The store's clock, in milliseconds since 1970. Default: the machine's. */
  readonly nowMs?: () => number;
}

/** An empty store in memory. */
export class MemoryStorage implements BlobStorage {
  readonly description: string;
  readonly #blobs = new Map<string, StoredBlob>();
  readonly #nowMs: () => number;

  constructor(options: MemoryStorageOptions = {}) {
    this.description = options.description ?? "memory";
    this.#nowMs = options.nowMs ?? Date.now;
  }

  async get(id: string, options: GetOptions = {}): Promise<Uint8Array> {
    await turn(options.signal, id);
    const { bytes } = this.#find(id);
    const range = options.range ?? { offsetBytes: 0, lengthBytes: bytes.length };
    checkRange(id, range);
    const end = range.offsetBytes + range.lengthBytes;
    if (end > bytes.length) {
      throw blobTooShort(id, this.description, range, bytes.length);
    }
    const result = readTarget(id, range.lengthBytes, options.target);
    result.set(bytes.subarray(range.offsetBytes, end));
    return result;
  }

  async put(id: string, parts: readonly Uint8Array[], options: PutOptions = {}): Promise<void> {
    await turn(options.signal, id);
    if (options.onlyIfAbsent === true && this.#blobs.has(id)) {
      throw blobExists(id, this.description);
    }
    const bytes = new Uint8Array(totalLengthBytes(parts));
    let position = 0;
    for (const part of parts) {
      bytes.set(part, position);
      position += part.length;
    }
    this.#blobs.set(id, { bytes, modifiedMs: this.#nowMs() });
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobMetadata> {
    await turn(signal);
    for (const id of [...this.#blobs.keys()]) {
      throwIfAborted(signal);
      const blob = this.#blobs.get(id);
      if (blob !== undefined && id.startsWith(prefix)) {
        yield { id, lengthBytes: blob.bytes.length, modifiedMs: blob.modifiedMs };
      }
    }
    throwIfAborted(signal);
  }

  async delete(id: string, signal?: AbortSignal): Promise<void> {
    await turn(signal, id);
    this.#blobs.delete(id);
  }

  async stat(id: string, signal?: AbortSignal): Promise<BlobMetadata> {
    await turn(signal, id);
    const blob = this.#find(id);
    return { id, lengthBytes: blob.bytes.length, modifiedMs: blob.modifiedMs };
  }

  async close(): Promise<void> {}

  #find(id: string): StoredBlob {
    const blob = this.#blobs.get(id);
    if (blob === undefined) {
      throw blobNotFound(id, this.description);
    }
    return blob;
  }
}

/**
 * Checks the arguments, then lets the event loop turn once, as real storage would: a loop over a store that answers in
 * microtasks would starve every timer.
 */
async function turn(signal: AbortSignal | undefined, id?: string): Promise<void> {
  throwIfAborted(signal);
  if (id !== undefined) {
    checkBlobId(id);
  }
  await new Promise((resolve) => setImmediate(resolve));
  throwIfAborted(signal);
}
