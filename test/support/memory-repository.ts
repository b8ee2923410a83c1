/** A repository over a store in memory: everything real but the disk. */
import { createKopiaRepository } from "../../services/datapath/repository/kopia/create-repository.js";
import {
  openKopiaRepository,
  type KopiaRepository,
} from "../../services/datapath/repository/kopia/kopia-repository.js";
import type { NewFormatOptions } from "../../services/datapath/repository/kopia/format-blob.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { MemoryStorage } from "../../services/datapath/repository/storage/memory.js";

export const TEST_PASSWORD = "test-password";

export async function newMemoryRepository(
  options: { readonly storage?: BlobStorage; readonly format?: NewFormatOptions; readonly nowMs?: () => number } = {},
): Promise<{ readonly storage: BlobStorage; readonly repository: KopiaRepository }> {
  const storage = options.storage ?? new MemoryStorage({ nowMs: options.nowMs });
  await createKopiaRepository({ storage, password: TEST_PASSWORD, format: options.format });
  return { storage, repository: await reopen(storage, options.nowMs) };
}

export function reopen(storage: BlobStorage, nowMs?: () => number): Promise<KopiaRepository> {
  return openKopiaRepository({ storage, password: TEST_PASSWORD, nowMs });
}

/** The ids of all blobs that begin with `prefix`. */
export async function blobIds(storage: BlobStorage, prefix: string): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of storage.list(prefix)) {
    ids.push(id);
  }
  return ids.sort();
}
