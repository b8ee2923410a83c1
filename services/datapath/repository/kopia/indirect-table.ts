/**
 * An object's entry table: the list of contents that make up an object, as a JSON stream (kopia-format.md §9.2).
 *
 *     {"stream":"kopia:indirect","entries":[
 *       {"l":1048576,"o":"<object id>"},
 *       {"s":1048576,"l":1048576,"o":"<object id>"},…]}\n        (no white space but the last byte)
 *
 * Both directions stream: a table of 1 TiB is 73 MB of JSON and is never in memory as a whole. The encoder writes
 * Kopia's exact form, so that unchanged pieces of a table are equal bytes and deduplicate; the decoder reads any
 * JSON with these members. The decoder checks that the entries tile the object: first at 0, ascending, no gap.
 *
 * Source: Kopia repo/object/indirect.go and object_reader.go.
 */
import { BlockmoverError } from "../../../common/errors.js";
import { assert } from "../../../common/assert.js";

export interface TableEntry {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Object id of the part; nearly always a plain content id. */
  readonly objectId: string;
}

const HEADER = '{"stream":"kopia:indirect","entries":[';
const FOOTER = "]}\n";

/** No entry in Kopia's form is longer: two 16-digit numbers, an object id of 64 hex digits with prefixes. */
const MAX_ENTRY_BYTES = 256;

/** Longest text of one entry that the decoder accepts before it calls the table damaged. */
const MAX_FOREIGN_ENTRY_BYTES = 64 * 1024;

/**
 * Turns entries into pieces of `pieceSizeBytes` of the JSON stream.
 *
 * `append` and `finish` hand back the pieces that became full, in new memory. The encoder holds less than one piece.
 */
export class TableEncoder {
  readonly #pieceSizeBytes: number;
  readonly #buffer: Buffer;
  #usedBytes: number;
  #nextOffsetBytes = 0;

  constructor(pieceSizeBytes: number) {
    assert(pieceSizeBytes >= MAX_ENTRY_BYTES, "a table piece holds at least one entry");
    this.#pieceSizeBytes = pieceSizeBytes;
    this.#buffer = Buffer.allocUnsafe(pieceSizeBytes + MAX_ENTRY_BYTES);
    this.#usedBytes = this.#buffer.write(HEADER, 0, "latin1");
  }

  /** End of what has been appended: the offset that the next entry must have. */
  get endOffsetBytes(): number {
    return this.#nextOffsetBytes;
  }

  /** Adds the entry that follows; returns a piece when one became full. */
  append(lengthBytes: number, objectId: string): Buffer | undefined {
    assert(lengthBytes > 0, "a table entry has a length");
    const offsetBytes = this.#nextOffsetBytes;
    const text =
      offsetBytes === 0
        ? `{"l":${lengthBytes},"o":"${objectId}"}`
        : `,{"s":${offsetBytes},"l":${lengthBytes},"o":"${objectId}"}`;
    assert(text.length <= MAX_ENTRY_BYTES, "a table entry has a bounded length");
    this.#nextOffsetBytes += lengthBytes;
    this.#usedBytes += this.#buffer.write(text, this.#usedBytes, "latin1");
    return this.#usedBytes >= this.#pieceSizeBytes ? this.#takePiece() : undefined;
  }

  /** The rest of the stream, had it ended here; the encoder itself goes on unchanged. For checkpoints. */
  peekRest(): Buffer[] {
    assert(this.#nextOffsetBytes > 0, "a table has at least one entry");
    const rest = Buffer.concat([this.#buffer.subarray(0, this.#usedBytes), Buffer.from(FOOTER, "latin1")]);
    const pieces: Buffer[] = [];
    for (let start = 0; start < rest.length; start += this.#pieceSizeBytes) {
      pieces.push(rest.subarray(start, start + this.#pieceSizeBytes));
    }
    return pieces;
  }

  #takePiece(): Buffer {
    const piece = Buffer.from(this.#buffer.subarray(0, this.#pieceSizeBytes));
    this.#buffer.copyWithin(0, this.#pieceSizeBytes, this.#usedBytes);
    this.#usedBytes -= this.#pieceSizeBytes;
    return piece;
  }
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const CLOSE_BRACKET = 0x5d;
const DIGIT_0 = 0x30;
const DIGIT_9 = 0x39;

/**
 * Reads a table from consecutive pieces of its JSON stream.
 *
 * `push` takes the next piece and returns the entries that it completes; `end` checks that the table was whole.
 *
 * @throws BlockmoverError DATA_LOSS naming the object, for anything but a well-formed table
 */
export class TableDecoder {
  readonly #objectId: string;
  #rest: Buffer = Buffer.alloc(0);
  #state: "header" | "entries" | "done" = "header";
  #nextOffsetBytes = 0;

  constructor(objectId: string) {
    this.#objectId = objectId;
  }

  push(piece: Uint8Array): TableEntry[] {
    const bytes = this.#rest.length === 0 ? asBuffer(piece) : Buffer.concat([this.#rest, piece]);
    const entries: TableEntry[] = [];
    let position = 0;
    if (this.#state === "header") {
      position = this.#skipHeader(bytes);
      if (position < 0) {
        this.#keep(bytes, 0);
        return entries;
      }
      this.#state = "entries";
    }
    while (this.#state === "entries") {
      const next = this.#parseEntry(bytes, position, entries);
      if (next < 0) {
        break;
      }
      position = next;
    }
    if (this.#state === "entries") {
      this.#keep(bytes, position);
    } else {
      this.#rest = Buffer.alloc(0);
    }
    return entries;
  }

  /** The object's length; to be called after the last piece. */
  end(): number {
    if (this.#state !== "done") {
      throw this.#damaged("it ends early");
    }
    if (this.#nextOffsetBytes === 0) {
      throw this.#damaged("it has no entries");
    }
    return this.#nextOffsetBytes;
  }

  #keep(bytes: Buffer, position: number): void {
    if (bytes.length - position > MAX_FOREIGN_ENTRY_BYTES) {
      throw this.#damaged("an entry is too long");
    }
    this.#rest = Buffer.from(bytes.subarray(position));
  }

  /** Position just behind `"entries":[`, or -1 if it is not all there yet. */
  #skipHeader(bytes: Buffer): number {
    const key = bytes.indexOf('"entries"', 0, "latin1");
    if (key < 0) {
      return -1;
    }
    const bracket = bytes.indexOf("[", key + 9, "latin1");
    if (bracket < 0) {
      return -1;
    }
    const between = bytes.toString("latin1", key + 9, bracket).trim();
    const before = bytes.toString("latin1", 0, key).trim();
    if (between !== ":" || !before.startsWith("{")) {
      throw this.#damaged("it is not a list of entries");
    }
    return bracket + 1;
  }

  /** Parses the entry or the end at `position`; returns where to go on, or -1 when more bytes are needed. */
  #parseEntry(bytes: Buffer, position: number, entries: TableEntry[]): number {
    let at = position;
    // White space and the comma between entries; JSON's own rules are checked by JSON.parse inside an entry only.
    for (;;) {
      if (at >= bytes.length) {
        return -1;
      }
      const byte = bytes[at] as number;
      if (byte === OPEN_BRACE) {
        break;
      }
      if (byte === CLOSE_BRACKET) {
        this.#state = "done";
        return at + 1;
      }
      if (byte === 0x2c || byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09) {
        at++;
        continue;
      }
      throw this.#damaged(`byte 0x${byte.toString(16)} stands between entries`);
    }
    const fast = this.#parseKopiaForm(bytes, at, entries);
    if (fast > 0) {
      return fast;
    }
    const end = endOfObject(bytes, at);
    if (end < 0) {
      return -1;
    }
    this.#add(this.#parseAnyForm(bytes.toString("utf8", at, end)), entries);
    return end;
  }

  /** `{"s":N,"l":N,"o":"ID"}` or `{"l":N,"o":"ID"}` without white space; 0 when it is anything else or not all there. */
  #parseKopiaForm(bytes: Buffer, start: number, entries: TableEntry[]): number {
    if (bytes.length - start < MAX_ENTRY_BYTES) {
      return 0; // near the end of the piece: the general way checks for completeness
    }
    let at = start + 1;
    let offsetBytes = 0;
    if (bytes[at] === QUOTE && bytes[at + 1] === 0x73 && bytes[at + 2] === QUOTE && bytes[at + 3] === 0x3a) {
      at += 4;
      const from = at;
      for (let byte = bytes[at] as number; byte >= DIGIT_0 && byte <= DIGIT_9; byte = bytes[++at] as number) {
        offsetBytes = offsetBytes * 10 + (byte - DIGIT_0);
      }
      if (at === from || at - from > 15 || bytes[at] !== 0x2c) {
        return 0;
      }
      at++;
    }
    if (bytes[at] !== QUOTE || bytes[at + 1] !== 0x6c || bytes[at + 2] !== QUOTE || bytes[at + 3] !== 0x3a) {
      return 0;
    }
    at += 4;
    let lengthBytes = 0;
    const from = at;
    for (let byte = bytes[at] as number; byte >= DIGIT_0 && byte <= DIGIT_9; byte = bytes[++at] as number) {
      lengthBytes = lengthBytes * 10 + (byte - DIGIT_0);
    }
    if (at === from || at - from > 15) {
      return 0;
    }
    if (bytes[at] !== 0x2c || bytes[at + 1] !== QUOTE || bytes[at + 2] !== 0x6f || bytes[at + 3] !== QUOTE) {
      return 0;
    }
    if (bytes[at + 4] !== 0x3a || bytes[at + 5] !== QUOTE) {
      return 0;
    }
    at += 6;
    const idStart = at;
    while (isIdByte(bytes[at])) {
      at++;
    }
    if (at === idStart || bytes[at] !== QUOTE || bytes[at + 1] !== CLOSE_BRACE) {
      return 0;
    }
    this.#add({ offsetBytes, lengthBytes, objectId: bytes.toString("latin1", idStart, at) }, entries);
    return at + 2;
  }

  #parseAnyForm(text: string): TableEntry {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw this.#damaged("an entry is not JSON", error);
    }
    const entry = value as { s?: unknown; l?: unknown; o?: unknown };
    const offsetBytes = entry.s ?? 0;
    const lengthBytes = entry.l;
    if (
      typeof offsetBytes !== "number" ||
      typeof lengthBytes !== "number" ||
      typeof entry.o !== "string" ||
      !Number.isSafeInteger(offsetBytes) ||
      !Number.isSafeInteger(lengthBytes)
    ) {
      throw this.#damaged(`entry ${text.slice(0, 120)} has no valid start, length and object`);
    }
    return { offsetBytes, lengthBytes, objectId: entry.o };
  }

  #add(entry: TableEntry, entries: TableEntry[]): void {
    if (entry.offsetBytes !== this.#nextOffsetBytes || entry.lengthBytes <= 0 || entry.objectId === "") {
      throw this.#damaged(
        `an entry of ${entry.lengthBytes} bytes lies at ${entry.offsetBytes} where one at ${this.#nextOffsetBytes} belongs`,
      );
    }
    this.#nextOffsetBytes += entry.lengthBytes;
    if (!Number.isSafeInteger(this.#nextOffsetBytes)) {
      throw this.#damaged("the object is longer than 2^53 bytes");
    }
    entries.push(entry);
  }

  #damaged(why: string, cause?: unknown): BlockmoverError {
    return new BlockmoverError("DATA_LOSS", `object ${this.#objectId}: its entry table is damaged: ${why}`, {
      cause,
      hint: "Restore from another snapshot; `blockmover snapshot verify` tells which are whole.",
    });
  }
}

function isIdByte(byte: number | undefined): boolean {
  return (
    byte !== undefined &&
    ((byte >= DIGIT_0 && byte <= DIGIT_9) || (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a))
  );
}

/** Position behind the `}` that closes the object at `start`, or -1. Entries do not nest; strings may hold braces. */
function endOfObject(bytes: Buffer, start: number): number {
  let inString = false;
  let depth = 0;
  for (let at = start; at < bytes.length; at++) {
    const byte = bytes[at];
    if (inString) {
      if (byte === BACKSLASH) {
        at++;
      } else if (byte === QUOTE) {
        inString = false;
      }
    } else if (byte === QUOTE) {
      inString = true;
    } else if (byte === OPEN_BRACE) {
      depth++;
    } else if (byte === CLOSE_BRACE && --depth === 0) {
      return at + 1;
    }
  }
  return -1;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
