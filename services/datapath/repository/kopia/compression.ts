/**
 * Compression of contents, between hashing and encryption (kopia-format.md §5.2; Kopia `repo/compression`).
 *
 * ```
 * stored   compressor ID, u32 BE │ stream of the family        the index entry has the same ID
 *          plaintext                                            ID 0: was not smaller with header and stream
 * ```
 *
 * | family  | stream              | read | written | by             |
 * |---------|---------------------|------|---------|----------------|
 * | zstd    | Zstandard frames    | yes  | yes     | native addon   |
 * | gzip    | gzip members        | yes  | yes     | node:zlib      |
 * | deflate | raw DEFLATE         | yes  | yes     | node:zlib      |
 * | s2      | S2 (Snappy) framing | yes  | no      | native addon   |
 * | lz4     | LZ4 frames          | yes  | no      | native addon   |
 *
 * Any valid stream of a family is read by Kopia, whatever the level. `lz4` repositories are from Kopia 0.22 and
 * older; 0.23 has dropped it. Decompression never gives out more than the length that the index states: that is
 * the bound on memory, whatever the stream claims.
 *
 * These functions are for single contents. Groups of data chunks go through `zstdCompressMany` and `openMany` of the
 * native addon, which write the same bytes.
 */

import { promisify } from "node:util";
import * as zlib from "node:zlib";

import { decompress, NativeError, zstdCompress, zstdCompressMany } from "../../../../native/index.js";
import { BlockmoverError, messageOf } from "../../../common/errors.js";
import { MAX_CONTENT_BYTES } from "./pack.js";

interface CompressionBase {
  /** What precedes the stream and stands in the index. */
  readonly id: number;
  /** As in policies and on the command line. */
  readonly name: string;
}

/** A compressor, by what writes it. */
export type Compression =
  | (CompressionBase & { readonly family: "zstd"; readonly writable: true; readonly zstdLevel: number })
  | (CompressionBase & { readonly family: "gzip" | "deflate"; readonly writable: true; readonly zlibLevel: number })
  | (CompressionBase & { readonly family: "s2" | "lz4"; readonly writable: false });

/** A content as it is encrypted and stored. */
export interface CompressedContent {
  /** 0 when `stored` is the plaintext itself. */
  readonly headerId: number;
  readonly stored: Uint8Array;
}

/** The name that means no compression, ID 0. */
export const NO_COMPRESSION = "none";

/** Bytes of the compressor ID before the stream. */
export const COMPRESSION_HEADER_BYTES = 4;

/**
 * Every compressor of Kopia. Levels are ours; those of zstd are the ones of libzstd that come nearest to Kopia's
 * encoder, and low enough that windows stay at 8 MiB or less, which every decoder takes.
 */
export const compressions: readonly Compression[] = [
  { id: 0x1000, name: "gzip", family: "gzip", writable: true, zlibLevel: 6 },
  { id: 0x1001, name: "gzip-best-speed", family: "gzip", writable: true, zlibLevel: 1 },
  { id: 0x1002, name: "gzip-best-compression", family: "gzip", writable: true, zlibLevel: 9 },
  { id: 0x1100, name: "zstd", family: "zstd", writable: true, zstdLevel: 3 },
  { id: 0x1101, name: "zstd-fastest", family: "zstd", writable: true, zstdLevel: 1 },
  { id: 0x1102, name: "zstd-better-compression", family: "zstd", writable: true, zstdLevel: 7 },
  { id: 0x1103, name: "zstd-best-compression", family: "zstd", writable: true, zstdLevel: 11 },
  { id: 0x1200, name: "s2-default", family: "s2", writable: false },
  { id: 0x1201, name: "s2-better", family: "s2", writable: false },
  { id: 0x1202, name: "s2-parallel-4", family: "s2", writable: false },
  { id: 0x1203, name: "s2-parallel-8", family: "s2", writable: false },
  { id: 0x1300, name: "pgzip", family: "gzip", writable: true, zlibLevel: 6 },
  { id: 0x1301, name: "pgzip-best-speed", family: "gzip", writable: true, zlibLevel: 1 },
  { id: 0x1302, name: "pgzip-best-compression", family: "gzip", writable: true, zlibLevel: 9 },
  { id: 0x1400, name: "lz4", family: "lz4", writable: false },
  { id: 0x1500, name: "deflate-default", family: "deflate", writable: true, zlibLevel: 6 },
  { id: 0x1501, name: "deflate-best-speed", family: "deflate", writable: true, zlibLevel: 1 },
  { id: 0x1502, name: "deflate-best-compression", family: "deflate", writable: true, zlibLevel: 9 },
];

const BY_ID = new Map(compressions.map((compression) => [compression.id, compression]));
const BY_NAME = new Map(compressions.map((compression) => [compression.name, compression]));

/** Names that {@link compressContent} takes, "none" first. */
export const writableCompressionNames: readonly string[] = [
  NO_COMPRESSION,
  ...compressions.filter(({ writable }) => writable).map(({ name }) => name),
];

const gzip = promisify<zlib.InputType, zlib.ZlibOptions, Buffer>(zlib.gzip);
const gunzip = promisify<zlib.InputType, zlib.ZlibOptions, Buffer>(zlib.gunzip);
const deflateRaw = promisify<zlib.InputType, zlib.ZlibOptions, Buffer>(zlib.deflateRaw);
const inflateRaw = promisify<zlib.InputType, zlib.ZlibOptions, Buffer>(zlib.inflateRaw);

/**
 * The compressor with this ID.
 *
 * @throws BlockmoverError DATA_LOSS for an ID that no Kopia writes, 0 among them: that is no compressor
 */
export function compressionById(headerId: number): Compression {
  const compression = BY_ID.get(headerId);
  if (compression === undefined) {
    throw new BlockmoverError("DATA_LOSS", `unknown compressor 0x${headerId.toString(16)}`, {
      hint: "The index entry is damaged, or a newer Kopia wrote it.",
    });
  }
  return compression;
}

/**
 * The compressor with this name, to write with; undefined for "none".
 *
 * @throws BlockmoverError INVALID_ARGUMENT for an unknown name, UNIMPLEMENTED for one that is only read
 */
export function compressionByName(name: string): Extract<Compression, { writable: true }> | undefined {
  if (name === NO_COMPRESSION) {
    return undefined;
  }
  const compression = BY_NAME.get(name);
  if (compression?.writable === true) {
    return compression;
  }
  const hint = `Choose one of ${writableCompressionNames.join(", ")}.`;
  throw compression === undefined
    ? new BlockmoverError("INVALID_ARGUMENT", `unknown compression ${JSON.stringify(name)}`, { hint })
    : new BlockmoverError("UNIMPLEMENTED", `compression ${JSON.stringify(name)} can only be read`, { hint });
}

/**
 * Compresses a content on the thread pool; keeps the plaintext where compression does not make it smaller.
 *
 * @param name one of {@link writableCompressionNames}
 * @throws BlockmoverError as {@link compressionByName}; UNIMPLEMENTED when the library is not installed
 * @example await compressContent("zstd-fastest", list) // { headerId: 0x1101, stored: … }
 */
export async function compressContent(name: string, plaintext: Uint8Array): Promise<CompressedContent> {
  const compression = compressionByName(name);
  switch (compression?.family) {
    case undefined:
      return { headerId: 0, stored: plaintext };
    case "zstd": {
      const target = Buffer.allocUnsafe(plaintext.length);
      const [length] = await orUnimplemented(name, () =>
        zstdCompressMany([{ source: plaintext, target, headerId: compression.id }], compression.zstdLevel),
      );
      return length === undefined || length === 0
        ? { headerId: 0, stored: plaintext }
        : { headerId: compression.id, stored: target.subarray(0, length) };
    }
    case "gzip":
      return smaller(compression.id, plaintext, await gzip(plaintext, { level: compression.zlibLevel }));
    case "deflate":
      return smaller(compression.id, plaintext, await deflateRaw(plaintext, { level: compression.zlibLevel }));
  }
}

/** As {@link compressContent}, on this thread: for a manifest or a list of some KiB. */
export function compressContentSync(name: string, plaintext: Uint8Array): CompressedContent {
  const compression = compressionByName(name);
  switch (compression?.family) {
    case undefined:
      return { headerId: 0, stored: plaintext };
    case "zstd":
      try {
        return smaller(compression.id, plaintext, zstdCompress(plaintext, compression.zstdLevel));
      } catch (error) {
        throw missingLibrary(name, error) ?? error;
      }
    case "gzip":
      return smaller(compression.id, plaintext, zlib.gzipSync(plaintext, { level: compression.zlibLevel }));
    case "deflate":
      return smaller(compression.id, plaintext, zlib.deflateRawSync(plaintext, { level: compression.zlibLevel }));
  }
}

/**
 * The plaintext of a decrypted content.
 *
 * Takes the bytes as the index describes them. The result may share memory with `stored`. Streams of zstd, s2 and
 * lz4 are decompressed on this thread, for contents of a few MiB at most; larger ones belong to `openMany`.
 *
 * @param headerId compressor ID of the index entry; 0 for none
 * @param originalLength length of the plaintext in the index entry; the result has it exactly
 * @throws BlockmoverError DATA_LOSS when header, stream or length are wrong; UNIMPLEMENTED without the library
 */
export async function decompressContent(headerId: number, stored: Uint8Array, originalLength: number): Promise<Buffer> {
  if (!Number.isInteger(originalLength) || originalLength < 0 || originalLength >= MAX_CONTENT_BYTES) {
    throw new BlockmoverError("DATA_LOSS", `impossible content length of ${originalLength} bytes`);
  }
  const view = Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength);
  if (headerId === 0) {
    return checkLength("stored", view, originalLength);
  }
  const compression = compressionById(headerId);
  const { name } = compression;
  const header = view.length >= COMPRESSION_HEADER_BYTES ? view.readUInt32BE(0) : undefined;
  if (header !== headerId) {
    throw damaged(name, `the header is ${header === undefined ? "missing" : `0x${header.toString(16)}`}`);
  }
  const stream = view.subarray(COMPRESSION_HEADER_BYTES);
  return checkLength(name, await decompressStream(compression, stream, originalLength), originalLength);
}

async function decompressStream(compression: Compression, stream: Buffer, originalLength: number): Promise<Buffer> {
  // zlib takes no bound of 0, hence 1 for the empty content; its length is checked afterwards like any other.
  const bound = { maxOutputLength: Math.max(1, originalLength) };
  try {
    switch (compression.family) {
      case "gzip":
        return await gunzip(stream, bound);
      case "deflate":
        return await inflateRaw(stream, bound);
      default:
        return decompress(compression.family, stream, originalLength);
    }
  } catch (error) {
    if (error instanceof NativeError && error.errno !== "EBADMSG") {
      throw missingLibrary(compression.name, error) ?? error;
    }
    throw damaged(compression.name, messageOf(error), error);
  }
}

function smaller(headerId: number, plaintext: Uint8Array, stream: Buffer): CompressedContent {
  if (COMPRESSION_HEADER_BYTES + stream.length >= plaintext.length) {
    return { headerId: 0, stored: plaintext };
  }
  const stored = Buffer.allocUnsafe(COMPRESSION_HEADER_BYTES + stream.length);
  stored.writeUInt32BE(headerId, 0);
  stream.copy(stored, COMPRESSION_HEADER_BYTES);
  return { headerId, stored };
}

function checkLength(name: string, plaintext: Buffer, originalLength: number): Buffer {
  if (plaintext.length !== originalLength) {
    throw damaged(name, `it has ${plaintext.length} bytes, the index says ${originalLength}`);
  }
  return plaintext;
}

async function orUnimplemented<T>(name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw missingLibrary(name, error) ?? error;
  }
}

/** The addon finds its libraries at run time; a host may not have them. */
function missingLibrary(name: string, error: unknown): BlockmoverError | undefined {
  if (!(error instanceof NativeError) || error.errno !== "ENOSYS") {
    return undefined;
  }
  return new BlockmoverError("UNIMPLEMENTED", `compression ${JSON.stringify(name)}: ${error.message}`, {
    cause: error,
    hint: "Install the library, or write with gzip, deflate-best-speed or none.",
  });
}

function damaged(name: string, problem: string, cause?: unknown): BlockmoverError {
  return new BlockmoverError("DATA_LOSS", `content (${name}): ${problem}`, {
    cause,
    hint: `Run "repository verify" to find what else is damaged.`,
  });
}
