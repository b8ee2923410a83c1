/**
 * Makes a new repository in Kopia's format, in an empty place (kopia-format.md §2.8, §11).
 *
 * Besides the format it gets what Velero expects of a repository: its initialisation mark, and a maintenance owner
 * (`default@default`), without whom nobody would ever run maintenance.
 */
import { BlockmoverError } from "../../../common/errors.js";
import type { BlobStorage } from "../storage/blob-storage.js";
import {
  BLOBCFG_BLOB_ID,
  encodeBlobConfiguration,
  encodeFormatBlob,
  FORMAT_BLOB_ID,
  newRepositoryFormat,
  type NewFormatOptions,
} from "./format-blob.js";
import { openKopiaRepository } from "./kopia-repository.js";

/** Written by Velero 1.18 and later; a repository without it counts as not initialised there. */
const VELERO_MARK_BLOB_ID = "udmrepo.Repository";

const HOUR_NS = 3_600_000_000_000;

/**
 * @throws BlockmoverError ALREADY_EXISTS when there is a repository, FAILED_PRECONDITION when the place is not empty,
 * INVALID_ARGUMENT or UNIMPLEMENTED for a format that cannot be made
 */
export async function createKopiaRepository(options: {
  readonly storage: BlobStorage;
  readonly password: string;
  readonly format?: NewFormatOptions;
  /** Who runs maintenance, as `user@host`; Velero's identity by default. */
  readonly maintenanceOwner?: string;
  readonly signal?: AbortSignal;
}): Promise<void> {
  const { storage, password, signal } = options;
  if (password === "") {
    throw new BlockmoverError("INVALID_ARGUMENT", "a repository needs a password that is not empty");
  }
  const format = newRepositoryFormat(options.format);
  await refuseUnlessEmpty(storage, signal);
  const { bytes, formatKey } = await encodeFormatBlob(format, password);
  const configuration = encodeBlobConfiguration({}, { formatKey, uniqueId: format.uniqueId });
  await storage.put(BLOBCFG_BLOB_ID, [configuration], { onlyIfAbsent: true, signal });
  await storage.put(FORMAT_BLOB_ID, [bytes], { onlyIfAbsent: true, signal });
  const repository = await openKopiaRepository({ storage, password, signal });
  await repository.putManifest(
    { type: "maintenance" },
    {
      owner: options.maintenanceOwner ?? "default@default",
      quick: { enabled: true, interval: HOUR_NS },
      full: { enabled: true, interval: 24 * HOUR_NS },
      logRetention: { maxTotalSize: 1 << 30, maxCount: 10_000, maxAge: 30 * 24 * HOUR_NS },
      extendObjectLocks: false,
      listParallelism: 0,
    },
    signal,
  );
  const mark = JSON.stringify({ uniqueID: Buffer.from(format.uniqueId).toString("base64") });
  await storage.put(VELERO_MARK_BLOB_ID, [Buffer.from(mark)], { signal });
}

async function refuseUnlessEmpty(storage: BlobStorage, signal: AbortSignal | undefined): Promise<void> {
  // A repository by its own name, not as any of the blobs that a listing happens to begin with.
  for await (const { id } of storage.list(FORMAT_BLOB_ID, signal)) {
    if (id === FORMAT_BLOB_ID) {
      throw new BlockmoverError("ALREADY_EXISTS", `there is a repository in ${storage.description} already`);
    }
  }
  for await (const { id } of storage.list("", signal)) {
    throw new BlockmoverError("FAILED_PRECONDITION", `${storage.description} is not empty: it has blob ${id}`, {
      hint: "A repository is made in an empty place; choose another one.",
    });
  }
}
