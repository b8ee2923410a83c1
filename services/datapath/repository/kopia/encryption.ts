/**
 * Content encryption: one AEAD key per item (kopia-format.md §4.1; Kopia `repo/encryption`).
 *
 * ```
 * K      = HKDF-SHA256(masterKey, salt "encryption", info "")      once per repository
 * key    = HMAC-SHA256(K, iv)                                      once per item
 * sealed = nonce (12 random bytes) || ciphertext || tag (16)       with iv as additional data: 28 bytes longer
 * ```
 *
 * `iv` is the last 16 bytes of a content's or blob's hash, but the whole hash for the local index in a pack.
 */

import { ContentCipher } from "../../../../native/index.js";
import { BlockmoverError } from "../../../common/errors.js";
import { deriveContentKey } from "./keys.js";

type CipherAlgorithm = ConstructorParameters<typeof ContentCipher>[0]["algorithm"];

/** The encryption that Kopia gives a new repository. */
export const DEFAULT_ENCRYPTION = "AES256-GCM-HMAC-SHA256";

/** Bytes that encryption adds to every item, with either algorithm. */
export const ENCRYPTION_OVERHEAD_BYTES = 28;

const CIPHERS = new Map<string, CipherAlgorithm>([
  ["AES256-GCM-HMAC-SHA256", "aes-256-gcm"],
  ["CHACHA20-POLY1305-HMAC-SHA256", "chacha20-poly1305"],
]);

/** Every encryption that Kopia and this build have. */
export const supportedEncryptionNames: readonly string[] = [...CIPHERS.keys()];

/** Whether {@link newContentCipher} knows this name. Names are case-sensitive. */
export function isSupportedEncryption(name: string): boolean {
  return CIPHERS.has(name);
}

/**
 * The cipher of a repository.
 *
 * @param masterKey the repository's root key, not K
 * @throws BlockmoverError UNIMPLEMENTED naming the algorithm, or DATA_LOSS for an empty master key
 */
export function newContentCipher(name: string, masterKey: Uint8Array): ContentCipher {
  const algorithm = CIPHERS.get(name);
  if (algorithm === undefined) {
    throw unsupportedEncryption(name);
  }
  return new ContentCipher({ algorithm, key: deriveContentKey(masterKey) });
}

/** The error for an encryption that this build does not have. */
export function unsupportedEncryption(name: string): BlockmoverError {
  return new BlockmoverError("UNIMPLEMENTED", `content encryption ${JSON.stringify(name)} is not implemented`, {
    hint: `Use a repository with one of ${supportedEncryptionNames.join(", ")}.`,
  });
}
