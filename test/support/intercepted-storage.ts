/** A store that tells what is asked of it, and may be made to do something else. */
import type {
  BlobMetadata,
  BlobStorage,
  GetOptions,
  PutOptions,
} from "../../services/datapath/repository/storage/blob-storage.js";

export interface StorageRequest {
  readonly operation: "get" | "put" | "list" | "delete" | "stat";
  /** The blob's id, or the prefix of a list. */
  readonly id: string;
  readonly phase: "before" | "after";
}

/** Calls `onRequest` before and after each request; what it throws is what the request rejects with. */
export function intercept(
  next: BlobStorage,
  onRequest: (request: StorageRequest) => void | Promise<void>,
): BlobStorage {
  const around = async <T>(operation: StorageRequest["operation"], id: string, call: () => Promise<T>): Promise<T> => {
    await onRequest({ operation, id, phase: "before" });
    const result = await call();
    await onRequest({ operation, id, phase: "after" });
    return result;
  };
  return {
    description: next.description,
    get: (id: string, options?: GetOptions) => around("get", id, () => next.get(id, options)),
    put: (id: string, parts: readonly Uint8Array[], options?: PutOptions) =>
      around("put", id, () => next.put(id, parts, options)),
    async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobMetadata> {
      await onRequest({ operation: "list", id: prefix, phase: "before" });
      yield* next.list(prefix, signal);
      await onRequest({ operation: "list", id: prefix, phase: "after" });
    },
    delete: (id: string, signal?: AbortSignal) => around("delete", id, () => next.delete(id, signal)),
    stat: (id: string, signal?: AbortSignal) => around("stat", id, () => next.stat(id, signal)),
    close: () => next.close(),
  };
}
