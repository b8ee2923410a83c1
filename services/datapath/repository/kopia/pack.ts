/**
 * Packs: the blobs that hold contents (kopia-format.md §5.3, §5.4; Kopia `repo/content/content_manager.go`,
 * `content_index_recovery.go`).
 *
 * ```
 *  0        32                                   multiple of 4096
 *  ├────────┼───────────┬───────────┬───┬─────────┼──────────────────┬───────────┐
 *  │preamble│ content 1 │ content 2 │ … │ padding │ local index      │ postamble │
 *  │ random │ sealed    │ sealed    │   │ random  │ sealed           │ clear     │
 *  └────────┴───────────┴───────────┴───┴─────────┴──────────────────┴───────────┘
 *                                        1..4096   index of this pack's
 *                                        bytes     contents || 32 random bytes; iv = its whole hash
 *
 * postamble   uvarint 1 │ uvarint len(iv) │ iv │ uvarint index offset │ uvarint index length │ CRC-32 BE │ uint8 n
 *             └──────────────────── n - 4 bytes, which the CRC covers ──────────────────────┘
 * ```
 *
 * Contents have no marks between them: the index knows where they are. Local index and postamble serve
 * `kopia index recover` alone, which reads the last 8192 bytes first. The postamble is not authenticated; a decoded
 * one is a hint where to look for an index that then authenticates itself.
 *
 * Nothing here does I/O; randomness comes in as an argument.
 */

import { randomBytes as cryptoRandomBytes } from "node:crypto";
import { crc32 } from "node:zlib";

import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";
import { MAX_HASH_BYTES } from "./content-id.js";
import { isSessionId } from "./session.js";

/** Fills memory with unpredictable bytes; an argument so that tests can repeat themselves. */
export type RandomBytes = (sizeBytes: number) => Uint8Array;

/** `p`: contents without prefix (data). `q`: contents with prefix (directories, manifests, lists). */
export type PackKind = "p" | "q";

export const PREAMBLE_BYTES = 32;
export const PADDING_UNIT_BYTES = 4096;
export const LOCAL_INDEX_RANDOM_SUFFIX_BYTES = 32;

/** Offsets in a pack are below this (30 bits in the index). */
export const MAX_PACK_OFFSET_BYTES = 2 ** 30;
/** Packed and original lengths are below this (28 bits in the index). */
export const MAX_CONTENT_BYTES = 2 ** 28;

/** The longest possible postamble, its length byte included. Enough of a pack's end to find any. */
export const MAX_POSTAMBLE_BYTES = 256;

const POSTAMBLE_FLAG = 1;
const CRC_BYTES = 4;
/** As Go, which allows zeros at the end of a varint up to this length. */
const MAX_UVARINT_BYTES = 10;
const MIN_IV_BYTES = 16;
const NAME_RANDOM_BYTES = 16;

/** Where the local index of a pack is. */
export interface Postamble {
  /** The whole hash of the local index, which is what its encryption is bound to. */
  readonly iv: Uint8Array;
  readonly localIndexOffset: number;
  /** Bytes, sealed. */
  readonly localIndexLength: number;
}

/**
 * The name of a new pack. A pack keeps its name from its first byte to its last retry.
 *
 * @example newPackBlobId("p", sessionId) // "p0bb110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147"
 */
export function newPackBlobId(kind: PackKind, sessionId: string, randomBytes: RandomBytes = cryptoRandomBytes): string {
  assert(isSessionId(sessionId), `session ID ${JSON.stringify(sessionId)} is well-formed`);
  return `${kind}${Buffer.from(randomBytes(NAME_RANDOM_BYTES)).toString("hex")}-${sessionId}`;
}

/** The first bytes of a pack. */
export function encodePreamble(randomBytes: RandomBytes = cryptoRandomBytes): Uint8Array {
  return randomBytes(PREAMBLE_BYTES);
}

/**
 * How much padding follows the last content, 1..4096 bytes: an aligned pack gets a whole unit.
 *
 * @param lengthSoFarBytes preamble and contents
 */
export function paddingLength(lengthSoFarBytes: number): number {
  return PADDING_UNIT_BYTES - (lengthSoFarBytes % PADDING_UNIT_BYTES);
}

/** The padding after the last content. */
export function encodePadding(lengthSoFarBytes: number, randomBytes: RandomBytes = cryptoRandomBytes): Uint8Array {
  return randomBytes(paddingLength(lengthSoFarBytes));
}

/** The random bytes that follow the local index before it is hashed and sealed; index blobs have none. */
export function encodeLocalIndexSuffix(randomBytes: RandomBytes = cryptoRandomBytes): Uint8Array {
  return randomBytes(LOCAL_INDEX_RANDOM_SUFFIX_BYTES);
}

/**
 * The last bytes of a pack.
 *
 * @throws BlockmoverError INTERNAL for values out of range
 */
export function encodePostamble(postamble: Postamble): Buffer {
  const { iv, localIndexOffset, localIndexLength } = postamble;
  assert(
    iv.length >= MIN_IV_BYTES && iv.length <= MAX_HASH_BYTES,
    `the iv of a local index has 16..32 bytes, not ${iv.length}`,
  );
  assert(isUint32(localIndexOffset), `local index offset ${localIndexOffset} fits 32 bits`);
  assert(isUint32(localIndexLength), `local index length ${localIndexLength} fits 32 bits`);
  const covered = Buffer.from([
    ...uvarint(POSTAMBLE_FLAG),
    ...uvarint(iv.length),
    ...iv,
    ...uvarint(localIndexOffset),
    ...uvarint(localIndexLength),
  ]);
  const bytes = Buffer.alloc(covered.length + CRC_BYTES + 1);
  covered.copy(bytes);
  bytes.writeUInt32BE(crc32(covered), covered.length);
  bytes.writeUInt8(covered.length + CRC_BYTES, covered.length + CRC_BYTES);
  return bytes;
}

/**
 * Reads the postamble at the end of a pack.
 *
 * @param tail the last bytes of the pack, {@link MAX_POSTAMBLE_BYTES} or more of them, or all
 * @param packLengthBytes the length of the whole pack
 * @param packBlobId names the pack in errors
 * @throws BlockmoverError DATA_LOSS when there is none, or when it points outside of the pack
 */
export function decodePostamble(tail: Uint8Array, packLengthBytes: number, packBlobId: string): Postamble {
  const lengthBytes = tail[tail.length - 1] ?? 0;
  const start = tail.length - 1 - lengthBytes;
  if (lengthBytes < CRC_BYTES + 1 || start < 0) {
    throw noPostamble(packBlobId, `its last byte cannot be a postamble length`);
  }
  const covered = tail.subarray(start, tail.length - 1 - CRC_BYTES);
  const crc = new DataView(tail.buffer, tail.byteOffset + start + covered.length, CRC_BYTES).getUint32(0);
  if (crc32(covered) !== crc) {
    throw noPostamble(packBlobId, "the checksum is wrong");
  }
  const flag = readUvarint(covered, 0);
  const ivLength = flag && readUvarint(covered, flag.end);
  if (flag?.value !== POSTAMBLE_FLAG || ivLength === undefined) {
    throw noPostamble(packBlobId, "unknown form");
  }
  const ivEnd = ivLength.end + ivLength.value;
  if (ivLength.value < MIN_IV_BYTES || ivLength.value > MAX_HASH_BYTES) {
    throw noPostamble(packBlobId, `impossible iv of ${ivLength.value} bytes`);
  }
  const offset = readUvarint(covered, ivEnd);
  const length = offset && readUvarint(covered, offset.end);
  if (offset === undefined || length === undefined) {
    throw noPostamble(packBlobId, "it is cut short");
  }
  if (offset.value + length.value > packLengthBytes - 1 - lengthBytes) {
    throw noPostamble(packBlobId, `bytes ${offset.value}+${length.value} lie outside of ${packLengthBytes} bytes`);
  }
  return {
    iv: covered.slice(ivLength.end, ivEnd),
    localIndexOffset: offset.value,
    localIndexLength: length.value,
  };
}

function noPostamble(packBlobId: string, problem: string): BlockmoverError {
  return new BlockmoverError("DATA_LOSS", `pack ${packBlobId}: no valid postamble: ${problem}`, {
    hint: "The pack is truncated or damaged at its end; its contents may still be readable through the index.",
  });
}

function isUint32(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 0xffffffff;
}

/** Base-128, least significant digit first. By division, for values of 2^31 and more. */
function uvarint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  bytes.push(rest);
  return bytes;
}

/** A varint of at most 32 bits and where it ends, or undefined when it has more bits or is cut short. */
function readUvarint(bytes: Uint8Array, start: number): { readonly value: number; readonly end: number } | undefined {
  let value = 0;
  let factor = 1;
  for (let position = start; position < start + MAX_UVARINT_BYTES; position++) {
    const byte = bytes[position];
    if (byte === undefined) {
      return undefined;
    }
    value += (byte & 0x7f) * factor;
    factor *= 0x80;
    if (byte < 0x80) {
      return isUint32(value) ? { value, end: position + 1 } : undefined;
    }
  }
  return undefined;
}
