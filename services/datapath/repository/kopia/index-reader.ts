/**
 * Looking into an index without unpacking it.
 *
 * Both index versions are a sorted table of records of one length, each beginning with its key:
 *
 *     entriesOffset                                             + entryCount × strideBytes
 *     ├─ prefix (1) │ hash (keyBytes − 1) │ value (version's own) ─┤ … next record …
 *
 *     key = prefix letter, or 0x00 for none, then the hash; records ascend by key, as bytes
 *
 * A reader costs the raw bytes it was given plus the pack names it was asked for, however many entries there are.
 * Hashes are uniform, so a search guesses by interpolation (about log log n probes); after a few guesses it bisects,
 * so that no arrangement of keys makes it slower than O(log n).
 *
 * Damage is found where it is met: sizes and tables at opening, each entry's own numbers when they are asked for.
 * Order is not checked (index blobs are authenticated): a wrong order makes contents unfindable, as in Kopia.
 */
import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";
import { contentIdFromKey, type ContentId } from "./content-id.js";
import { type ContentEntry } from "./index-entry.js";

/** One index, addressed by positions 0 .. entryCount − 1 in key order. */
export interface IndexReader {
  readonly entryCount: number;
  /** Length of every key in bytes: 1 + hash length. */
  readonly keyBytes: number;
  /** Memory held: the raw bytes. */
  readonly sizeBytes: number;
  /** Position of the entry with this key, or -1. */
  find(key: Uint8Array): number;
  /** First position whose key is not below `key`, which may be shorter than a key; entryCount if there is none. */
  lowerBound(key: Uint8Array): number;
  /** Negative, zero, positive: the key at `position` is below, equal to, above `key`. Allocates nothing. */
  compareKeyAt(position: number, key: Uint8Array): number;
  /** A view, not a copy. */
  keyAt(position: number): Uint8Array;
  contentIdAt(position: number): ContentId;
  timestampSecondsAt(position: number): number;
  isDeletedAt(position: number): boolean;
  /** The same string object for every entry of a pack. */
  packBlobIdAt(position: number): string;
  packedLengthAt(position: number): number;
  entryAt(position: number): ContentEntry;
}

/**
 * Guesses before bisection takes over. Counted over a million entries: uniform hashes take 4 guesses on average and 12
 * looks at keys at most, where bisection takes 20; keys arranged against it take 30 at most, 10 of them guesses.
 */
const INTERPOLATION_PROBES = 10;

/** Below this many candidates bisection is as good. */
const INTERPOLATION_MIN_RANGE = 8;

/** Hash bytes used for guessing: as many as a number holds exactly and cheaply. */
const GUESS_BYTES = 4;

export interface SortedTableLayout {
  readonly bytes: Buffer;
  /** For messages: which index this is. */
  readonly name: string;
  readonly entriesOffset: number;
  readonly entryCount: number;
  readonly keyBytes: number;
  readonly strideBytes: number;
}

/** What the versions share: the table of records and the search in it. */
export abstract class SortedTable implements IndexReader {
  readonly entryCount: number;
  readonly keyBytes: number;
  protected readonly bytes: Buffer;
  readonly #name: string;
  readonly #entriesOffset: number;
  readonly #strideBytes: number;
  /** First position of keys whose prefix byte is at least this; filled as prefixes are asked for (at most 255). */
  readonly #prefixStarts = new Map<number, number>();

  protected constructor(layout: SortedTableLayout) {
    this.bytes = layout.bytes;
    this.#name = layout.name;
    this.#entriesOffset = layout.entriesOffset;
    this.entryCount = layout.entryCount;
    this.keyBytes = layout.keyBytes;
    this.#strideBytes = layout.strideBytes;
    const endOfEntries = layout.entriesOffset + layout.entryCount * layout.strideBytes;
    if (endOfEntries > layout.bytes.length) {
      throw this.damaged(
        `${layout.entryCount} entries of ${layout.strideBytes} bytes need ${endOfEntries} bytes, ` +
          `there are ${layout.bytes.length}`,
      );
    }
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  find(key: Uint8Array): number {
    if (key.length !== this.keyBytes) {
      return -1;
    }
    const position = this.lowerBound(key);
    return position < this.entryCount && this.compareKeyAt(position, key) === 0 ? position : -1;
  }

  lowerBound(key: Uint8Array): number {
    const prefix = key[0];
    if (prefix === undefined) {
      return 0;
    }
    // Invariant: every key before `low` is below `key`, every key from `high` on is not.
    let low = this.#prefixStart(prefix);
    let high = this.#prefixStart(prefix + 1);
    if (key.length > GUESS_BYTES && this.keyBytes > GUESS_BYTES) {
      const wanted = guessValue(key, 1);
      let lowValue = 0;
      let highValue = 2 ** 32;
      for (let probe = 0; probe < INTERPOLATION_PROBES && high - low > INTERPOLATION_MIN_RANGE; probe++) {
        const fraction = (wanted - lowValue) / (highValue - lowValue || 1);
        // Clamped: in a table out of order `wanted` may lie outside of what the bounds promise.
        const guess = low + Math.min(high - low - 1, Math.max(0, Math.floor(fraction * (high - low))));
        const value = guessValue(this.bytes, this.#entriesOffset + guess * this.#strideBytes + 1);
        const order = value === wanted ? this.compareKeyAt(guess, key) : value - wanted;
        if (order === 0) {
          return guess;
        }
        if (order < 0) {
          low = guess + 1;
          lowValue = value;
        } else {
          high = guess;
          highValue = value;
        }
      }
    }
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.compareKeyAt(middle, key) < 0) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  compareKeyAt(position: number, key: Uint8Array): number {
    const start = this.#recordAt(position);
    const common = Math.min(this.keyBytes, key.length);
    for (let index = 0; index < common; index++) {
      const difference = (this.bytes[start + index] as number) - (key[index] as number);
      if (difference !== 0) {
        return difference;
      }
    }
    return this.keyBytes - key.length;
  }

  keyAt(position: number): Uint8Array {
    const start = this.#recordAt(position);
    return this.bytes.subarray(start, start + this.keyBytes);
  }

  contentIdAt(position: number): ContentId {
    return contentIdFromKey(this.keyAt(position));
  }

  abstract timestampSecondsAt(position: number): number;
  abstract isDeletedAt(position: number): boolean;
  abstract packBlobIdAt(position: number): string;
  abstract packedLengthAt(position: number): number;
  abstract entryAt(position: number): ContentEntry;

  /** Offset in the bytes of the value at `position`. */
  protected valueAt(position: number): number {
    return this.#recordAt(position) + this.keyBytes;
  }

  protected damaged(what: string): BlockmoverError {
    return damagedIndex(this.#name, what);
  }

  #recordAt(position: number): number {
    // Tested before the message is made: a search comes by here for every probe.
    if (!(position >= 0 && position < this.entryCount)) {
      assert(false, `index position ${position} of ${this.entryCount}`);
    }
    return this.#entriesOffset + position * this.#strideBytes;
  }

  #prefixStart(prefix: number): number {
    if (prefix === 0) {
      return 0;
    }
    if (prefix > 0xff) {
      return this.entryCount;
    }
    let low = this.#prefixStarts.get(prefix);
    if (low === undefined) {
      low = 0;
      let high = this.entryCount;
      while (low < high) {
        const middle = Math.floor((low + high) / 2);
        if ((this.bytes[this.#recordAt(middle)] as number) < prefix) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      this.#prefixStarts.set(prefix, low);
    }
    return low;
  }
}

/** The error of an index that is not what its own numbers say. */
export function damagedIndex(name: string, what: string): BlockmoverError {
  return new BlockmoverError("DATA_LOSS", `${name}: damaged: ${what}`, {
    hint: "Check the storage for damage; Kopia's `index recover` rebuilds indexes from the packs.",
  });
}

/** A name inside an index; pack names are ASCII. */
export function readName(bytes: Buffer, offset: number, lengthBytes: number): string {
  return bytes.toString("latin1", offset, offset + lengthBytes);
}

/** Big-endian 32 bits, unsigned. Written out: it is most of what a search does. */
function guessValue(bytes: Uint8Array, offset: number): number {
  return (
    (bytes[offset] as number) * 0x1000000 +
    (((bytes[offset + 1] as number) << 16) | ((bytes[offset + 2] as number) << 8) | (bytes[offset + 3] as number))
  );
}
