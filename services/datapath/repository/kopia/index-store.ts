/**
 * The index blobs of a repository: loads the set that counts, and adds to it (kopia-format.md §7.2-7.5).
 *
 * Loading never misses a blob that counts: a blob that vanishes between listing and reading has been compacted, and
 * the state is read again. Writing never leaves an index blob in an epoch that is already settled, where nobody
 * would read it: that is checked before and after the put. Blobs never change, so a reload fetches only new ones.
 *
 * Memory: the plaintext bytes of the indexes, searched in place.
 */
import type { ContentCipher, KeyedHash } from "../../../../native/index.js";
import { ContentCipher as Cipher } from "../../../../native/index.js";
import { sleep, throwIfAborted } from "../../../common/cancellation.js";
import { BlockmoverError, isBlockmoverError } from "../../../common/errors.js";
import type { BlobStorage } from "../storage/blob-storage.js";
import { openHashedBlob, sealHashedBlob } from "./blob-crypto.js";
import type { ContentId } from "./content-id.js";
import {
  chooseIndexBlobs,
  EPOCH_MARKER_PREFIX,
  epochState,
  indexBlobSuffix,
  RANGE_PREFIX,
  SINGLE_PREFIX,
  uncompactedPrefix,
  uncompactedPrefixes,
  WATERMARK_PREFIX,
  type NamedBlob,
} from "./epoch.js";
import type { ContentEntry } from "./index-entry.js";
import type { IndexReader } from "./index-reader.js";
import { encodeIndexV2 } from "./index-v2.js";
import { MergedIndex } from "./merged-index.js";
import { openIndex } from "./open-index.js";

/** As Kopia: a blob may be compacted away while we load; ten such races in a row are not a coincidence. */
const MAX_LOAD_ATTEMPTS = 10;
const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 5_000;

/** Indexes fetched at once; each costs its bytes twice while it is decrypted. */
const FETCH_DEPTH = 4;

/** A write needs this share of the state's validity left, so that it lands in the epoch it was meant for. */
const LEAST_VALIDITY_SHARE = 0.75;

/** More epochs than this cannot pass while one small blob is written, unless the machine sleeps. */
const MAX_WRITE_ATTEMPTS = 5;

interface CommittedState {
  readonly writeEpoch: number;
  /** Until then nobody may have settled the write epoch (by the protocol's minimum epoch duration). */
  readonly validUntilMs: number;
}

export interface IndexStoreOptions {
  readonly storage: BlobStorage;
  readonly hash: KeyedHash;
  readonly cipher: ContentCipher;
  readonly epochRefreshFrequencyMs: number;
  readonly nowMs: () => number;
}

export class IndexStore {
  readonly #options: IndexStoreOptions;
  readonly #merged = new MergedIndex();
  #readers = new Map<string, IndexReader>();
  #state: CommittedState | undefined;
  #loading: Promise<void> | undefined;
  #loadedAtMs = Number.NEGATIVE_INFINITY;
  #foreignGeneration = 0;

  constructor(options: IndexStoreOptions) {
    this.#options = options;
  }

  /** When the present view was listed; everything older was seen. */
  get loadedAtMs(): number {
    return this.#loadedAtMs;
  }

  /**
   * Changes whenever a load finds something that this store did not write itself: another client's index, a
   * compaction, a watermark. While it stays the same, what was live is live.
   */
  get foreignGeneration(): number {
    return this.#foreignGeneration;
  }

  get contentCount(): number {
    return this.#merged.entryCount;
  }

  find(id: ContentId): ContentEntry | undefined {
    return this.#merged.find(id);
  }

  /** Whether the content is there and may be referred to: not marked deleted. */
  isLive(id: ContentId): boolean {
    const found = this.#merged.locate(id);
    return found !== undefined && !found.reader.isDeletedAt(found.position);
  }

  /** Time of the newest entry that any index has for a content; a new one must be later. */
  newestTimestampSeconds(id: ContentId): number {
    return this.#merged.newestTimestampSeconds(id) ?? 0;
  }

  /** The live manifest contents. */
  *manifestContents(): Generator<ContentId> {
    for (const entry of this.#merged.iteratePrefix("m")) {
      if (!entry.deleted) {
        yield entry.contentId;
      }
    }
  }

  /** Reads the repository's present state. Calls at the same time share one load. */
  load(signal?: AbortSignal): Promise<void> {
    this.#loading ??= this.#load(signal).finally(() => {
      this.#loading = undefined;
    });
    return this.#loading;
  }

  /**
   * Makes entries part of the repository's index. When it resolves, every client can find them.
   *
   * @returns bytes stored
   * @throws BlockmoverError FAILED_PRECONDITION when epochs advanced so fast that the entries would not be read
   */
  async write(entries: readonly ContentEntry[], sessionId: string, signal?: AbortSignal): Promise<number> {
    const { storage, nowMs, epochRefreshFrequencyMs } = this.#options;
    const plaintext = encodeIndexV2(entries);
    for (let attempt = 0; attempt < MAX_WRITE_ATTEMPTS; attempt++) {
      throwIfAborted(signal);
      const state = await this.#stateValidFor(epochRefreshFrequencyMs * LEAST_VALIDITY_SHARE, signal);
      const blob = sealHashedBlob(this.#options, {
        prefix: uncompactedPrefix(state.writeEpoch),
        suffix: indexBlobSuffix(sessionId, 1),
        payload: plaintext,
      });
      if (nowMs() >= state.validUntilMs) {
        continue;
      }
      await storage.put(blob.id, [blob.bytes], { signal });
      // What the blob indexes exists from here on, a snapshot perhaps: too late to be cancelled.
      const after = await this.#readState(undefined);
      if (after.writeEpoch >= state.writeEpoch + 2) {
        // The epoch may be compacted already, and then this blob is never read: take it back and write it again.
        await storage.delete(blob.id);
        continue;
      }
      const reader = openIndex(plaintext, { overheadBytes: Cipher.overheadBytes, name: blob.id });
      this.#readers.set(blob.id, reader);
      this.#merged.add(reader);
      return blob.bytes.length;
    }
    throw new BlockmoverError(
      "FAILED_PRECONDITION",
      `index of session ${sessionId}: the repository's epochs advanced faster than it could be written`,
      { hint: "Check the clocks of this machine and of the store, and that this machine was not suspended." },
    );
  }

  async #load(signal: AbortSignal | undefined): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#tryLoad(signal);
        return;
      } catch (error) {
        if (!isBlockmoverError(error, "NOT_FOUND") || attempt === MAX_LOAD_ATTEMPTS) {
          throw error;
        }
        await sleep(Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** (attempt - 1)), signal);
      }
    }
  }

  async #tryLoad(signal: AbortSignal | undefined): Promise<void> {
    const { storage, nowMs, epochRefreshFrequencyMs } = this.#options;
    const startedMs = nowMs();
    const [epochMarkers, watermarks, single, ranges] = await Promise.all(
      [EPOCH_MARKER_PREFIX, WATERMARK_PREFIX, SINGLE_PREFIX, RANGE_PREFIX].map((prefix) => this.#list(prefix, signal)),
    );
    const epochs = epochState({
      epochMarkers: epochMarkers as NamedBlob[],
      watermarks: watermarks as NamedBlob[],
      single: single as NamedBlob[],
      ranges: ranges as NamedBlob[],
    });
    const uncompacted = (
      await Promise.all(uncompactedPrefixes(epochs).map((prefix) => this.#list(prefix, signal)))
    ).flat();
    const chosen = chooseIndexBlobs(epochs, uncompacted);
    const readers = new Map<string, IndexReader>();
    const missing: string[] = [];
    for (const { id } of chosen) {
      const known = this.#readers.get(id);
      if (known) {
        readers.set(id, known);
      } else {
        missing.push(id);
      }
    }
    for (let start = 0; start < missing.length; start += FETCH_DEPTH) {
      await Promise.all(
        missing.slice(start, start + FETCH_DEPTH).map(async (id) => {
          const plaintext = openHashedBlob(this.#options, id, await storage.get(id, { signal }));
          readers.set(id, openIndex(plaintext, { overheadBytes: Cipher.overheadBytes, name: id }));
        }),
      );
    }
    const validUntilMs = startedMs + epochRefreshFrequencyMs;
    if (nowMs() > validUntilMs) {
      throw new BlockmoverError("UNAVAILABLE", `loading the index of ${storage.description} took too long`, {
        hint: "The store is too slow to read the repository's index within its refresh period.",
      });
    }
    const vanished = [...this.#readers.keys()].some((id) => !readers.has(id));
    if (missing.length > 0 || vanished || epochs.watermarkSeconds !== this.#merged.watermarkSeconds) {
      this.#foreignGeneration++;
    }
    this.#readers = readers;
    this.#merged.replaceAll([...readers.values()], epochs.watermarkSeconds);
    this.#state = { writeEpoch: epochs.writeEpoch, validUntilMs };
    this.#loadedAtMs = startedMs;
  }

  async #stateValidFor(leastMs: number, signal: AbortSignal | undefined): Promise<CommittedState> {
    const known = this.#state;
    if (known && known.validUntilMs - this.#options.nowMs() >= leastMs) {
      return known;
    }
    return this.#readState(signal);
  }

  /** The write epoch alone: the listing of its markers. */
  async #readState(signal: AbortSignal | undefined): Promise<CommittedState> {
    const validUntilMs = this.#options.nowMs() + this.#options.epochRefreshFrequencyMs;
    const epochMarkers = await this.#list(EPOCH_MARKER_PREFIX, signal);
    const { writeEpoch } = epochState({ epochMarkers, watermarks: [], single: [], ranges: [] });
    this.#state = { writeEpoch, validUntilMs };
    return this.#state;
  }

  async #list(prefix: string, signal: AbortSignal | undefined): Promise<NamedBlob[]> {
    const blobs: NamedBlob[] = [];
    for await (const { id } of this.#options.storage.list(prefix, signal)) {
      blobs.push({ id });
    }
    // Sorted, so that whatever depends on the order (which of two complete sets is first) is the same each time.
    return blobs.sort((a, b) => (a.id < b.id ? -1 : 1));
  }
}
