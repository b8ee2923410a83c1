/**
 * Reads an object: its entry table as a stream, and the bytes of entries in groups.
 *
 * Any layout that Kopia can write is read: a single content, a table of one or of many pieces, tables of tables, and
 * parts that are themselves objects with a table (they are expanded). Memory: a few pieces of the table.
 */
import { BlockmoverError } from "../../../common/errors.js";
import type { EntryRead, ObjectEntry, ObjectReader } from "../repository.js";
import type { ContentReader } from "./content-reader.js";
import { parseContentId, type ContentId } from "./content-id.js";
import { TableDecoder } from "./indirect-table.js";
import { formatObjectId, parseObjectId } from "./object-id.js";

/** Pieces of a table that are fetched ahead, so that a table in a bucket does not cost one round trip a piece. */
const TABLE_READ_AHEAD = 4;

/** A table of a table of … deeper than this is not something that Kopia writes, but a loop or an attack. */
const MAX_INDIRECTION = 8;

export class KopiaObjectReader implements ObjectReader {
  readonly objectId: string;
  readonly #contents: ContentReader;
  readonly #isZero: (contentId: string, lengthBytes: number) => boolean;

  constructor(options: {
    objectId: string;
    contents: ContentReader;
    isZero: (contentId: string, lengthBytes: number) => boolean;
  }) {
    this.objectId = options.objectId;
    this.#contents = options.contents;
    this.#isZero = options.isZero;
  }

  entries(signal?: AbortSignal): AsyncGenerator<readonly ObjectEntry[]> {
    return this.#entriesOf(this.objectId, 0, undefined, 0, signal);
  }

  async read(reads: readonly EntryRead[], signal?: AbortSignal): Promise<void> {
    await this.#contents.readMany(
      reads.map(({ entry, target }) => ({ id: entry.contentId as ContentId, target })),
      signal,
    );
  }

  /** Every content that holds a piece of a table; they belong to the object as much as its data. */
  tableContents(signal?: AbortSignal): AsyncGenerator<ContentId> {
    return this.#tableContentsOf(this.objectId, 0, signal);
  }

  async *#entriesOf(
    objectId: string,
    baseOffsetBytes: number,
    expectedLengthBytes: number | undefined,
    depth: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<readonly ObjectEntry[]> {
    const { indirection, contentId } = this.#parse(objectId, depth);
    if (indirection === 0) {
      const lengthBytes = this.#contents.lengthOf(contentId);
      if (lengthBytes > 0) {
        yield [this.#entry(baseOffsetBytes, lengthBytes, contentId)];
      }
      return;
    }
    const decoder = new TableDecoder(objectId);
    for await (const piece of this.#bytesOf(listOf(objectId), depth + 1, signal)) {
      let flat: ObjectEntry[] = [];
      for (const part of decoder.push(piece)) {
        const offsetBytes = baseOffsetBytes + part.offsetBytes;
        if (part.objectId.startsWith("I")) {
          if (flat.length > 0) {
            yield flat;
            flat = [];
          }
          yield* this.#entriesOf(part.objectId, offsetBytes, part.lengthBytes, depth + 1, signal);
        } else {
          flat.push(this.#entry(offsetBytes, part.lengthBytes, part.objectId));
        }
      }
      if (flat.length > 0) {
        yield flat;
      }
    }
    const lengthBytes = decoder.end();
    if (expectedLengthBytes !== undefined && lengthBytes !== expectedLengthBytes) {
      throw new BlockmoverError(
        "DATA_LOSS",
        `object ${objectId} is ${lengthBytes} bytes long where ${expectedLengthBytes} belong`,
      );
    }
  }

  #entry(offsetBytes: number, lengthBytes: number, objectId: string): ObjectEntry {
    return { offsetBytes, lengthBytes, contentId: objectId, isZero: this.#isZero(objectId, lengthBytes) };
  }

  /** The bytes of a (table) object, piece by piece, a few of them fetched ahead. */
  async *#bytesOf(objectId: string, depth: number, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    const { indirection, contentId } = this.#parse(objectId, depth);
    if (indirection === 0) {
      yield await this.#contents.read(contentId, signal);
      return;
    }
    const ahead: Promise<Buffer>[] = [];
    try {
      for await (const batch of this.#entriesOf(objectId, 0, undefined, depth, signal)) {
        for (const entry of batch) {
          const piece = this.#contents.read(parseContentId(entry.contentId), signal);
          // It may fail while an earlier one is awaited; the failure is seen when its turn comes.
          piece.catch(() => undefined);
          ahead.push(piece);
          if (ahead.length >= TABLE_READ_AHEAD) {
            yield await (ahead.shift() as Promise<Buffer>);
          }
        }
      }
      while (ahead.length > 0) {
        yield await (ahead.shift() as Promise<Buffer>);
      }
    } finally {
      await Promise.allSettled(ahead);
    }
  }

  async *#tableContentsOf(objectId: string, depth: number, signal: AbortSignal | undefined): AsyncGenerator<ContentId> {
    const { indirection } = this.#parse(objectId, depth);
    if (indirection === 0) {
      return;
    }
    const list = listOf(objectId);
    yield* this.#tableContentsOf(list, depth + 1, signal);
    for await (const batch of this.#entriesOf(list, 0, undefined, depth + 1, signal)) {
      for (const entry of batch) {
        yield parseContentId(entry.contentId);
      }
    }
  }

  #parse(objectId: string, depth: number): { indirection: number; contentId: ContentId } {
    const parsed = parseObjectId(objectId);
    if (parsed.compressed) {
      throw new BlockmoverError(
        "UNIMPLEMENTED",
        `object ${objectId}: compression of whole objects (repositories before Kopia 0.9) is not supported`,
      );
    }
    if (parsed.indirection > MAX_INDIRECTION || depth > MAX_INDIRECTION) {
      throw new BlockmoverError("DATA_LOSS", `object ${objectId}: its tables are nested too deep`);
    }
    return parsed;
  }
}

/** The object that holds the table of an indirect object: its id with one `I` less. */
function listOf(objectId: string): string {
  const { indirection, compressed, contentId } = parseObjectId(objectId);
  return formatObjectId({ indirection: indirection - 1, compressed, contentId });
}
