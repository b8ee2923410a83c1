/**
 * Index version 1, read only: repositories upgraded from Kopia 0.8 and older hold some. Source: Kopia
 * repo/content/index/index_v1.go; kopia-format.md §6.2.
 *
 *     0        1        2          4           8
 *     ┌────────┬────────┬──────────┬───────────┐
 *     │ 1      │KeySize │ 20       │EntryCount │   big-endian
 *     └────────┴────────┴──────────┴───────────┘
 *     EntryCount × [ key (KeySize) │ value (20) ]     ascending by key
 *     pack names, then anything
 *
 *     value    0  Unix seconds (6)              8  pack name offset from the start of the index (4)
 *              6  format version (1)           12  deleted (1 bit), pack offset (31 bits)
 *              7  pack name length (1)         16  packed length (4)
 *
 * There is no compression, and the plaintext's length is the packed length less what encryption adds.
 */
import { type ContentEntry } from "./index-entry.js";
import { damagedIndex, readName, SortedTable, type IndexReader } from "./index-reader.js";

export const INDEX_VERSION_1 = 1;

const HEADER_BYTES = 8;
const ENTRY_BYTES = 20;
/** KeySize of an index without entries in old data. */
const KEY_SIZE_OF_EMPTY = 255;

const AT_NAME_LENGTH = 7;
const AT_NAME_OFFSET = 8;
const AT_PACK_OFFSET = 12;
const AT_PACKED_LENGTH = 16;

export interface IndexV1Options {
  /** Which index this is, for messages. */
  readonly name: string;
  /** What encryption adds to a content. */
  readonly overheadBytes: number;
}

/**
 * Opens an index of version 1 over `bytes`, which must not change afterwards.
 *
 * @throws BlockmoverError DATA_LOSS if the header does not fit the bytes
 */
export function openIndexV1(bytes: Uint8Array, options: IndexV1Options): IndexReader {
  const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (data.length < HEADER_BYTES) {
    throw damagedIndex(options.name, `${data.length} bytes, less than a header`);
  }
  const keyBytes = data.readUInt8(1);
  const entryBytes = data.readUInt16BE(2);
  const entryCount = data.readUInt32BE(4);
  if (data[0] !== INDEX_VERSION_1) {
    throw damagedIndex(options.name, `version ${data.readUInt8(0)} where 1 was expected`);
  }
  if (entryBytes !== ENTRY_BYTES && entryCount > 0) {
    throw damagedIndex(options.name, `entry size ${entryBytes}`);
  }
  if (keyBytes < 2 || (keyBytes === KEY_SIZE_OF_EMPTY && entryCount > 0)) {
    throw damagedIndex(options.name, `key size ${keyBytes}`);
  }
  return new IndexV1(data, options, { keyBytes, entryCount });
}

class IndexV1 extends SortedTable {
  readonly #overheadBytes: number;
  /** Pack names met so far, by offset × 256 + length: one string for all entries of a pack. */
  readonly #packNames = new Map<number, string>();

  constructor(bytes: Buffer, options: IndexV1Options, header: { keyBytes: number; entryCount: number }) {
    super({
      bytes,
      name: options.name,
      ...header,
      entriesOffset: HEADER_BYTES,
      strideBytes: header.keyBytes + ENTRY_BYTES,
    });
    this.#overheadBytes = options.overheadBytes;
  }

  timestampSecondsAt(position: number): number {
    return this.bytes.readUIntBE(this.valueAt(position), 6);
  }

  isDeletedAt(position: number): boolean {
    return (this.bytes.readUInt8(this.valueAt(position) + AT_PACK_OFFSET) & 0x80) !== 0;
  }

  packBlobIdAt(position: number): string {
    const value = this.valueAt(position);
    const lengthBytes = this.bytes.readUInt8(value + AT_NAME_LENGTH);
    const offset = this.bytes.readUInt32BE(value + AT_NAME_OFFSET);
    const place = offset * 256 + lengthBytes;
    let name = this.#packNames.get(place);
    if (name === undefined) {
      if (lengthBytes === 0 || offset + lengthBytes > this.bytes.length) {
        throw this.damaged(
          `the pack name of entry ${position} has ${lengthBytes} bytes at ${offset} of ${this.bytes.length}`,
        );
      }
      name = readName(this.bytes, offset, lengthBytes);
      this.#packNames.set(place, name);
    }
    return name;
  }

  packedLengthAt(position: number): number {
    return this.bytes.readUInt32BE(this.valueAt(position) + AT_PACKED_LENGTH);
  }

  entryAt(position: number): ContentEntry {
    const value = this.valueAt(position);
    const packedLength = this.packedLengthAt(position);
    if (packedLength < this.#overheadBytes) {
      throw this.damaged(`entry ${position} has ${packedLength} bytes, less than encryption adds`);
    }
    return {
      contentId: this.contentIdAt(position),
      packBlobId: this.packBlobIdAt(position),
      packOffset: this.bytes.readUInt32BE(value + AT_PACK_OFFSET) % 2 ** 31,
      packedLength,
      originalLength: packedLength - this.#overheadBytes,
      timestampSeconds: this.timestampSecondsAt(position),
      deleted: this.isDeletedAt(position),
      formatVersion: this.bytes.readUInt8(value + 6),
      compressionHeaderId: 0,
      encryptionKeyId: 0,
    };
  }
}
