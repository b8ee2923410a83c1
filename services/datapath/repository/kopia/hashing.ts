/**
 * Content hashes: how the names of contents and blobs are computed (kopia-format.md §3; Kopia `repo/hashing`).
 *
 * The input is the plaintext before compression, the key is the repository's `secret`, and the output is cut to its
 * first bytes. BLAKE2 takes the key and the digest length into its parameter block, so that `BLAKE2S-128` (a digest
 * of 16 bytes) is no truncation, while `BLAKE2B-256-128` (16 bytes of a digest of 32) is one.
 */

import { KeyedHash } from "../../../../native/index.js";
import { BlockmoverError } from "../../../common/errors.js";

type HashAlgorithm = ConstructorParameters<typeof KeyedHash>[0]["algorithm"];

interface HashDefinition {
  readonly algorithm: HashAlgorithm;
  readonly digestBytes: number;
  readonly outputBytes: number;
}

/** The hash that Kopia gives a new repository. */
export const DEFAULT_HASH = "BLAKE2B-256-128";

const HASHES = new Map<string, HashDefinition>([
  ["BLAKE2B-256", { algorithm: "blake2b", digestBytes: 32, outputBytes: 32 }],
  ["BLAKE2B-256-128", { algorithm: "blake2b", digestBytes: 32, outputBytes: 16 }],
  ["BLAKE2S-128", { algorithm: "blake2s", digestBytes: 16, outputBytes: 16 }],
  ["BLAKE2S-256", { algorithm: "blake2s", digestBytes: 32, outputBytes: 32 }],
  ["HMAC-SHA224", { algorithm: "hmac-sha224", digestBytes: 28, outputBytes: 28 }],
  ["HMAC-SHA256", { algorithm: "hmac-sha256", digestBytes: 32, outputBytes: 32 }],
  ["HMAC-SHA256-128", { algorithm: "hmac-sha256", digestBytes: 32, outputBytes: 16 }],
  ["HMAC-SHA3-224", { algorithm: "hmac-sha3-224", digestBytes: 28, outputBytes: 28 }],
  ["HMAC-SHA3-256", { algorithm: "hmac-sha3-256", digestBytes: 32, outputBytes: 32 }],
]);

/** Longest keys of the keyed hashes; HMAC takes any. */
const MAX_KEY_BYTES: Partial<Record<HashAlgorithm, number>> = { blake2b: 64, blake2s: 32 };

/** Every hash that this build computes; Kopia's BLAKE3 variants are not among them. */
export const supportedHashNames: readonly string[] = [...HASHES.keys()];

/** Whether {@link newContentHash} knows this name. Names are case-sensitive. */
export function isSupportedHash(name: string): boolean {
  return HASHES.has(name);
}

/** The length of a hash in content IDs, or undefined for a name that this build does not have. */
export function hashOutputBytes(name: string): number | undefined {
  return HASHES.get(name)?.outputBytes;
}

/**
 * The hash of a repository.
 *
 * @param secret the key, 1..64 bytes for BLAKE2b and 1..32 for BLAKE2s
 * @throws BlockmoverError UNIMPLEMENTED naming the algorithm, or for an empty secret (`DisableHMAC` of Kopia's
 *   library, which no command sets); DATA_LOSS for one that is too long
 */
export function newContentHash(name: string, secret: Uint8Array): KeyedHash {
  const definition = HASHES.get(name);
  if (definition === undefined) {
    throw unsupportedHash(name);
  }
  if (secret.length === 0) {
    throw new BlockmoverError(
      "UNIMPLEMENTED",
      "kopia.repository: repositories without a hash secret are not supported",
    );
  }
  const maxKeyBytes = MAX_KEY_BYTES[definition.algorithm];
  if (maxKeyBytes !== undefined && secret.length > maxKeyBytes) {
    throw new BlockmoverError(
      "DATA_LOSS",
      `kopia.repository: the secret has ${secret.length} bytes, ${name} takes at most ${maxKeyBytes}`,
    );
  }
  return new KeyedHash({ ...definition, key: secret });
}

/** The error for a hash that this build does not have. */
export function unsupportedHash(name: string): BlockmoverError {
  return new BlockmoverError("UNIMPLEMENTED", `content hash ${JSON.stringify(name)} is not implemented`, {
    hint: `Use a repository with one of ${supportedHashNames.join(", ")}.`,
  });
}
