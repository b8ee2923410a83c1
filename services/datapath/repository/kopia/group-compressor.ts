/**
 * Compresses groups of contents on the thread pool, in bounded memory.
 *
 * The compressed bytes live until the group has been sealed into a pack. Only a few groups may be at that at once:
 * compressed chunks of every slot of a transfer would be as much memory again as the slots themselves.
 */
import { zstdCompressMany } from "../../../../native/index.js";
import { CHUNK_SIZE_BYTES, MAX_GROUP_CHUNKS } from "../../../common/chunk.js";
import { compressContent, type Compression } from "./compression.js";
import type { ContentId } from "./content-id.js";
import { SlabPool } from "./slab-pool.js";

export type WritableCompression = Extract<Compression, { writable: true }>;

/** A content as it will be sealed. */
export interface CompressedGroupItem {
  readonly id: ContentId;
  /** The plaintext itself, or the header and stream of a compressor. */
  readonly stored: Uint8Array;
  readonly originalLength: number;
  /** 0 when `stored` is the plaintext. */
  readonly compressionHeaderId: number;
}

export interface PlainGroupItem {
  readonly id: ContentId;
  readonly plaintext: Uint8Array;
}

/** Groups compressed and not yet sealed: two keep two cores busy. */
const GROUPS_AT_ONCE = 2;

/** Less than this (a piece of a table, a manifest) does not wait for a slab. */
const SMALL_GROUP_BYTES = 512 * 1024;

export class GroupCompressor {
  readonly #slabs = new SlabPool({
    slabSizeBytes: MAX_GROUP_CHUNKS * CHUNK_SIZE_BYTES,
    capacity: GROUPS_AT_ONCE,
  });

  /** Compresses what gains by it, gives all of it to `use`, and takes the memory back when that has settled. */
  async with(
    contents: readonly PlainGroupItem[],
    compression: WritableCompression | undefined,
    use: (items: readonly CompressedGroupItem[]) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void> {
    if (compression === undefined) {
      return use(contents.map(uncompressed));
    }
    const totalBytes = contents.reduce((sum, { plaintext }) => sum + plaintext.length, 0);
    if (totalBytes <= SMALL_GROUP_BYTES) {
      return use(await compressGroup(contents, compression, Buffer.allocUnsafe(totalBytes)));
    }
    const slab = await this.#slabs.acquire(signal);
    try {
      // Only contents of other clients, written again, can be longer than a group of chunks.
      const memory = totalBytes <= slab.length ? slab : Buffer.allocUnsafeSlow(totalBytes);
      await use(await compressGroup(contents, compression, memory));
    } finally {
      this.#slabs.release(slab);
    }
  }
}

function uncompressed({ id, plaintext }: PlainGroupItem): CompressedGroupItem {
  return { id, stored: plaintext, originalLength: plaintext.length, compressionHeaderId: 0 };
}

async function compressGroup(
  contents: readonly PlainGroupItem[],
  compression: WritableCompression,
  memory: Buffer,
): Promise<CompressedGroupItem[]> {
  if (compression.family !== "zstd") {
    // One after the other: zlib makes its own memory for each.
    const items: CompressedGroupItem[] = [];
    for (const content of contents) {
      const { headerId, stored } = await compressContent(compression.name, content.plaintext);
      items.push({ ...uncompressed(content), stored, compressionHeaderId: headerId });
    }
    return items;
  }
  let used = 0;
  const targets = contents.map(({ plaintext }) => memory.subarray(used, (used += plaintext.length)));
  const lengths = await zstdCompressMany(
    contents.map(({ plaintext }, position) => ({
      source: plaintext,
      target: targets[position] as Buffer,
      headerId: compression.id,
    })),
    compression.zstdLevel,
  );
  return contents.map((content, position) => {
    const length = lengths[position] ?? 0;
    return length === 0
      ? uncompressed(content)
      : {
          ...uncompressed(content),
          stored: (targets[position] as Buffer).subarray(0, length),
          compressionHeaderId: compression.id,
        };
  });
}
