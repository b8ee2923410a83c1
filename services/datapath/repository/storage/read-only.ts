/**
 * Wrapper that refuses every change: what a restore is given, so that no mistake of ours can harm a repository.
 *
 * It does not find out whether the store below can be written to.
 */

import { BlockmoverError } from "../../../common/errors.js";
import type { BlobMetadata, BlobStorage, GetOptions } from "./blob-storage.js";

/** `next` without puts and deletes: they fail with FAILED_PRECONDITION. */
export function readOnly(next: BlobStorage): BlobStorage {
  return new ReadOnlyStorage(next);
}

class ReadOnlyStorage implements BlobStorage {
  readonly description: string;
  readonly #next: BlobStorage;

  constructor(next: BlobStorage) {
    this.description = next.description;
    this.#next = next;
  }

  get(id: string, options?: GetOptions): Promise<Uint8Array> {
    return this.#next.get(id, options);
  }

  put(id: string): Promise<void> {
    return this.#refuse("write", id);
  }

  list(prefix: string, signal?: AbortSignal): AsyncIterable<BlobMetadata> {
    return this.#next.list(prefix, signal);
  }

  delete(id: string): Promise<void> {
    return this.#refuse("delete", id);
  }

  stat(id: string, signal?: AbortSignal): Promise<BlobMetadata> {
    return this.#next.stat(id, signal);
  }

  close(): Promise<void> {
    return this.#next.close();
  }

  async #refuse(verb: string, id: string): Promise<never> {
    throw new BlockmoverError(
      "FAILED_PRECONDITION",
      `cannot ${verb} blob ${id} in ${this.description}: it is open for reading only`,
    );
  }
}
