/**
 * All indexes of a repository as one: for every content the entry that counts.
 *
 * Of several entries for one content the winner is (kopia-format.md §6.4, Kopia repo/content/index/merged.go)
 *
 *     1. the later timestamp
 *     2. at equal time, the one that is not deleted
 *     3. then the greater pack name
 *
 * and a winner that is deleted at or before the deletion watermark does not exist. A deleted winner after it does
 * exist, as `deleted: true`: it can be read, but nothing new may refer to it.
 *
 * Cost of a lookup: one search in each index, and no entry is built but the winner. Walking is a k-way merge over the
 * indexes there were when it began; changes meanwhile do not disturb it.
 */
import { contentIdKey, type ContentId, type ContentPrefix } from "./content-id.js";
import { type ContentEntry } from "./index-entry.js";
import { type IndexReader } from "./index-reader.js";

/** An entry by where it is, for callers that need only some of its fields. */
export interface IndexPosition {
  readonly reader: IndexReader;
  readonly position: number;
}

export class MergedIndex {
  /** Replaced, never changed: iterators under way keep theirs. */
  #readers: readonly IndexReader[] = [];
  #watermarkSeconds = 0;

  /** Deleted entries of this time or earlier do not exist; 0 when no watermark was set. */
  get watermarkSeconds(): number {
    return this.#watermarkSeconds;
  }

  /** Number of indexes. */
  get indexCount(): number {
    return this.#readers.length;
  }

  /** Entries in all indexes; contents that several of them name are counted several times. */
  get entryCount(): number {
    return this.#readers.reduce((sum, reader) => sum + reader.entryCount, 0);
  }

  /** Memory held by the indexes' bytes. */
  get sizeBytes(): number {
    return this.#readers.reduce((sum, reader) => sum + reader.sizeBytes, 0);
  }

  /** Adds an index: one that was just written. */
  add(reader: IndexReader): void {
    this.#readers = [...this.#readers, reader];
  }

  /** Puts the indexes of a newly loaded state in place of all there were. */
  replaceAll(readers: readonly IndexReader[], watermarkSeconds: number): void {
    this.#readers = [...readers];
    this.#watermarkSeconds = watermarkSeconds;
  }

  /** The entry that counts for a content, possibly a deleted one; undefined if the content does not exist. */
  find(content: ContentId | Uint8Array): ContentEntry | undefined {
    const found = this.locate(content);
    return found?.reader.entryAt(found.position);
  }

  /** Like `find`, without building the entry. */
  locate(content: ContentId | Uint8Array): IndexPosition | undefined {
    const winner = this.#winner(typeof content === "string" ? contentIdKey(content) : content);
    return winner !== undefined && this.#exists(winner) ? winner : undefined;
  }

  /**
   * The time that a new entry for this content must exceed, seen or hidden by the watermark; undefined if no index
   * ever named it (kopia-format.md §6.5, §10.4 rule 9).
   */
  newestTimestampSeconds(content: ContentId | Uint8Array): number | undefined {
    const winner = this.#winner(typeof content === "string" ? contentIdKey(content) : content);
    return winner?.reader.timestampSecondsAt(winner.position);
  }

  /** The winners whose content id has this prefix, in key order; deleted ones after the watermark included. */
  *iteratePrefix(prefix: ContentPrefix): Generator<ContentEntry, void, undefined> {
    for (const { reader, position } of this.positions(prefix)) {
      yield reader.entryAt(position);
    }
  }

  /** All winners in key order; deleted ones after the watermark included. */
  *iterateAll(): Generator<ContentEntry, void, undefined> {
    for (const { reader, position } of this.positions()) {
      yield reader.entryAt(position);
    }
  }

  /** The winners' positions in key order, of one prefix or of all contents, without building entries. */
  *positions(prefix?: ContentPrefix): Generator<IndexPosition, void, undefined> {
    const heap = new CursorHeap(this.#readers, prefix);
    let winner = heap.next();
    while (winner !== undefined) {
      const key = winner.reader.keyAt(winner.position);
      let rival = heap.next();
      while (rival !== undefined && rival.reader.compareKeyAt(rival.position, key) === 0) {
        if (wins(rival.reader, rival.position, winner.reader, winner.position)) {
          winner = rival;
        }
        rival = heap.next();
      }
      if (this.#exists(winner)) {
        yield winner;
      }
      winner = rival;
    }
  }

  #winner(key: Uint8Array): IndexPosition | undefined {
    let bestReader: IndexReader | undefined;
    let bestPosition = -1;
    for (const reader of this.#readers) {
      const position = reader.find(key);
      if (position >= 0 && (bestReader === undefined || wins(reader, position, bestReader, bestPosition))) {
        bestReader = reader;
        bestPosition = position;
      }
    }
    return bestReader === undefined ? undefined : { reader: bestReader, position: bestPosition };
  }

  #exists({ reader, position }: IndexPosition): boolean {
    return !reader.isDeletedAt(position) || reader.timestampSecondsAt(position) > this.#watermarkSeconds;
  }
}

/** Whether the first entry counts rather than the second. */
function wins(reader: IndexReader, position: number, other: IndexReader, otherPosition: number): boolean {
  const difference = reader.timestampSecondsAt(position) - other.timestampSecondsAt(otherPosition);
  if (difference !== 0) {
    return difference > 0;
  }
  const deleted = reader.isDeletedAt(position);
  if (deleted !== other.isDeletedAt(otherPosition)) {
    return !deleted;
  }
  return reader.packBlobIdAt(position) > other.packBlobIdAt(otherPosition);
}

interface Cursor {
  readonly reader: IndexReader;
  position: number;
  readonly end: number;
  key: Uint8Array;
}

/** Hands out the positions of several indexes in the order of their keys: a binary heap, smallest key on top. */
class CursorHeap {
  readonly #heap: Cursor[] = [];

  constructor(readers: readonly IndexReader[], prefix: ContentPrefix | undefined) {
    for (const reader of readers) {
      const [position, end] = prefix === undefined ? [0, reader.entryCount] : prefixRange(reader, prefix);
      if (position < end) {
        this.#heap.push({ reader, position, end, key: reader.keyAt(position) });
      }
    }
    for (let index = (this.#heap.length >> 1) - 1; index >= 0; index--) {
      this.#sink(index);
    }
  }

  next(): IndexPosition | undefined {
    const top = this.#heap[0];
    if (top === undefined) {
      return undefined;
    }
    const result = { reader: top.reader, position: top.position };
    top.position++;
    if (top.position < top.end) {
      top.key = top.reader.keyAt(top.position);
    } else {
      const last = this.#heap.pop() as Cursor;
      if (this.#heap.length > 0) {
        this.#heap[0] = last;
      }
    }
    this.#sink(0);
    return result;
  }

  #sink(start: number): void {
    const heap = this.#heap;
    let index = start;
    for (;;) {
      const left = 2 * index + 1;
      const right = left + 1;
      let smallest = index;
      if (left < heap.length && this.#isLess(left, smallest)) {
        smallest = left;
      }
      if (right < heap.length && this.#isLess(right, smallest)) {
        smallest = right;
      }
      if (smallest === index) {
        return;
      }
      [heap[index], heap[smallest]] = [heap[smallest] as Cursor, heap[index] as Cursor];
      index = smallest;
    }
  }

  #isLess(first: number, second: number): boolean {
    const { key } = this.#heap[second] as Cursor;
    const { reader, position } = this.#heap[first] as Cursor;
    return reader.compareKeyAt(position, key) < 0;
  }
}

function prefixRange(reader: IndexReader, prefix: ContentPrefix): [start: number, end: number] {
  const byte = prefix === "" ? 0 : prefix.charCodeAt(0);
  return [reader.lowerBound(Uint8Array.of(byte)), reader.lowerBound(Uint8Array.of(byte + 1))];
}
