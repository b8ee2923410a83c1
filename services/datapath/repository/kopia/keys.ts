/**
 * Keys: from the password to the key of every purpose (kopia-format.md §2.2, §2.3, §2.5).
 *
 * ```
 * password ──scrypt or PBKDF2, salt uniqueID──> formatKey ──HKDF salt uniqueID──┬─ info "AES"       AES-256-GCM key
 *                                                                               └─ info "CHECKSUM"  its AAD
 *      both seal kopia.repository's inner JSON and kopia.blobcfg
 *
 * masterKey ──┬─ HKDF salt "encryption", info ""                    K: contents, local indexes, index blobs, sessions
 *             └─ HKDF salt uniqueID, info "maintenance schedule"    kopia.maintenance, AAD "maintenance"
 * ```
 *
 * The trap: for K the purpose is the salt and the info is empty; everywhere else the purpose is the info and
 * the salt is the unique ID, as raw bytes.
 */

import { hkdfSync, pbkdf2, scrypt } from "node:crypto";

import { BlockmoverError } from "../../../common/errors.js";

/** Ways from a password to the format key, by the names in `kopia.repository`. */
export type KeyAlgo = "scrypt-65536-8-1" | "pbkdf2-sha256-600000";

/** What Kopia uses unless told otherwise. */
export const DEFAULT_KEY_ALGO: KeyAlgo = "scrypt-65536-8-1";

export const supportedKeyAlgos: readonly KeyAlgo[] = ["scrypt-65536-8-1", "pbkdf2-sha256-600000"];

/** Kopia refuses shorter unique IDs; a new one has 32 bytes. */
export const MIN_UNIQUE_ID_BYTES = 16;

/** Every key here has this length. */
export const KEY_BYTES = 32;

/** The additional authenticated data of `kopia.maintenance`. */
export const MAINTENANCE_AAD: Uint8Array = Buffer.from("maintenance", "latin1");

const SCRYPT_COST = 65536;
const SCRYPT_BLOCK_SIZE = 8;
/** scrypt needs 128 × N × r = 64 MiB and a little; Node's default limit of 32 MiB makes it throw. */
const SCRYPT_MAX_MEMORY_BYTES = 128 << 20;
const PBKDF2_ITERATIONS = 600_000;

/** Whether `name` is a key algorithm that this build has. */
export function isSupportedKeyAlgo(name: string): name is KeyAlgo {
  return (supportedKeyAlgos as readonly string[]).includes(name);
}

/**
 * Derives the key that opens the format blob. It takes a tenth of a second and more on purpose, on libuv's threads;
 * scrypt takes 64 MiB meanwhile.
 *
 * @param password taken as UTF-8
 * @throws BlockmoverError UNIMPLEMENTED for an unknown algorithm, DATA_LOSS for a unique ID that is too short
 */
export async function deriveFormatKey(password: string, uniqueId: Uint8Array, keyAlgo: string): Promise<Buffer> {
  if (!isSupportedKeyAlgo(keyAlgo)) {
    throw new BlockmoverError(
      "UNIMPLEMENTED",
      `the repository derives its key by ${JSON.stringify(keyAlgo)}, which this build does not have`,
      { hint: `Supported are ${supportedKeyAlgos.join(" and ")}.` },
    );
  }
  if (uniqueId.length < MIN_UNIQUE_ID_BYTES) {
    throw new BlockmoverError(
      "DATA_LOSS",
      `kopia.repository: the unique ID has ${uniqueId.length} bytes, at least ${MIN_UNIQUE_ID_BYTES} are needed`,
    );
  }
  // Explicitly as bytes: non-ASCII passwords must give the key that Go derives from its UTF-8 strings.
  const passwordBytes = Buffer.from(password, "utf8");
  return new Promise<Buffer>((resolve, reject) => {
    const done = (error: Error | null, key: Buffer): void => {
      passwordBytes.fill(0);
      if (error === null) {
        resolve(key);
      } else {
        reject(new BlockmoverError("INTERNAL", `${keyAlgo} failed: ${error.message}`, { cause: error }));
      }
    };
    if (keyAlgo === "scrypt-65536-8-1") {
      const cost = { N: SCRYPT_COST, r: SCRYPT_BLOCK_SIZE, p: 1, maxmem: SCRYPT_MAX_MEMORY_BYTES };
      scrypt(passwordBytes, uniqueId, KEY_BYTES, cost, done);
    } else {
      pbkdf2(passwordBytes, uniqueId, PBKDF2_ITERATIONS, KEY_BYTES, "sha256", done);
    }
  });
}

/** Key and additional data that seal the format block and `kopia.blobcfg`. */
export interface FormatSealingKeys {
  readonly aesKey: Buffer;
  readonly aad: Buffer;
}

/** The two values that seal the format block and `kopia.blobcfg`. */
export function deriveFormatSealingKeys(formatKey: Uint8Array, uniqueId: Uint8Array): FormatSealingKeys {
  return {
    aesKey: deriveKey(formatKey, { salt: uniqueId, purpose: "AES" }),
    aad: deriveKey(formatKey, { salt: uniqueId, purpose: "CHECKSUM" }),
  };
}

/** K, from which the key of each content and hashed blob comes. */
export function deriveContentKey(masterKey: Uint8Array): Buffer {
  return deriveKey(masterKey, { salt: Buffer.from("encryption", "latin1"), purpose: "" });
}

/** The AES-256-GCM key of `kopia.maintenance`. */
export function deriveMaintenanceKey(masterKey: Uint8Array, uniqueId: Uint8Array): Buffer {
  return deriveKey(masterKey, { salt: uniqueId, purpose: "maintenance schedule" });
}

/**
 * HKDF-SHA256 with the purpose as info, Kopia's general key derivation.
 *
 * @throws BlockmoverError DATA_LOSS for an empty key, which Kopia refuses too
 */
export function deriveKey(
  key: Uint8Array,
  { salt, purpose }: { readonly salt: Uint8Array; readonly purpose: string },
): Buffer {
  if (key.length === 0) {
    throw new BlockmoverError("DATA_LOSS", `cannot derive a key for ${JSON.stringify(purpose)}: the key is empty`);
  }
  return Buffer.from(hkdfSync("sha256", key, salt, purpose, KEY_BYTES));
}
