/**
 * Opens an index of whichever version its first byte says.
 */
import { damagedIndex, type IndexReader } from "./index-reader.js";
import { INDEX_VERSION_1, openIndexV1 } from "./index-v1.js";
import { INDEX_VERSION_2, openIndexV2 } from "./index-v2.js";

export type { IndexReader } from "./index-reader.js";

export interface OpenIndexOptions {
  /** What encryption adds to a content: version 1 does not record the plaintext's length. */
  readonly overheadBytes: number;
  /** Which index this is, for messages: the blob's name. */
  readonly name?: string;
}

/**
 * Opens the decrypted bytes of an index. They are kept, not copied, and must not change afterwards.
 *
 * @throws BlockmoverError DATA_LOSS if they are no index; damage of single entries shows when those are read
 */
export function openIndex(bytes: Uint8Array, options: OpenIndexOptions): IndexReader {
  const name = options.name === undefined ? "index" : `index ${options.name}`;
  const version = bytes[0];
  switch (version) {
    case INDEX_VERSION_1:
      return openIndexV1(bytes, { name, overheadBytes: options.overheadBytes });
    case INDEX_VERSION_2:
      return openIndexV2(bytes, name);
    default:
      throw damagedIndex(name, version === undefined ? "it is empty" : `unknown version ${version}`);
  }
}
