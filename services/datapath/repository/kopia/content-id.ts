/**
 * Content IDs: the names of deduplicated pieces of data (kopia-format.md §5.1; Kopia `repo/content/index/id.go`).
 *
 * ```
 * text   [prefix letter g..z] hex(hash)            "e284…ce0", "x4848…b3e1", "m0102…0f10"
 *        odd length means that there is a prefix
 * key    prefix byte, or 0x00 without || hash      what indexes store and sort by, compared as bytes
 * iv     last 16 bytes of the hash                 what encryption is bound to; the prefix is not part of it
 * ```
 *
 * `k…` and un-prefixed contents with the same bytes have the same hash and are different contents.
 */

import { assert } from "../../../common/assert.js";
import { BlockmoverError, type ErrorCode } from "../../../common/errors.js";

declare const contentIdBrand: unique symbol;

/** The text form of a content ID, known to be valid and in lower case. */
export type ContentId = string & { readonly [contentIdBrand]: true };

/** Prefixes we write: none for file data, `k` directories, `m` manifests, `x` indirect lists. Any g..z is read. */
export type ContentPrefix = "" | "k" | "m" | "x";

/** The longest hash that Kopia accepts. */
export const MAX_HASH_BYTES = 32;

/** Bytes of the hash, counted from its end, that encryption is bound to. */
export const IV_BYTES = 16;

const CONTENT_ID_PATTERN = /^[g-z]?(?:[0-9a-fA-F]{2}){1,32}$/;
const PREFIX_PATTERN = /^[g-z]?$/;

/**
 * Checks the text of a content ID; upper-case hex digits are read, as Kopia does, and become lower case.
 *
 * @param code for the error: DATA_LOSS, for text out of a repository, unless the caller knows better
 * @throws BlockmoverError `code`
 * @example parseContentId("x4848cc5ab97a87b70abdc56db132e3b1")
 */
export function parseContentId(text: string, code: ErrorCode = "DATA_LOSS"): ContentId {
  if (!CONTENT_ID_PATTERN.test(text)) {
    throw new BlockmoverError(
      code,
      `malformed content ID ${quote(text)}: expected an optional letter g..z and 1 to ${MAX_HASH_BYTES} bytes in hex`,
    );
  }
  return text.toLowerCase() as ContentId;
}

/**
 * The content ID of a hash.
 *
 * @throws BlockmoverError INTERNAL when prefix or hash length cannot be; both are ours, never read
 * @example contentIdOf("k", hash)
 */
export function contentIdOf(prefix: ContentPrefix, hash: Uint8Array): ContentId {
  assert(PREFIX_PATTERN.test(prefix), `content ID prefix ${quote(prefix)} is none or one letter g..z`);
  assert(hash.length > 0 && hash.length <= MAX_HASH_BYTES, `a content hash has 1..32 bytes, not ${hash.length}`);
  return (prefix + viewOf(hash).toString("hex")) as ContentId;
}

/** The prefix letter, or the empty string. */
export function contentIdPrefix(id: ContentId): string {
  return id.length % 2 === 1 ? id.charAt(0) : "";
}

/** The hash that the content was named after, without the prefix. */
export function contentIdHash(id: ContentId): Buffer {
  return Buffer.from(id.slice(id.length % 2), "hex");
}

/**
 * What the encryption of a content in a pack is bound to: the last 16 bytes of its hash.
 *
 * @throws BlockmoverError DATA_LOSS when the hash is shorter; such an ID parses but names no stored content
 */
export function contentIdIv(id: ContentId): Buffer {
  const hash = contentIdHash(id);
  if (hash.length < IV_BYTES) {
    throw new BlockmoverError(
      "DATA_LOSS",
      `content ID ${id} is too short: its hash has ${hash.length} bytes, at least ${IV_BYTES} are needed`,
    );
  }
  return hash.subarray(hash.length - IV_BYTES);
}

/** The binary form that indexes store and sort by. */
export function contentIdKey(id: ContentId): Buffer {
  const key = Buffer.alloc(1 + (id.length >> 1));
  const prefixLength = id.length % 2;
  if (prefixLength === 1) {
    key[0] = id.charCodeAt(0);
  }
  key.write(id.slice(prefixLength), 1, "hex");
  return key;
}

/**
 * The content ID of an index key.
 *
 * @throws BlockmoverError DATA_LOSS when the first byte is neither 0 nor g..z, or the length is impossible
 */
export function contentIdFromKey(key: Uint8Array): ContentId {
  const prefixByte = key[0] ?? -1;
  const prefixed = prefixByte >= 0x67 && prefixByte <= 0x7a;
  if ((!prefixed && prefixByte !== 0) || key.length < 2 || key.length > 1 + MAX_HASH_BYTES) {
    throw new BlockmoverError(
      "DATA_LOSS",
      `malformed index key ${viewOf(key).toString("hex", 0, 40)} of ${key.length} bytes: expected 00 or a letter ` +
        `g..z and 1 to ${MAX_HASH_BYTES} bytes`,
    );
  }
  const hash = viewOf(key).toString("hex", 1);
  return (prefixed ? String.fromCharCode(prefixByte) + hash : hash) as ContentId;
}

function viewOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Quoted for a message, cut to what fits on a line. */
function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
