/**
 * Index version 2, read and written. Source: Kopia repo/content/index/index_v2.go; kopia-format.md §6.1.
 *
 *     0        1        2          4           8          12           13             17
 *     ┌────────┬────────┬──────────┬───────────┬──────────┬────────────┬──────────────┐
 *     │ 2      │KeySize │EntrySize │EntryCount │PackCount │FormatCount │BaseTimestamp │   big-endian
 *     └────────┴────────┴──────────┴───────────┴──────────┴────────────┴──────────────┘
 *     EntryCount  × [ key (KeySize) │ value (EntrySize, 16..19) ]      ascending by key
 *     PackCount   × [ name length (1) │ name offset from the start of the index (4) ]
 *     FormatCount × [ compressor (4) │ format version (1) │ encryption key (1) ]
 *     pack names, then anything (32 random bytes in the local index of a pack)
 *
 *     value    0  timestamp − base (4)             11  packed length, low 24 bits (3)
 *              4  deleted (1 bit), pack offset     14  pack number, low 16 bits (2)
 *              8  original length, low 24 bits (3) 16  format number (1)                    if EntrySize > 16
 *                                                  17  pack number, bits 16..23 (1)         if EntrySize > 17
 *                                                  18  original, packed bits 24..27 (1)     if EntrySize > 18
 *
 * Reading guarantees: nothing outside of the given bytes is looked at; what does not fit is DATA_LOSS.
 * Writing guarantees: the same bytes as Kopia for the same entries, in whatever order they come.
 */
import { assert } from "../../../common/assert.js";
import { CONTENT_LENGTH_LIMIT_BYTES, PACK_OFFSET_LIMIT_BYTES, type ContentEntry } from "./index-entry.js";
import { damagedIndex, readName, SortedTable, type IndexReader } from "./index-reader.js";

export const INDEX_VERSION_2 = 2;

const HEADER_BYTES = 17;
const PACK_RECORD_BYTES = 5;
const FORMAT_RECORD_BYTES = 6;
const ENTRY_SIZE_MIN_BYTES = 16;
const ENTRY_SIZE_MAX_BYTES = 19;
const STRIDE_LIMIT_BYTES = 256;
const FORMAT_COUNT_LIMIT = 255;
const PACK_COUNT_LIMIT = 2 ** 24;
const PACK_COUNT_SHORT = 2 ** 16;
const LENGTH_SHORT_BYTES = 2 ** 24;
/** KeySize of an index without entries in old data. */
const KEY_SIZE_OF_EMPTY = 255;

const AT_PACK_OFFSET = 4;
const AT_ORIGINAL_LENGTH = 8;
const AT_PACKED_LENGTH = 11;
const AT_PACK_NUMBER = 14;
const AT_FORMAT_NUMBER = 16;
const AT_PACK_NUMBER_HIGH = 17;
const AT_LENGTHS_HIGH = 18;

/**
 * Opens an index of version 2 over `bytes`, which must not change afterwards.
 *
 * @param name which index this is, for messages
 * @throws BlockmoverError DATA_LOSS if the header or a table does not fit the bytes
 */
export function openIndexV2(bytes: Uint8Array, name: string): IndexReader {
  const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (data.length < HEADER_BYTES) {
    throw damagedIndex(name, `${data.length} bytes, less than a header`);
  }
  const header: Header = {
    keyBytes: data.readUInt8(1),
    entryBytes: data.readUInt16BE(2),
    entryCount: data.readUInt32BE(4),
    packCount: data.readUInt32BE(8),
    formatCount: data.readUInt8(12),
    baseTimestampSeconds: data.readUInt32BE(13),
  };
  if (data[0] !== INDEX_VERSION_2) {
    throw damagedIndex(name, `version ${data.readUInt8(0)} where 2 was expected`);
  }
  if (header.entryBytes < ENTRY_SIZE_MIN_BYTES || header.entryBytes > ENTRY_SIZE_MAX_BYTES) {
    throw damagedIndex(name, `entry size ${header.entryBytes}`);
  }
  const isEmpty = header.entryCount === 0 && header.keyBytes === KEY_SIZE_OF_EMPTY;
  if (!isEmpty && (header.keyBytes < 2 || header.keyBytes + header.entryBytes > STRIDE_LIMIT_BYTES)) {
    throw damagedIndex(name, `key size ${header.keyBytes}`);
  }
  if (header.packCount > PACK_COUNT_LIMIT) {
    throw damagedIndex(name, `${header.packCount} packs`);
  }
  return new IndexV2(data, name, header);
}

/**
 * The bytes of an index with these entries.
 *
 * Mistakes of the caller stop it (INTERNAL): no entry, a content twice, hashes of different lengths, a number that
 * the format cannot hold.
 */
export function encodeIndexV2(entries: readonly ContentEntry[]): Buffer {
  assert(entries.length > 0, "an index has at least one entry");
  const sorted = entries.map((entry): NumberedEntry => ({ id: entry.contentId, entry, pack: 0, format: 0 }));
  // Text order is key order: hex digits ascend like bytes, and the prefix letters g..z follow them. Code units, not a
  // locale's collation, which would make contents unfindable.
  sorted.sort((left, right) => (left.id < right.id ? -1 : left.id > right.id ? 1 : 0));

  const { packs, formats, maxLength } = numberPacksAndFormats(sorted);
  const keyBytes = 1 + Math.floor((sorted[0]?.id.length ?? 0) / 2);
  const entryBytes =
    maxLength >= LENGTH_SHORT_BYTES
      ? ENTRY_SIZE_MAX_BYTES
      : packs.count > PACK_COUNT_SHORT
        ? AT_PACK_NUMBER_HIGH + 1
        : formats.count > 1
          ? AT_FORMAT_NUMBER + 1
          : ENTRY_SIZE_MIN_BYTES;
  assert(keyBytes >= 2 && keyBytes + entryBytes <= STRIDE_LIMIT_BYTES, `index key of ${keyBytes} bytes`);

  const strideBytes = keyBytes + entryBytes;
  const packsOffset = HEADER_BYTES + sorted.length * strideBytes;
  const formatsOffset = packsOffset + packs.count * PACK_RECORD_BYTES;
  const namesOffset = formatsOffset + formats.count * FORMAT_RECORD_BYTES;
  const out = Buffer.alloc(namesOffset + packs.nameBytes);

  out.writeUInt8(INDEX_VERSION_2, 0);
  out.writeUInt8(keyBytes, 1);
  out.writeUInt16BE(entryBytes, 2);
  out.writeUInt32BE(sorted.length, 4);
  out.writeUInt32BE(packs.count, 8);
  out.writeUInt8(formats.count, 12);
  out.writeUInt32BE(0, 13); // BaseTimestamp: Kopia writes 0

  let previous = "";
  let at = HEADER_BYTES;
  for (const { id, entry, pack, format } of sorted) {
    if (id === previous) {
      assert(false, `content ${id} twice in one index`);
    }
    previous = id;
    writeKey(out, at, id, keyBytes);
    writeValue(out, at + keyBytes, entryBytes, entry, pack, format);
    at += strideBytes;
  }
  packs.write(out, packsOffset, namesOffset);
  formats.write(out, formatsOffset);
  return out;
}

interface Header {
  readonly keyBytes: number;
  readonly entryBytes: number;
  readonly entryCount: number;
  readonly packCount: number;
  readonly formatCount: number;
  readonly baseTimestampSeconds: number;
}

class IndexV2 extends SortedTable {
  readonly #header: Header;
  readonly #packsOffset: number;
  readonly #formatsOffset: number;
  /** Pack names met so far, by number: one string for all entries of a pack. */
  readonly #packNames = new Map<number, string>();

  constructor(bytes: Buffer, name: string, header: Header) {
    super({ bytes, name, ...header, entriesOffset: HEADER_BYTES, strideBytes: header.keyBytes + header.entryBytes });
    this.#header = header;
    this.#packsOffset = HEADER_BYTES + header.entryCount * (header.keyBytes + header.entryBytes);
    this.#formatsOffset = this.#packsOffset + header.packCount * PACK_RECORD_BYTES;
    const endOfTables = this.#formatsOffset + header.formatCount * FORMAT_RECORD_BYTES;
    if (endOfTables > bytes.length) {
      throw this.damaged(`its tables end at ${endOfTables}, its bytes at ${bytes.length}`);
    }
    for (let pack = 0; pack < header.packCount; pack++) {
      const record = this.#packsOffset + pack * PACK_RECORD_BYTES;
      const nameEnd = bytes.readUInt32BE(record + 1) + bytes.readUInt8(record);
      if (nameEnd > bytes.length) {
        throw this.damaged(`the name of pack ${pack} ends at ${nameEnd}, the bytes at ${bytes.length}`);
      }
    }
  }

  timestampSecondsAt(position: number): number {
    return this.#header.baseTimestampSeconds + this.bytes.readUInt32BE(this.valueAt(position));
  }

  isDeletedAt(position: number): boolean {
    return (this.bytes.readUInt8(this.valueAt(position) + AT_PACK_OFFSET) & 0x80) !== 0;
  }

  packBlobIdAt(position: number): string {
    const value = this.valueAt(position);
    const high = this.#header.entryBytes > AT_PACK_NUMBER_HIGH ? this.bytes.readUInt8(value + AT_PACK_NUMBER_HIGH) : 0;
    const pack = high * PACK_COUNT_SHORT + this.bytes.readUInt16BE(value + AT_PACK_NUMBER);
    return this.#packNames.get(pack) ?? this.#readPackName(pack, position);
  }

  packedLengthAt(position: number): number {
    const value = this.valueAt(position);
    const high = this.#header.entryBytes > AT_LENGTHS_HIGH ? this.bytes.readUInt8(value + AT_LENGTHS_HIGH) & 0x0f : 0;
    return high * LENGTH_SHORT_BYTES + this.bytes.readUIntBE(value + AT_PACKED_LENGTH, 3);
  }

  entryAt(position: number): ContentEntry {
    const value = this.valueAt(position);
    const { entryBytes, formatCount } = this.#header;
    const lengthsHigh = entryBytes > AT_LENGTHS_HIGH ? this.bytes.readUInt8(value + AT_LENGTHS_HIGH) : 0;
    const format = entryBytes > AT_FORMAT_NUMBER ? this.bytes.readUInt8(value + AT_FORMAT_NUMBER) : 0;
    if (format >= formatCount) {
      throw this.damaged(`entry ${position} has format ${format} of ${formatCount}`);
    }
    const formatRecord = this.#formatsOffset + format * FORMAT_RECORD_BYTES;
    return {
      contentId: this.contentIdAt(position),
      packBlobId: this.packBlobIdAt(position),
      packOffset: this.bytes.readUInt32BE(value + AT_PACK_OFFSET) % 2 ** 31,
      packedLength: this.packedLengthAt(position),
      originalLength: (lengthsHigh >> 4) * LENGTH_SHORT_BYTES + this.bytes.readUIntBE(value + AT_ORIGINAL_LENGTH, 3),
      timestampSeconds: this.timestampSecondsAt(position),
      deleted: this.isDeletedAt(position),
      formatVersion: this.bytes.readUInt8(formatRecord + 4),
      compressionHeaderId: this.bytes.readUInt32BE(formatRecord),
      encryptionKeyId: this.bytes.readUInt8(formatRecord + 5),
    };
  }

  #readPackName(pack: number, position: number): string {
    if (pack >= this.#header.packCount) {
      throw this.damaged(`entry ${position} has pack ${pack} of ${this.#header.packCount}`);
    }
    const record = this.#packsOffset + pack * PACK_RECORD_BYTES;
    const name = readName(this.bytes, this.bytes.readUInt32BE(record + 1), this.bytes.readUInt8(record));
    if (name === "") {
      throw this.damaged(`pack ${pack} has no name`);
    }
    this.#packNames.set(pack, name);
    return name;
  }
}

/** An entry to be written, with its key's text and its rows in the tables of packs and formats. */
interface NumberedEntry {
  readonly id: string;
  readonly entry: ContentEntry;
  pack: number;
  format: number;
}

/** Numbers packs and formats in the order the sorted entries name them, as Kopia does, and notes the numbers. */
function numberPacksAndFormats(sorted: readonly NumberedEntry[]): {
  packs: PackTable;
  formats: FormatTable;
  maxLength: number;
} {
  const packs = new PackTable();
  const formats = new FormatTable();
  let maxLength = 0;
  for (const item of sorted) {
    item.pack = packs.numberOf(item.entry.packBlobId);
    item.format = formats.numberOf(item.entry);
    maxLength = Math.max(maxLength, item.entry.originalLength, item.entry.packedLength);
  }
  assert(maxLength < CONTENT_LENGTH_LIMIT_BYTES, `content of ${maxLength} bytes in an index`);
  return { packs, formats, maxLength };
}

class PackTable {
  readonly #numbers = new Map<string, number>();
  nameBytes = 0;

  get count(): number {
    return this.#numbers.size;
  }

  /** The pack's number, a new one for a new pack. */
  numberOf(packBlobId: string): number {
    const known = this.#numbers.get(packBlobId);
    if (known !== undefined) {
      return known;
    }
    assert(/^[\x21-\x7e]{1,255}$/.test(packBlobId), `pack name ${JSON.stringify(packBlobId)}`);
    const number = this.count;
    assert(number < PACK_COUNT_LIMIT, "more packs than an index can name");
    this.#numbers.set(packBlobId, number);
    this.nameBytes += packBlobId.length;
    return number;
  }

  write(out: Buffer, tableOffset: number, namesOffset: number): void {
    let record = tableOffset;
    let nameAt = namesOffset;
    for (const name of this.#numbers.keys()) {
      out.writeUInt8(name.length, record);
      out.writeUInt32BE(nameAt, record + 1);
      nameAt += out.write(name, nameAt, "latin1");
      record += PACK_RECORD_BYTES;
    }
    assert(nameAt === out.length, "pack names end where the index ends");
  }
}

class FormatTable {
  /** Format as one number: compressor, format version, encryption key, most significant first. */
  readonly #numbers = new Map<number, number>();

  get count(): number {
    return this.#numbers.size;
  }

  /** The format's number, a new one for a new format. */
  numberOf(entry: ContentEntry): number {
    const packed = packFormat(entry);
    const known = this.#numbers.get(packed);
    if (known !== undefined) {
      return known;
    }
    const number = this.count;
    assert(number < FORMAT_COUNT_LIMIT, "more formats than an index can name");
    this.#numbers.set(packed, number);
    return number;
  }

  write(out: Buffer, tableOffset: number): void {
    let record = tableOffset;
    for (const packed of this.#numbers.keys()) {
      out.writeUIntBE(packed, record, FORMAT_RECORD_BYTES);
      record += FORMAT_RECORD_BYTES;
    }
  }
}

function packFormat({ compressionHeaderId, formatVersion, encryptionKeyId }: ContentEntry): number {
  if (!isWithin(compressionHeaderId, 2 ** 32) || !isWithin(formatVersion, 256) || !isWithin(encryptionKeyId, 256)) {
    assert(false, `content format ${compressionHeaderId}/${formatVersion}/${encryptionKeyId}`);
  }
  return compressionHeaderId * 2 ** 16 + formatVersion * 2 ** 8 + encryptionKeyId;
}

function writeKey(out: Buffer, at: number, id: string, keyBytes: number): void {
  // Odd length: the first character is a prefix letter (kopia-format.md §5.1).
  const hasPrefix = id.length % 2 === 1;
  out.writeUInt8(hasPrefix ? id.charCodeAt(0) : 0, at);
  const written = out.write(hasPrefix ? id.slice(1) : id, at + 1, keyBytes - 1, "hex");
  if (written !== keyBytes - 1 || id.length >> 1 !== keyBytes - 1) {
    assert(false, `content ${id} in an index of keys of ${keyBytes} bytes`);
  }
}

function writeValue(
  out: Buffer,
  at: number,
  entryBytes: number,
  entry: ContentEntry,
  pack: number,
  format: number,
): void {
  const isValid =
    isWithin(entry.timestampSeconds, 2 ** 32) &&
    isWithin(entry.packOffset, PACK_OFFSET_LIMIT_BYTES) &&
    isWithin(entry.originalLength, CONTENT_LENGTH_LIMIT_BYTES) &&
    isWithin(entry.packedLength, CONTENT_LENGTH_LIMIT_BYTES);
  // Tested before the message is made, here and below: nearly all are never needed.
  if (!isValid) {
    assert(false, `index entry out of range: ${JSON.stringify(entry)}`);
  }
  out.writeUInt32BE(entry.timestampSeconds, at);
  out.writeUInt32BE(entry.packOffset + (entry.deleted ? 2 ** 31 : 0), at + AT_PACK_OFFSET);
  out.writeUIntBE(entry.originalLength % LENGTH_SHORT_BYTES, at + AT_ORIGINAL_LENGTH, 3);
  out.writeUIntBE(entry.packedLength % LENGTH_SHORT_BYTES, at + AT_PACKED_LENGTH, 3);
  out.writeUInt16BE(pack % PACK_COUNT_SHORT, at + AT_PACK_NUMBER);
  if (entryBytes > AT_FORMAT_NUMBER) {
    out.writeUInt8(format, at + AT_FORMAT_NUMBER);
  }
  if (entryBytes > AT_PACK_NUMBER_HIGH) {
    out.writeUInt8(Math.floor(pack / PACK_COUNT_SHORT), at + AT_PACK_NUMBER_HIGH);
  }
  if (entryBytes > AT_LENGTHS_HIGH) {
    const originalHigh = Math.floor(entry.originalLength / LENGTH_SHORT_BYTES);
    const packedHigh = Math.floor(entry.packedLength / LENGTH_SHORT_BYTES);
    out.writeUInt8(originalHigh * 16 + packedHigh, at + AT_LENGTHS_HIGH);
  }
}

function isWithin(value: number, limit: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < limit;
}
