/**
 * Where blobs live: the interface that every store implements and every wrapper (`retrying`, `limited`, …) keeps.
 *
 * A store guarantees atomic puts (nobody ever sees part of a blob), read-after-write and list-after-write, and that
 * a put which has resolved survives a crash of the machine. Stores never retry; `retrying()` does.
 *
 * Errors are BlockmoverErrors: NOT_FOUND (no such blob), ALREADY_EXISTS (put with `onlyIfAbsent`), UNAVAILABLE
 * (transient, worth another try), and any other code for what will not go away by itself. An aborted signal rejects
 * with the signal's reason.
 */

export interface BlobMetadata {
  readonly id: string;
  readonly lengthBytes: number;
  /** The store's own time of the last write, in milliseconds since 1970 (whole or fractional). */
  readonly modifiedMs: number;
}

export interface ByteRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export interface GetOptions {
  /** Exactly these bytes; fewer are an error (DATA_LOSS), never a short answer. Default: the whole blob. */
  readonly range?: ByteRange;
  /**
   * Memory to read into; at least as long as what is read. The result is then a view of its beginning.
   * Without it, new memory is allocated.
   */
  readonly target?: Uint8Array;
  readonly signal?: AbortSignal;
}

export interface PutOptions {
  /** Fail with ALREADY_EXISTS instead of replacing a blob of that name. */
  readonly onlyIfAbsent?: boolean;
  readonly signal?: AbortSignal;
}

export interface BlobStorage {
  /** What people call this place, for error texts: a path or URL, never with credentials. */
  readonly description: string;
  get(id: string, options?: GetOptions): Promise<Uint8Array>;
  /** Stores the concatenation of `parts`, atomically and durably. The parts must not change until it settles. */
  put(id: string, parts: readonly Uint8Array[], options?: PutOptions): Promise<void>;
  /** All blobs whose id starts with `prefix`, in no particular order. */
  list(prefix: string, signal?: AbortSignal): AsyncIterable<BlobMetadata>;
  /** Deletes a blob; one that does not exist is no error. */
  delete(id: string, signal?: AbortSignal): Promise<void>;
  stat(id: string, signal?: AbortSignal): Promise<BlobMetadata>;
  /** Releases sockets and handles. Nothing else may be called afterwards. */
  close(): Promise<void>;
}
