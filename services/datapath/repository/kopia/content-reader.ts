/**
 * Reads contents out of packs: locate, fetch, authenticate, decompress, re-hash.
 *
 * Contents that lie beside each other in a pack are fetched with one request. Whatever cannot be proved to be the
 * content that was asked for is an error that names content and pack; no wrong byte is ever handed out.
 *
 * Memory: at most `READ_SLABS` groups of sealed bytes at once; more callers wait.
 */
import type { ContentCipher, KeyedHash, OpenFailure } from "../../../../native/index.js";
import { ContentCipher as Cipher } from "../../../../native/index.js";
import { BlockmoverError, isBlockmoverError } from "../../../common/errors.js";
import { throwIfAborted } from "../../../common/cancellation.js";
import { CHUNK_SIZE_BYTES, MAX_GROUP_CHUNKS } from "../../../common/chunk.js";

import type { BlobStorage } from "../storage/blob-storage.js";
import { compressionById, decompressContent } from "./compression.js";
import { contentIdHash, contentIdIv, type ContentId } from "./content-id.js";
import type { ContentEntry } from "./index-entry.js";
import type { IndexStore } from "./index-store.js";
import { SlabPool } from "./slab-pool.js";

/** Contents at most this far apart in a pack are fetched together: a request costs more than these bytes. */
const MAX_GAP_BYTES = 64 * 1024;

const READ_SLABS = 3;
const READ_SLAB_BYTES = MAX_GROUP_CHUNKS * (CHUNK_SIZE_BYTES + 4096 + MAX_GAP_BYTES);

export interface ContentRead {
  readonly id: ContentId;
  /** As long as the content's plaintext. */
  readonly target: Uint8Array;
}

interface LocatedRead extends ContentRead {
  readonly entry: ContentEntry;
}

/** Reads that lie in one stretch of one pack. */
interface PackRange {
  readonly packBlobId: string;
  readonly startBytes: number;
  endBytes: number;
  readonly reads: LocatedRead[];
}

export interface ContentReaderOptions {
  readonly storage: BlobStorage;
  readonly hash: KeyedHash;
  readonly cipher: ContentCipher;
  readonly index: IndexStore;
}

export class ContentReader {
  readonly #options: ContentReaderOptions;
  readonly #slabs = new SlabPool({ slabSizeBytes: READ_SLAB_BYTES, capacity: READ_SLABS });

  constructor(options: ContentReaderOptions) {
    this.#options = options;
  }

  /** The plaintext of one (small) content. */
  async read(id: ContentId, signal?: AbortSignal): Promise<Buffer> {
    const entry = this.#locate(id);
    const target = Buffer.allocUnsafeSlow(entry.originalLength);
    await this.readMany([{ id, target }], signal);
    return target;
  }

  /** Length of a content's plaintext, from the index. */
  lengthOf(id: ContentId): number {
    return this.#locate(id).originalLength;
  }

  /** Reads a group of contents into the given memory, of which nothing may be used if this rejects. */
  async readMany(reads: readonly ContentRead[], signal?: AbortSignal): Promise<void> {
    try {
      await this.#readLocated(reads, signal);
    } catch (error) {
      if (!isBlockmoverError(error, "NOT_FOUND")) {
        throw error;
      }
      // Maintenance may have moved the contents to another pack since the index was loaded (§10.4 #8).
      await this.#options.index.load(signal);
      try {
        await this.#readLocated(reads, signal);
      } catch (again) {
        throw isBlockmoverError(again, "NOT_FOUND") ? damaged(again.message, again) : again;
      }
    }
  }

  async #readLocated(reads: readonly ContentRead[], signal: AbortSignal | undefined): Promise<void> {
    throwIfAborted(signal);
    const ranges = inPackRanges(reads.map((read) => ({ ...read, entry: this.#locate(read.id) })));
    const totalBytes = ranges.reduce((sum, range) => sum + (range.endBytes - range.startBytes), 0);
    const isLarge = totalBytes > READ_SLAB_BYTES;
    const slab = isLarge ? Buffer.allocUnsafeSlow(totalBytes) : await this.#slabs.acquire(signal);
    try {
      let used = 0;
      const located: { readonly read: LocatedRead; readonly sealed: Uint8Array }[] = [];
      const fetches: Promise<unknown>[] = [];
      for (const range of ranges) {
        const lengthBytes = range.endBytes - range.startBytes;
        const memory = slab.subarray(used, used + lengthBytes);
        used += lengthBytes;
        fetches.push(
          this.#options.storage.get(range.packBlobId, {
            range: { offsetBytes: range.startBytes, lengthBytes },
            target: memory,
            signal,
          }),
        );
        for (const read of range.reads) {
          const start = read.entry.packOffset - range.startBytes;
          located.push({ read, sealed: memory.subarray(start, start + read.entry.packedLength) });
        }
      }
      // All of them must have ended before the slab may go to someone else.
      const failed = (await Promise.allSettled(fetches)).find((result) => result.status === "rejected");
      if (failed) {
        throw failed.reason;
      }
      await this.#open(located);
    } finally {
      if (!isLarge) {
        this.#slabs.release(slab);
      }
    }
  }

  async #open(located: readonly { readonly read: LocatedRead; readonly sealed: Uint8Array }[]): Promise<void> {
    const { cipher, hash } = this.#options;
    const direct: (typeof located)[number][] = [];
    for (const item of located) {
      const { entry, target, id } = item.read;
      if (entry.originalLength !== target.length) {
        throw damaged(
          `content ${id} in pack ${entry.packBlobId}: it is ${entry.originalLength} bytes long, not ${target.length}`,
        );
      }
      if (nativeFamily(entry) === undefined) {
        await this.#openByLibrary(item);
      } else {
        direct.push(item);
      }
    }
    const failure = await cipher.openMany(
      direct.map(({ read, sealed }) => ({
        sealed,
        iv: contentIdIv(read.id),
        compression: nativeFamily(read.entry) ?? "none",
        headerId: read.entry.compressionHeaderId,
        target: read.target,
        digest: contentIdHash(read.id),
      })),
      hash,
    );
    if (failure) {
      throw openFailed((direct[failure.index] as (typeof direct)[number]).read, failure.reason);
    }
  }

  /** gzip and deflate: Node's zlib decompresses, off the main thread. */
  async #openByLibrary({ read, sealed }: { readonly read: LocatedRead; readonly sealed: Uint8Array }): Promise<void> {
    const { cipher, hash } = this.#options;
    const stored = Buffer.allocUnsafeSlow(Math.max(0, sealed.length - Cipher.overheadBytes));
    const failure = await cipher.openMany([
      { sealed, iv: contentIdIv(read.id), compression: "none", headerId: 0, target: stored },
    ]);
    if (failure) {
      throw openFailed(read, failure.reason);
    }
    const plaintext = await decompressContent(read.entry.compressionHeaderId, stored, read.entry.originalLength);
    read.target.set(plaintext);
    const digest = await hash.digestMany([read.target]);
    if (!digest.equals(contentIdHash(read.id))) {
      throw openFailed(read, "digest");
    }
  }

  #locate(id: ContentId): ContentEntry {
    const entry = this.#options.index.find(id);
    if (entry === undefined) {
      throw new BlockmoverError("NOT_FOUND", `content ${id}: no index has it`);
    }
    if (entry.encryptionKeyId !== 0) {
      throw new BlockmoverError("UNIMPLEMENTED", `content ${id}: encryption key ${entry.encryptionKeyId} is not known`);
    }
    return entry;
  }
}

/** The compressions that the addon undoes itself; undefined for those left to Node's zlib. */
function nativeFamily(entry: ContentEntry): "none" | "zstd" | "s2" | "lz4" | undefined {
  if (entry.compressionHeaderId === 0) {
    return "none";
  }
  const { family } = compressionById(entry.compressionHeaderId);
  return family === "zstd" || family === "s2" || family === "lz4" ? family : undefined;
}

/** Sorts reads by place and joins neighbours. */
function inPackRanges(reads: readonly LocatedRead[]): PackRange[] {
  const sorted = [...reads].sort((a, b) =>
    a.entry.packBlobId === b.entry.packBlobId
      ? a.entry.packOffset - b.entry.packOffset
      : a.entry.packBlobId < b.entry.packBlobId
        ? -1
        : 1,
  );
  const ranges: PackRange[] = [];
  for (const read of sorted) {
    const { packBlobId, packOffset, packedLength } = read.entry;
    const last = ranges[ranges.length - 1];
    if (last && last.packBlobId === packBlobId && packOffset - last.endBytes <= MAX_GAP_BYTES) {
      last.endBytes = Math.max(last.endBytes, packOffset + packedLength);
      last.reads.push(read);
    } else {
      ranges.push({ packBlobId, startBytes: packOffset, endBytes: packOffset + packedLength, reads: [read] });
    }
  }
  return ranges;
}

/**
 * Whether a read failed because no index has the content, or the pack that the newest index names is not there: what a
 * reader sees of whatever maintenance has dropped.
 */
export function isMissing(error: unknown): error is BlockmoverError {
  return (
    isBlockmoverError(error, "NOT_FOUND") ||
    (isBlockmoverError(error, "DATA_LOSS") && isBlockmoverError(error.cause, "NOT_FOUND"))
  );
}

const FAILURE_TEXTS: Record<OpenFailure["reason"], string> = {
  authentication: "its authentication tag is wrong",
  header: "its compression header is not the one that the index names",
  decompression: "it cannot be decompressed",
  length: "it has another length than the index says",
  digest: "its bytes do not have the hash that names it",
};

function openFailed(read: LocatedRead, reason: OpenFailure["reason"]): BlockmoverError {
  return damaged(`content ${read.id} in pack ${read.entry.packBlobId} is damaged: ${FAILURE_TEXTS[reason]}`);
}

function damaged(message: string, cause?: unknown): BlockmoverError {
  return new BlockmoverError("DATA_LOSS", message, {
    cause,
    hint: "Run `blockmover snapshot verify` to see which snapshots are whole; a new full backup stores the data again only once the damaged pack is gone.",
  });
}
