/**
 * Hashed blobs: index blobs, session markers and logs, sealed as a whole (kopia-format.md §4.2, §4.3; Kopia
 * `internal/blobcrypto`).
 *
 * ```
 * name     prefix │ hex of the hash of the plaintext │ [ - suffix ]
 *          xn0_     3d66899eef6ce47833d91efffcefee17   -sb2b51260d5d2c0e9147-c1
 *                   └─ iv: the last 32 hex digits before the first dash = the last 16 bytes of the hash
 * bytes    nonce (12) │ ciphertext │ tag (16)
 * ```
 *
 * Prefixes may hold digits and underscores, so names are cut from the first dash backwards. The iv binds the bytes
 * to their name: a blob stored under another one does not open. That is all the reading side checks, as in Kopia;
 * it does not hash the plaintext again.
 *
 * Work is done on the calling thread, about a millisecond for each MiB.
 */

import { type ContentCipher, type KeyedHash, NativeError } from "../../../../native/index.js";
import { BlockmoverError } from "../../../common/errors.js";
import { IV_BYTES } from "./content-id.js";

/** Hash and cipher of a repository. */
export interface BlobCrypto {
  readonly hash: Pick<KeyedHash, "digest">;
  readonly cipher: Pick<ContentCipher, "seal" | "open">;
}

/** What becomes a blob. */
export interface HashedBlobContent {
  /** For example `xn0_` or `s`. */
  readonly prefix: string;
  /** For example `sb2b51260d5d2c0e9147-c1`; without the dash before it. */
  readonly suffix?: string;
  readonly payload: Uint8Array;
}

/** A blob ready to be stored. */
export interface SealedBlob {
  readonly id: string;
  readonly bytes: Buffer;
}

const IV_PATTERN = new RegExp(`^[^-]*?([0-9a-fA-F]{${2 * IV_BYTES}})(?:-|$)`);

/**
 * Names and seals a blob. Sealing the same payload again gives the same name and other bytes.
 *
 * @example sealHashedBlob(crypto, { prefix: "s", suffix: sessionId, payload: encodeSessionMarker(marker) })
 */
export function sealHashedBlob(crypto: BlobCrypto, { prefix, suffix, payload }: HashedBlobContent): SealedBlob {
  const digest = crypto.hash.digest(payload);
  const id = prefix + digest.toString("hex") + (suffix === undefined || suffix === "" ? "" : `-${suffix}`);
  return { id, bytes: crypto.cipher.seal(payload, blobIv(id)) };
}

/**
 * The plaintext of a blob.
 *
 * @throws BlockmoverError DATA_LOSS naming the blob when its name has no hash or its bytes do not authenticate
 */
export function openHashedBlob(crypto: BlobCrypto, id: string, bytes: Uint8Array): Buffer {
  const iv = blobIv(id);
  try {
    return crypto.cipher.open(bytes, iv);
  } catch (error) {
    if (!(error instanceof NativeError) || error.errno !== "EBADMSG") {
      throw error;
    }
    throw new BlockmoverError("DATA_LOSS", `blob ${id}: authentication of its ${bytes.length} bytes failed`, {
      cause: error,
      hint: "The blob is damaged, truncated or renamed. Restore it from a copy of the repository if there is one.",
    });
  }
}

/**
 * What the encryption of a hashed blob is bound to.
 *
 * @throws BlockmoverError DATA_LOSS when the name does not end in a hash before its first dash
 */
export function blobIv(id: string): Buffer {
  const hex = IV_PATTERN.exec(id)?.[1];
  if (hex === undefined) {
    throw new BlockmoverError("DATA_LOSS", `blob ${JSON.stringify(id.slice(0, 200))}: its name has no hash`, {
      hint: "Kopia did not write this blob; remove it from the repository's location.",
    });
  }
  return Buffer.from(hex, "hex");
}
