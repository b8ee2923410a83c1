/**
 * Which chunks of a volume have to be read: one bit for each chunk of 1 MiB, 128 KiB for each TiB of volume.
 *
 * Ranges in bytes are rounded outwards, so that a chunk which a range touches at all is set. Bits past the end of
 * the volume do not exist; ranges past it are clipped.
 */
import { assert } from "../../common/assert.js";

/** A run of equal bits, in chunks. */
export interface ChunkRun {
  readonly firstChunk: number;
  readonly chunkCount: number;
}

export class Bitmap {
  readonly volumeSizeBytes: number;
  readonly chunkSizeBytes: number;
  readonly chunkCount: number;
  readonly #words: Uint32Array;

  constructor(volumeSizeBytes: number, chunkSizeBytes: number) {
    assert(Number.isSafeInteger(volumeSizeBytes) && volumeSizeBytes > 0, "a volume has a size");
    assert(Number.isSafeInteger(chunkSizeBytes) && chunkSizeBytes > 0, "a chunk has a size");
    this.volumeSizeBytes = volumeSizeBytes;
    this.chunkSizeBytes = chunkSizeBytes;
    this.chunkCount = Math.ceil(volumeSizeBytes / chunkSizeBytes);
    this.#words = new Uint32Array(Math.ceil(this.chunkCount / 32));
  }

  /** Sets every chunk that the range touches. */
  setRange(offsetBytes: number, lengthBytes: number): void {
    if (lengthBytes <= 0 || offsetBytes >= this.volumeSizeBytes) {
      return;
    }
    const first = Math.floor(Math.max(0, offsetBytes) / this.chunkSizeBytes);
    const end = Math.min(this.chunkCount, Math.ceil((offsetBytes + lengthBytes) / this.chunkSizeBytes));
    this.#setChunks(first, end);
  }

  setAll(): void {
    this.#setChunks(0, this.chunkCount);
  }

  has(chunk: number): boolean {
    return (((this.#words[chunk >>> 5] ?? 0) >>> (chunk & 31)) & 1) === 1;
  }

  /** How many chunks are set. */
  get setChunkCount(): number {
    let count = 0;
    for (const word of this.#words) {
      count += populationCount(word);
    }
    return count;
  }

  /** Bytes of the volume that lie in set chunks: the last chunk counts only as far as the volume reaches. */
  get setBytes(): number {
    const whole = this.setChunkCount * this.chunkSizeBytes;
    const padding = this.chunkCount * this.chunkSizeBytes - this.volumeSizeBytes;
    return this.has(this.chunkCount - 1) ? whole - padding : whole;
  }

  /** The runs of set chunks, ascending, none longer than `maxChunks`. */
  *setRuns(maxChunks: number = Number.MAX_SAFE_INTEGER): Generator<ChunkRun> {
    let chunk = this.#nextSet(0);
    while (chunk < this.chunkCount) {
      const firstChunk = chunk;
      while (chunk < this.chunkCount && chunk - firstChunk < maxChunks && this.has(chunk)) {
        chunk++;
      }
      yield { firstChunk, chunkCount: chunk - firstChunk };
      chunk = this.#nextSet(chunk);
    }
  }

  #nextSet(from: number): number {
    let chunk = from;
    while (chunk < this.chunkCount && !this.has(chunk)) {
      // Skip whole words of zeros: a sparse increment of a large volume is nearly all zeros.
      chunk = (chunk & 31) === 0 && this.#words[chunk >>> 5] === 0 ? chunk + 32 : chunk + 1;
    }
    return Math.min(chunk, this.chunkCount);
  }

  #setChunks(first: number, end: number): void {
    let chunk = first;
    while (chunk < end) {
      if ((chunk & 31) === 0 && end - chunk >= 32) {
        this.#words[chunk >>> 5] = 0xffffffff;
        chunk += 32;
      } else {
        const word = chunk >>> 5;
        this.#words[word] = (this.#words[word] ?? 0) | (1 << (chunk & 31));
        chunk++;
      }
    }
  }
}

/** Bits set in a 32-bit word (Warren, Hacker's Delight, 5-1). */
function populationCount(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
