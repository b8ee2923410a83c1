/**
 * The marker blob that protects a session's packs until an index names them (kopia-format.md §10.1).
 *
 * Maintenance deletes packs that no index mentions, except those of a session with a marker younger than 96 hours.
 * So the marker is stored before the first pack, and removed once the index is durable.
 */
import { hostname } from "node:os";
import type { ContentCipher, KeyedHash } from "../../../../native/index.js";
import { BlockmoverError } from "../../../common/errors.js";
import type { BlobStorage } from "../storage/blob-storage.js";
import { sealHashedBlob } from "./blob-crypto.js";
import { encodeSessionMarker, newSessionId } from "./session.js";

/** Maintenance decides by the store's clock what is old enough to delete; Kopia allows the same difference. */
const MAX_CLOCK_DIFFERENCE_MS = 5 * 60 * 1000;

export interface Session {
  readonly id: string;
  /** Deletes the marker. */
  remove(): Promise<void>;
}

/**
 * Stores the marker of a new session.
 *
 * @throws BlockmoverError FAILED_PRECONDITION when this machine's clock and the store's differ by over 5 minutes
 */
export async function openSession(
  options: {
    readonly storage: BlobStorage;
    readonly hash: KeyedHash;
    readonly cipher: ContentCipher;
    readonly identity: { readonly userName: string; readonly host: string };
    readonly nowMs: () => number;
  },
  signal?: AbortSignal,
): Promise<Session> {
  const { storage, hash, cipher, identity, nowMs } = options;
  const startedMs = nowMs();
  const id = newSessionId(startedMs);
  const payload = encodeSessionMarker({
    id,
    startTimeMs: startedMs,
    checkpointTimeMs: startedMs,
    username: identity.userName,
    hostname: identity.host,
  });
  const marker = sealHashedBlob({ hash, cipher }, { prefix: "s", suffix: id, payload });
  await storage.put(marker.id, [marker.bytes], { signal });
  const remove = (): Promise<void> => storage.delete(marker.id);
  try {
    const { modifiedMs } = await storage.stat(marker.id, signal);
    const differenceMs = modifiedMs - nowMs();
    if (Math.abs(differenceMs) > MAX_CLOCK_DIFFERENCE_MS) {
      throw new BlockmoverError(
        "FAILED_PRECONDITION",
        `the clock of ${hostname()} and that of ${storage.description} differ by ${Math.round(differenceMs / 1000)} s`,
        { hint: "Set the clock (5 minutes are allowed): a wrong one lets maintenance delete data that is in use." },
      );
    }
  } catch (error) {
    await remove().catch(() => undefined);
    throw error;
  }
  return { id, remove };
}
