/**
 * Writes a volume object whose unwritten ranges cost nothing: the incremental-aware object writer.
 *
 *     writeAt(chunks…)          hash, dedup, seal: several groups at once
 *        │ content ids, in the order of the calls
 *        ▼
 *     table   ──gap──▶ parent's entries (increment) or the ZERO content (full, or beyond the parent's end)
 *        │ pieces of 128 KiB
 *        ▼
 *     contents with prefix x  ──▶  object id I x…  (or IIx…: a table of pieces)
 *
 * The object is the volume rounded up to whole chunks; every entry is one chunk, aligned, also the last
 * (velero-block-layout.md). The parent's table is streamed in and the new one streamed out; neither is ever in
 * memory as a whole. What a call does not write must be unchanged since the parent: the caller vouches for that.
 */
import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";
import { CHUNK_SIZE_BYTES, MAX_GROUP_CHUNKS } from "../../../common/chunk.js";
import type {
  NewObjectOptions,
  ObjectEntry,
  ObjectReader,
  ObjectWriter,
  ObjectWriterStats,
  VolumeChunk,
} from "../repository.js";
import type { ContentId } from "./content-id.js";
import type { ContentWriter } from "./content-writer.js";
import { TableEncoder } from "./indirect-table.js";

/** Upstream's block mover cuts tables FIXED-128K whatever the repository's splitter is; so unchanged pieces dedup. */
const TABLE_PIECE_BYTES = 128 * 1024;

/** The table of pieces is cut coarsely: one content for volumes below 100 TiB. */
const UPPER_TABLE_PIECE_BYTES = 4 * 1024 * 1024;

const TABLE_COMPRESSION = "zstd-fastest";

interface TablePiece {
  readonly lengthBytes: number;
  readonly id: ContentId;
}

export class KopiaObjectWriter implements ObjectWriter {
  readonly stats = { newContentBytes: 0, zeroBytes: 0, deduplicatedBytes: 0 } satisfies ObjectWriterStats;
  readonly #contents: ContentWriter;
  readonly #compression: string;
  readonly #objectLengthBytes: number;
  readonly #zeroChunkId: () => Promise<ContentId>;
  readonly #table = new TableEncoder(TABLE_PIECE_BYTES);
  readonly #pieces: TablePiece[] = [];
  readonly #abort = new AbortController();
  #parentEntries: AsyncIterator<readonly ObjectEntry[]> | undefined;
  #parentBatch: readonly ObjectEntry[] = [];
  #parentPosition = 0;
  #lastOffsetBytes = -1;
  /** Ends when the table has everything of the calls so far, in their order. */
  #tail: Promise<void> = Promise.resolve();
  #finished = false;

  /**
   * @param options.parent whose entries fill what is not written; it must lie in aligned entries of one chunk
   * @param options.zeroChunkId makes sure that the chunk of zeros is in the repository, and names it
   */
  constructor(
    options: Omit<NewObjectOptions, "parentObjectId"> & {
      readonly contents: ContentWriter;
      readonly parent: ObjectReader | undefined;
      readonly zeroChunkId: () => Promise<ContentId>;
    },
  ) {
    assert(options.volumeSizeBytes > 0, "a volume has a size");
    this.#contents = options.contents;
    this.#compression = options.compression ?? "none";
    this.#objectLengthBytes = Math.ceil(options.volumeSizeBytes / CHUNK_SIZE_BYTES) * CHUNK_SIZE_BYTES;
    this.#zeroChunkId = options.zeroChunkId;
    this.#parentEntries = options.parent?.entries(this.#abort.signal)[Symbol.asyncIterator]();
  }

  async writeAt(chunks: readonly VolumeChunk[], signal?: AbortSignal): Promise<void> {
    this.#checkOrder(chunks);
    const previous = this.#tail;
    const ids = this.#writeChunks(chunks, signal);
    const tail = (async () => {
      // Both are awaited whatever happens: nobody may be left working on memory that the caller gets back.
      const [before, written] = await Promise.allSettled([previous, ids]);
      if (before.status === "rejected") {
        throw before.reason;
      }
      if (written.status === "rejected") {
        throw written.reason;
      }
      for (const [position, chunk] of chunks.entries()) {
        await this.#fillTo(chunk.offsetBytes);
        assert(this.#table.endOffsetBytes === chunk.offsetBytes, "a chunk comes into the table at its place");
        await this.#append(written.value[position] as ContentId);
      }
    })();
    tail.catch(() => undefined); // seen by this call and by every later one
    this.#tail = tail;
    await tail;
  }

  async checkpoint(signal?: AbortSignal): Promise<string | undefined> {
    // Nothing may be appended while the table so far is written down: later calls queue up behind this one.
    const checkpoint = this.#tail.then(() => (this.#table.endOffsetBytes === 0 ? undefined : this.#writeTable(signal)));
    this.#tail = checkpoint.then(() => undefined);
    this.#tail.catch(() => undefined);
    return checkpoint;
  }

  async result(signal?: AbortSignal): Promise<string> {
    assert(!this.#finished, "an object is finished once");
    this.#finished = true;
    await this.#tail;
    await this.#fillTo(this.#objectLengthBytes);
    assert(this.#table.endOffsetBytes === this.#objectLengthBytes, "the entries tile the object");
    await this.#closeParent();
    return this.#writeTable(signal);
  }

  async abort(): Promise<void> {
    this.#finished = true;
    this.#abort.abort(new BlockmoverError("FAILED_PRECONDITION", "the object has been given up"));
    await this.#tail.catch(() => undefined);
    await this.#closeParent();
  }

  #checkOrder(chunks: readonly VolumeChunk[]): void {
    assert(!this.#finished, "nothing is written to a finished object");
    assert(chunks.length > 0 && chunks.length <= MAX_GROUP_CHUNKS, "a group has 1 to 8 chunks");
    for (const { offsetBytes, bytes } of chunks) {
      assert(offsetBytes % CHUNK_SIZE_BYTES === 0, "a chunk is aligned");
      assert(offsetBytes > this.#lastOffsetBytes, "chunks come in ascending order");
      assert(offsetBytes < this.#objectLengthBytes, "a chunk lies in the volume");
      assert(bytes === "zero" || bytes.length === CHUNK_SIZE_BYTES, "a chunk is whole; the last one padded");
      this.#lastOffsetBytes = offsetBytes;
    }
  }

  async #writeChunks(chunks: readonly VolumeChunk[], signal: AbortSignal | undefined): Promise<ContentId[]> {
    const data = chunks.map((chunk) => chunk.bytes).filter((bytes) => bytes !== "zero");
    const written =
      data.length > 0
        ? await this.#contents.writeContents("", data, this.#compression, signal)
        : { ids: [], newBytes: 0 };
    this.stats.newContentBytes += written.newBytes;
    this.stats.deduplicatedBytes += data.length * CHUNK_SIZE_BYTES - written.newBytes;
    this.stats.zeroBytes += (chunks.length - data.length) * CHUNK_SIZE_BYTES;
    const zeroId = data.length < chunks.length ? await this.#zeroChunkId() : undefined;
    let next = 0;
    return chunks.map((chunk) => (chunk.bytes === "zero" ? zeroId : written.ids[next++]) as ContentId);
  }

  /** Fills the table up to `endBytes` with the parent's entries, and with zeros where there is no parent. */
  async #fillTo(endBytes: number): Promise<void> {
    while (this.#table.endOffsetBytes < endBytes) {
      if (this.#parentPosition < this.#parentBatch.length) {
        await this.#fillFromBatch(endBytes);
      } else if (this.#parentEntries) {
        const next = await this.#parentEntries.next();
        this.#parentBatch = next.done ? [] : next.value;
        this.#parentPosition = 0;
        if (next.done) {
          this.#parentEntries = undefined;
        }
      } else {
        await this.#append(await this.#zeroChunkId());
      }
    }
  }

  async #fillFromBatch(endBytes: number): Promise<void> {
    while (this.#parentPosition < this.#parentBatch.length && this.#table.endOffsetBytes < endBytes) {
      const entry = this.#parentBatch[this.#parentPosition++] as ObjectEntry;
      if (entry.lengthBytes !== CHUNK_SIZE_BYTES || entry.offsetBytes % CHUNK_SIZE_BYTES !== 0) {
        throw new BlockmoverError("FAILED_PRECONDITION", "the parent object does not lie in aligned chunks of 1 MiB");
      }
      // Entries of chunks that were written are passed over; the table is always ahead of them or level.
      if (entry.offsetBytes === this.#table.endOffsetBytes) {
        const piece = this.#table.append(CHUNK_SIZE_BYTES, entry.contentId);
        if (piece) {
          await this.#writePiece(piece);
        }
      } else {
        assert(entry.offsetBytes < this.#table.endOffsetBytes, "the parent's entries have no gap");
      }
    }
  }

  async #append(id: ContentId): Promise<void> {
    const piece = this.#table.append(CHUNK_SIZE_BYTES, id);
    if (piece) {
      await this.#writePiece(piece);
    }
  }

  async #writePiece(piece: Uint8Array): Promise<void> {
    this.#pieces.push(await this.#writeTableContent(piece));
  }

  async #writeTableContent(piece: Uint8Array, signal?: AbortSignal): Promise<TablePiece> {
    const { ids } = await this.#contents.writeContents("x", [piece], TABLE_COMPRESSION, signal);
    return { lengthBytes: piece.length, id: ids[0] as ContentId };
  }

  /** Writes the table as it stands and returns the id of the object that it makes. */
  async #writeTable(signal: AbortSignal | undefined): Promise<string> {
    let pieces = [...this.#pieces];
    for (const rest of this.#table.peekRest()) {
      pieces.push(await this.#writeTableContent(rest, signal));
    }
    let indirection = 1;
    while (pieces.length > 1) {
      const upper = new TableEncoder(UPPER_TABLE_PIECE_BYTES);
      const upperPieces: TablePiece[] = [];
      for (const piece of pieces) {
        const full = upper.append(piece.lengthBytes, piece.id);
        if (full) {
          upperPieces.push(await this.#writeTableContent(full, signal));
        }
      }
      for (const rest of upper.peekRest()) {
        upperPieces.push(await this.#writeTableContent(rest, signal));
      }
      pieces = upperPieces;
      indirection++;
    }
    return "I".repeat(indirection) + (pieces[0] as TablePiece).id;
  }

  async #closeParent(): Promise<void> {
    await this.#parentEntries?.return?.();
    this.#parentEntries = undefined;
  }
}
