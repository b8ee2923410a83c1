/**
 * Wrapper that reports each finished request to a callback, for logs and metrics.
 */

import { isCancelled } from "../../../common/cancellation.js";
import { isBlockmoverError, type ErrorCode } from "../../../common/errors.js";
import { totalLengthBytes } from "./blob-arguments.js";
import type { BlobMetadata, BlobStorage, GetOptions, PutOptions } from "./blob-storage.js";

export interface StorageEvent {
  readonly operation: "get" | "put" | "list" | "delete" | "stat";
  /** The blob, or for a list the prefix. */
  readonly id: string;
  /** Bytes read or handed over for writing; 0 where none were. */
  readonly bytes: number;
  /** For a list, how many blobs it gave. */
  readonly blobs?: number;
  /** For a list, with the time that its consumer took. */
  readonly durationMs: number;
  /** `stopped`: the consumer of a list wanted no more. Errors that are no BlockmoverErrors count as INTERNAL. */
  readonly outcome: "ok" | "aborted" | "stopped" | ErrorCode;
}

/**
 * `next`, with one call of `report` for each request when it has finished. `report` must not throw.
 *
 * @param nowMs a monotonic clock
 */
export function logged(
  next: BlobStorage,
  report: (event: StorageEvent) => void,
  nowMs: () => number = () => performance.now(),
): BlobStorage {
  return new LoggedStorage(next, report, nowMs);
}

class LoggedStorage implements BlobStorage {
  readonly description: string;
  readonly #next: BlobStorage;
  readonly #report: (event: StorageEvent) => void;
  readonly #nowMs: () => number;

  constructor(next: BlobStorage, report: (event: StorageEvent) => void, nowMs: () => number) {
    this.description = next.description;
    this.#next = next;
    this.#report = report;
    this.#nowMs = nowMs;
  }

  get(id: string, options?: GetOptions): Promise<Uint8Array> {
    return this.#run(
      "get",
      id,
      options?.signal,
      () => this.#next.get(id, options),
      (data) => data.length,
    );
  }

  put(id: string, parts: readonly Uint8Array[], options?: PutOptions): Promise<void> {
    const bytes = totalLengthBytes(parts);
    return this.#run(
      "put",
      id,
      options?.signal,
      () => this.#next.put(id, parts, options),
      () => bytes,
    );
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobMetadata> {
    const startedMs = this.#nowMs();
    let outcome: StorageEvent["outcome"] = "stopped";
    let blobs = 0;
    try {
      for await (const blob of this.#next.list(prefix, signal)) {
        blobs++;
        yield blob;
      }
      outcome = "ok";
    } catch (error) {
      outcome = outcomeOf(error, signal);
      throw error;
    } finally {
      this.#report({ operation: "list", id: prefix, bytes: 0, blobs, durationMs: this.#nowMs() - startedMs, outcome });
    }
  }

  delete(id: string, signal?: AbortSignal): Promise<void> {
    return this.#run(
      "delete",
      id,
      signal,
      () => this.#next.delete(id, signal),
      () => 0,
    );
  }

  stat(id: string, signal?: AbortSignal): Promise<BlobMetadata> {
    return this.#run(
      "stat",
      id,
      signal,
      () => this.#next.stat(id, signal),
      () => 0,
    );
  }

  close(): Promise<void> {
    return this.#next.close();
  }

  async #run<T>(
    operation: StorageEvent["operation"],
    id: string,
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
    bytesOf: (result: T) => number,
  ): Promise<T> {
    const startedMs = this.#nowMs();
    let outcome: StorageEvent["outcome"] = "ok";
    let bytes = 0;
    try {
      const result = await work();
      bytes = bytesOf(result);
      return result;
    } catch (error) {
      outcome = outcomeOf(error, signal);
      throw error;
    } finally {
      this.#report({ operation, id, bytes, durationMs: this.#nowMs() - startedMs, outcome });
    }
  }
}

function outcomeOf(error: unknown, signal: AbortSignal | undefined): StorageEvent["outcome"] {
  if (isCancelled(error, signal)) {
    return "aborted";
  }
  return isBlockmoverError(error) ? error.code : "INTERNAL";
}
