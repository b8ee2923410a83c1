/**
 * `kopia.repository` and `kopia.blobcfg`: what a repository is made of, sealed with its password (kopia-format.md
 * §2; Kopia `repo/format`).
 *
 * ```
 * kopia.repository   {                                     clear JSON, two-space indentation, final newline
 *                      "tool": …, "buildVersion": …, "buildInfo": …,
 *                      "uniqueID": base64, "keyAlgo": …, "encryption": "AES256_GCM",
 *                      "encryptedBlockFormat": base64 ──┐
 *                    }                                   │
 *                                                        ▼
 * sealed             nonce (12) │ ciphertext │ tag (16)            keys and additional data: keys.ts
 *                                      └─ {"format":{"hash":…,"encryption":…,"secret":…,"masterKey":…,"version":3,
 *                                          "maxPackSize":…,"indexVersion":2,"epochParameters":{"Enabled":true,…},
 *                                          "enablePasswordChange":true,"splitter":…}}
 * kopia.blobcfg      sealed {"retentionMode":…,"retentionPeriod":ns}, or sealed {} without retention
 * ```
 *
 * Bytes are standard base64 with padding, durations are nanoseconds, and the epoch parameters are in PascalCase
 * (a historical slip of Kopia). Go writes fields of Go's order and omits empty ones; so do we. Go reads field names
 * without regard to case; so do we.
 *
 * What this guarantees: a decoded format is one that this build can read and write. Whatever it cannot is refused
 * here, by name: format version 1, repositories without epochs or password change, error correction, a running
 * upgrade, required features from the future. Algorithms are checked where they are used. What it does not: a blob
 * damaged inside its sealed part and a wrong password look the same, as they do to Kopia.
 */

import { createCipheriv, createDecipheriv, randomBytes as cryptoRandomBytes } from "node:crypto";

import { assert } from "../../../common/assert.js";
import { BlockmoverError, messageOf } from "../../../common/errors.js";
import { DEFAULT_ENCRYPTION, isSupportedEncryption, unsupportedEncryption } from "./encryption.js";
import { DEFAULT_HASH, isSupportedHash, unsupportedHash } from "./hashing.js";
import {
  DEFAULT_KEY_ALGO,
  deriveFormatKey,
  deriveFormatSealingKeys,
  isSupportedKeyAlgo,
  type KeyAlgo,
  KEY_BYTES,
  MIN_UNIQUE_ID_BYTES,
  supportedKeyAlgos,
} from "./keys.js";
import { DEFAULT_SPLITTER, isKnownSplitter, knownSplitterNames } from "./splitter.js";

export const FORMAT_BLOB_ID = "kopia.repository";
export const BLOBCFG_BLOB_ID = "kopia.blobcfg";

/** Pack size limits that Kopia checks, and its default. */
export const MIN_PACK_SIZE_BYTES = 10 << 20;
export const MAX_PACK_SIZE_BYTES = 120 << 20;
export const DEFAULT_PACK_SIZE_BYTES = 20 << 20;

/** How the index blobs of a repository are grouped into epochs; see epoch.ts. */
export interface EpochParameters {
  readonly epochRefreshFrequencyMs: number;
  /** Epochs between range compactions. */
  readonly fullCheckpointFrequency: number;
  readonly cleanupSafetyMarginMs: number;
  readonly minEpochDurationMs: number;
  readonly epochAdvanceOnCountThreshold: number;
  readonly epochAdvanceOnTotalSizeBytes: number;
  readonly deleteParallelism: number;
}

/** Something a client must understand to use the repository, or be warned about when `warn` is set. */
export interface RequiredFeature {
  readonly feature: string;
  readonly warn: boolean;
  readonly message: string;
  readonly url: string;
  readonly upgradeToVersion: string;
}

/**
 * A repository's format: everything of `kopia.repository` that matters. Epochs and password change are always on,
 * for nothing else is accepted.
 */
export interface RepositoryFormat {
  /** Salt of all key derivations; never changes. */
  readonly uniqueId: Uint8Array;
  readonly keyAlgo: KeyAlgo;
  readonly hash: string;
  readonly encryption: string;
  /** Key of the content hash. May be empty, which hashing.ts refuses. */
  readonly secret: Uint8Array;
  /** Root of the content keys. */
  readonly masterKey: Uint8Array;
  readonly version: 2 | 3;
  readonly maxPackSizeBytes: number;
  /** Of new index blobs and local indexes. Contents may be compressed only when it is 2. */
  readonly indexVersion: 1 | 2;
  readonly epochParameters: EpochParameters;
  readonly splitter: string;
  /** Those of the repository that we understand, or that only ask for a warning. */
  readonly requiredFeatures: readonly RequiredFeature[];
}

/** A format and the key that the password gave. */
export interface OpenedFormat {
  readonly format: RepositoryFormat;
  readonly formatKey: Buffer;
}

/** An encoded format blob and the key that seals it, for `kopia.blobcfg`. */
export interface EncodedFormat {
  readonly bytes: Buffer;
  readonly formatKey: Buffer;
}

/** What seals `kopia.blobcfg`. */
export interface FormatKeys {
  readonly formatKey: Uint8Array;
  readonly uniqueId: Uint8Array;
}

/** Object lock of a repository. */
export interface BlobRetention {
  /** `GOVERNANCE`, `COMPLIANCE`, or what else the store calls it. */
  readonly mode: string;
  /** At least a day. */
  readonly periodMs: number;
}

/** `kopia.blobcfg`; a repository without that blob has an empty one. */
export interface BlobConfiguration {
  readonly retention?: BlobRetention;
}

/** Choices for a new repository; Kopia's own defaults otherwise. */
export interface NewFormatOptions {
  readonly hash?: string;
  readonly encryption?: string;
  readonly splitter?: string;
  readonly maxPackSizeBytes?: number;
  readonly keyAlgo?: string;
  readonly version?: number;
  /** Source of unique ID, secret and master key; tests only. */
  readonly randomBytes?: (sizeBytes: number) => Uint8Array;
}

const TOOL = "https://github.com/kopia/kopia";
/** Informational, as `tool` is: Kopia shows them and decides nothing by them. */
const BUILD_VERSION = "blockmover";
const FORMAT_ENCRYPTION = "AES256_GCM";

const UNIQUE_ID_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** Kopia wraps the blob with a 32-byte checksum and refuses more than 65000 bytes; a real one has about 1100. */
const MAX_FORMAT_BLOB_BYTES = 65_000 - 32;
const MAX_BLOBCFG_BYTES = 65_000;

const NS_PER_MS = 1_000_000;
const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
/** Go's durations end at 292 years. */
const MAX_DURATION_MS = 292 * 365 * DAY_MS;

const UNDERSTOOD_FEATURES: ReadonlySet<string> = new Set(["index-v1", "index-v2"]);

/** What Kopia gives new repositories. */
export const DEFAULT_EPOCH_PARAMETERS: EpochParameters = {
  epochRefreshFrequencyMs: 20 * MINUTE_MS,
  fullCheckpointFrequency: 7,
  cleanupSafetyMarginMs: 4 * 60 * MINUTE_MS,
  minEpochDurationMs: DAY_MS,
  epochAdvanceOnCountThreshold: 20,
  epochAdvanceOnTotalSizeBytes: 10 << 20,
  deleteParallelism: 4,
};

/**
 * A new repository's format, with fresh keys.
 *
 * @throws BlockmoverError INVALID_ARGUMENT for an impossible choice, UNIMPLEMENTED for an algorithm we do not have
 * @example newRepositoryFormat({ splitter: "FIXED-1M" })
 */
export function newRepositoryFormat(options: NewFormatOptions = {}): RepositoryFormat {
  const hash = options.hash ?? DEFAULT_HASH;
  const encryption = options.encryption ?? DEFAULT_ENCRYPTION;
  const splitter = options.splitter ?? DEFAULT_SPLITTER;
  const keyAlgo = options.keyAlgo ?? DEFAULT_KEY_ALGO;
  const version = options.version ?? 3;
  const maxPackSizeBytes = options.maxPackSizeBytes ?? DEFAULT_PACK_SIZE_BYTES;
  const randomBytes = options.randomBytes ?? cryptoRandomBytes;
  if (!isSupportedHash(hash)) {
    throw unsupportedHash(hash);
  }
  if (!isSupportedEncryption(encryption)) {
    throw unsupportedEncryption(encryption);
  }
  if (!isKnownSplitter(splitter)) {
    throw invalidChoice(`unknown splitter ${JSON.stringify(splitter)}`, knownSplitterNames);
  }
  if (!isSupportedKeyAlgo(keyAlgo)) {
    throw invalidChoice(`unknown key derivation ${JSON.stringify(keyAlgo)}`, supportedKeyAlgos);
  }
  if (version !== 2 && version !== 3) {
    throw invalidChoice(`format version ${version} cannot be created`, ["2", "3"]);
  }
  if (!isValidPackSize(maxPackSizeBytes)) {
    throw new BlockmoverError(
      "INVALID_ARGUMENT",
      `a maximum pack size of ${maxPackSizeBytes} bytes is out of range: expected ${MIN_PACK_SIZE_BYTES} (10 MiB) ` +
        `to ${MAX_PACK_SIZE_BYTES} (120 MiB)`,
    );
  }
  return {
    uniqueId: randomBytes(UNIQUE_ID_BYTES),
    keyAlgo,
    hash,
    encryption,
    secret: randomBytes(KEY_BYTES),
    masterKey: randomBytes(KEY_BYTES),
    version,
    maxPackSizeBytes,
    indexVersion: 2,
    epochParameters: DEFAULT_EPOCH_PARAMETERS,
    splitter,
    requiredFeatures: [],
  };
}

/**
 * The bytes of `kopia.repository`. Encode the same format under another password, and `kopia.blobcfg` with the new
 * key, to change the password.
 *
 * @throws BlockmoverError as {@link decodeFormatBlob} for a format that it would refuse
 */
export async function encodeFormatBlob(format: RepositoryFormat, password: string): Promise<EncodedFormat> {
  const inner = { format: innerJson(format) };
  // What we write must be readable: better a stopped creation than a repository nobody opens.
  const text = JSON.stringify(inner);
  const decoded = readFormat(Fields.parse(FORMAT_BLOB_ID, "format block", Buffer.from(text, "utf8")), format);
  assert(JSON.stringify({ format: innerJson(decoded) }) === text, "a format block reads back as it was written");
  const formatKey = await deriveFormatKey(password, format.uniqueId, format.keyAlgo);
  const sealed = seal(Buffer.from(text, "utf8"), { formatKey, uniqueId: format.uniqueId });
  const outer = {
    tool: TOOL,
    buildVersion: BUILD_VERSION,
    buildInfo: BUILD_VERSION,
    uniqueID: base64(format.uniqueId),
    keyAlgo: format.keyAlgo,
    encryption: FORMAT_ENCRYPTION,
    encryptedBlockFormat: base64(sealed),
  };
  return { bytes: Buffer.from(`${JSON.stringify(outer, undefined, 2)}\n`, "utf8"), formatKey };
}

/**
 * Opens `kopia.repository` with a password.
 *
 * @throws BlockmoverError UNAUTHENTICATED when the password does not open it; DATA_LOSS when the blob is malformed;
 *   UNIMPLEMENTED or FAILED_PRECONDITION, naming the thing, for a repository that this build must not touch
 */
export async function decodeFormatBlob(bytes: Uint8Array, password: string): Promise<OpenedFormat> {
  const { uniqueId, keyAlgo } = parseOuter(bytes);
  const formatKey = await deriveFormatKey(password, uniqueId, keyAlgo);
  return { format: decodeFormatBlobWithKey(bytes, formatKey), formatKey };
}

/**
 * Opens `kopia.repository` with the key that its password gave before: for reading it again in a long run, to notice
 * an upgrade (at least every 15 minutes), without another key derivation.
 *
 * @throws BlockmoverError as {@link decodeFormatBlob}; UNAUTHENTICATED also when the password was changed meanwhile
 */
export function decodeFormatBlobWithKey(bytes: Uint8Array, formatKey: Uint8Array): RepositoryFormat {
  const outer = parseOuter(bytes);
  const plaintext = open(outer.sealed, { formatKey, uniqueId: outer.uniqueId });
  if (plaintext === undefined) {
    throw new BlockmoverError("UNAUTHENTICATED", `${FORMAT_BLOB_ID}: wrong repository password`, {
      hint:
        "Check --password-file or BLOCKMOVER_PASSWORD. The password may have been changed; a damaged blob gives the " +
        "same error.",
    });
  }
  return readFormat(Fields.parse(FORMAT_BLOB_ID, "format block", plaintext), outer);
}

/**
 * The unique ID of a repository, which needs no password.
 *
 * @throws BlockmoverError DATA_LOSS or UNIMPLEMENTED, as {@link decodeFormatBlob}
 */
export function uniqueIdOfFormatBlob(bytes: Uint8Array): Uint8Array {
  return parseOuter(bytes).uniqueId;
}

/**
 * The bytes of `kopia.blobcfg`.
 *
 * @throws BlockmoverError INVALID_ARGUMENT for a retention that Kopia refuses
 */
export function encodeBlobConfiguration(configuration: BlobConfiguration, keys: FormatKeys): Buffer {
  const { retention } = configuration;
  if (retention === undefined) {
    return seal(Buffer.from("{}"), keys);
  }
  const problem = retentionProblem(retention);
  if (problem !== undefined) {
    throw new BlockmoverError("INVALID_ARGUMENT", `blob retention: ${problem}`);
  }
  const json = { retentionMode: retention.mode, retentionPeriod: retention.periodMs * NS_PER_MS };
  return seal(Buffer.from(JSON.stringify(json), "utf8"), keys);
}

/**
 * Opens `kopia.blobcfg` with the key that opened `kopia.repository`.
 *
 * @throws BlockmoverError DATA_LOSS when it is malformed or sealed with another key
 */
export function decodeBlobConfiguration(bytes: Uint8Array, keys: FormatKeys): BlobConfiguration {
  if (bytes.length > MAX_BLOBCFG_BYTES || bytes.length < NONCE_BYTES + TAG_BYTES) {
    throw damaged(BLOBCFG_BLOB_ID, `impossible length of ${bytes.length} bytes`);
  }
  const plaintext = open(bytes, keys);
  if (plaintext === undefined) {
    throw new BlockmoverError("DATA_LOSS", `${BLOBCFG_BLOB_ID}: authentication failed with the repository's key`, {
      hint: `The blob is damaged, or a password change was interrupted before ${FORMAT_BLOB_ID} was written.`,
    });
  }
  const fields = Fields.parse(BLOBCFG_BLOB_ID, "configuration", plaintext);
  const mode = fields.string("retentionMode");
  const periodMs = fields.durationMs("retentionPeriod");
  if (mode === "" && periodMs === 0) {
    return {};
  }
  const problem = retentionProblem({ mode, periodMs });
  if (problem !== undefined) {
    throw damaged(BLOBCFG_BLOB_ID, problem);
  }
  return { retention: { mode, periodMs } };
}

// ---- outer JSON ----

interface OuterFormat {
  readonly uniqueId: Uint8Array;
  readonly keyAlgo: KeyAlgo;
  readonly sealed: Uint8Array;
}

function parseOuter(bytes: Uint8Array): OuterFormat {
  if (bytes.length > MAX_FORMAT_BLOB_BYTES) {
    throw damaged(FORMAT_BLOB_ID, `${bytes.length} bytes are too many, at most ${MAX_FORMAT_BLOB_BYTES} are possible`);
  }
  const fields = Fields.parse(FORMAT_BLOB_ID, "blob", bytes);
  const encryption = fields.string("encryption");
  const keyAlgo = fields.string("keyAlgo");
  const uniqueId = fields.bytes("uniqueID");
  const sealed = fields.bytes("encryptedBlockFormat");
  if (encryption === "" && keyAlgo === "" && uniqueId.length === 0) {
    throw damaged(FORMAT_BLOB_ID, "this is JSON, but no Kopia format blob");
  }
  if (encryption !== FORMAT_ENCRYPTION) {
    throw unsupported(`the format block is encrypted by ${JSON.stringify(encryption)}, not ${FORMAT_ENCRYPTION}`);
  }
  if (!isSupportedKeyAlgo(keyAlgo)) {
    throw unsupported(
      `the key is derived by ${JSON.stringify(keyAlgo)}; supported are ${supportedKeyAlgos.join(" and ")}`,
    );
  }
  if (uniqueId.length < MIN_UNIQUE_ID_BYTES) {
    throw damaged(
      FORMAT_BLOB_ID,
      `"uniqueID" has ${uniqueId.length} bytes, at least ${MIN_UNIQUE_ID_BYTES} are needed`,
    );
  }
  if (sealed.length < NONCE_BYTES + TAG_BYTES) {
    throw damaged(FORMAT_BLOB_ID, `"encryptedBlockFormat" has ${sealed.length} bytes, too few to be sealed`);
  }
  return { uniqueId, keyAlgo, sealed };
}

// ---- inner JSON ----

function innerJson(format: RepositoryFormat): object {
  const epochs = format.epochParameters;
  // Fields in the order of Kopia's structs; undefined ones are left out, as Go's omitempty does.
  return {
    hash: format.hash,
    encryption: format.encryption,
    secret: format.secret.length === 0 ? undefined : base64(format.secret),
    masterKey: base64(format.masterKey),
    version: format.version,
    maxPackSize: format.maxPackSizeBytes,
    indexVersion: format.indexVersion,
    epochParameters: {
      Enabled: true,
      EpochRefreshFrequency: epochs.epochRefreshFrequencyMs * NS_PER_MS,
      FullCheckpointFrequency: epochs.fullCheckpointFrequency,
      CleanupSafetyMargin: epochs.cleanupSafetyMarginMs * NS_PER_MS,
      MinEpochDuration: epochs.minEpochDurationMs * NS_PER_MS,
      EpochAdvanceOnCountThreshold: epochs.epochAdvanceOnCountThreshold,
      EpochAdvanceOnTotalSizeBytesThreshold: epochs.epochAdvanceOnTotalSizeBytes,
      DeleteParallelism: epochs.deleteParallelism,
    },
    enablePasswordChange: true,
    splitter: format.splitter,
    requiredFeatures:
      format.requiredFeatures.length === 0 ? undefined : format.requiredFeatures.map(requiredFeatureJson),
  };
}

function requiredFeatureJson(required: RequiredFeature): object {
  return {
    feature: required.feature,
    ifNotUnderstood: {
      warn: required.warn,
      message: required.message === "" ? undefined : required.message,
      url: required.url === "" ? undefined : required.url,
      upgradeToVersion: required.upgradeToVersion === "" ? undefined : required.upgradeToVersion,
    },
  };
}

function readFormat(root: Fields, outer: Pick<OuterFormat, "uniqueId" | "keyAlgo">): RepositoryFormat {
  const fields = root.object("format");
  if (fields === undefined) {
    throw damaged(FORMAT_BLOB_ID, `"format" is missing in the format block`);
  }
  // First what forbids to go on, so that a newer format is named as such and not as damage.
  refuseUpgrade(fields);
  const requiredFeatures = readRequiredFeatures(fields);
  const version = fields.integer("version");
  if (version === 1) {
    throw unsupported("format version 1 (Kopia 0.8 and older)", `Upgrade it with "kopia repository upgrade".`);
  }
  if (version !== 2 && version !== 3) {
    throw unsupported(`format version ${version}; supported are 2 and 3`);
  }
  if (fields.string("ecc") !== "" || fields.integer("eccOverheadPercent") !== 0) {
    throw unsupported(`error correction (ECC ${JSON.stringify(fields.string("ecc"))})`);
  }
  if (!fields.boolean("enablePasswordChange")) {
    throw unsupported("a repository without password change (enablePasswordChange is false)");
  }
  const indexVersion = fields.integer("indexVersion") || 1;
  if (indexVersion !== 1 && indexVersion !== 2) {
    throw unsupported(`index version ${indexVersion}; supported are 1 and 2`);
  }
  const maxPackSizeBytes = fields.integer("maxPackSize") || DEFAULT_PACK_SIZE_BYTES;
  if (!isValidPackSize(maxPackSizeBytes)) {
    throw damaged(FORMAT_BLOB_ID, `"maxPackSize" is ${maxPackSizeBytes}, out of range`);
  }
  const masterKey = fields.bytes("masterKey");
  if (masterKey.length === 0) {
    throw damaged(FORMAT_BLOB_ID, `"masterKey" is missing in the format block`);
  }
  const hash = fields.string("hash");
  const encryption = fields.string("encryption");
  if (hash === "" || encryption === "") {
    throw damaged(FORMAT_BLOB_ID, `"hash" or "encryption" is missing in the format block`);
  }
  return {
    uniqueId: outer.uniqueId,
    keyAlgo: outer.keyAlgo,
    hash,
    encryption,
    secret: fields.bytes("secret"),
    masterKey,
    version,
    maxPackSizeBytes,
    indexVersion,
    epochParameters: readEpochParameters(fields),
    splitter: fields.string("splitter") || DEFAULT_SPLITTER,
    requiredFeatures,
  };
}

function refuseUpgrade(fields: Fields): void {
  const lock = fields.object("upgradeLock");
  if (lock === undefined) {
    return;
  }
  const owner = lock.string("ownerID");
  const message = lock.string("message");
  throw new BlockmoverError(
    "FAILED_PRECONDITION",
    `${FORMAT_BLOB_ID}: the repository is locked for an upgrade (upgradeLock) by ${JSON.stringify(owner)}` +
      (message === "" ? "" : `: ${message}`),
    { hint: `Wait for the upgrade to end, or undo it with "kopia repository upgrade rollback".` },
  );
}

function readRequiredFeatures(fields: Fields): RequiredFeature[] {
  const features = fields.objects("requiredFeatures").map((item): RequiredFeature => {
    const otherwise = item.object("ifNotUnderstood");
    return {
      feature: item.string("feature"),
      warn: otherwise?.boolean("warn") ?? false,
      message: otherwise?.string("message") ?? "",
      url: otherwise?.string("url") ?? "",
      upgradeToVersion: otherwise?.string("upgradeToVersion") ?? "",
    };
  });
  for (const required of features) {
    if (!required.warn && !UNDERSTOOD_FEATURES.has(required.feature)) {
      const details = [required.message, required.url].filter((text) => text !== "").join(" ");
      throw unsupported(
        `the feature ${JSON.stringify(required.feature)} that the repository requires` +
          (details === "" ? "" : `: ${details}`),
      );
    }
  }
  return features;
}

function readEpochParameters(fields: Fields): EpochParameters {
  const epochs = fields.object("epochParameters");
  if (epochs === undefined || !epochs.boolean("Enabled")) {
    throw unsupported(
      "a repository without epochs (epochParameters.Enabled is false)",
      `Upgrade it with "kopia repository upgrade".`,
    );
  }
  const parameters: EpochParameters = {
    epochRefreshFrequencyMs: epochs.durationMs("EpochRefreshFrequency"),
    fullCheckpointFrequency: epochs.integer("FullCheckpointFrequency"),
    cleanupSafetyMarginMs: epochs.durationMs("CleanupSafetyMargin"),
    minEpochDurationMs: epochs.durationMs("MinEpochDuration"),
    epochAdvanceOnCountThreshold: epochs.integer("EpochAdvanceOnCountThreshold"),
    epochAdvanceOnTotalSizeBytes: epochs.integer("EpochAdvanceOnTotalSizeBytesThreshold"),
    deleteParallelism: epochs.integer("DeleteParallelism"),
  };
  // Kopia checks these when it writes them. We check them when reading: the safety of writing rests on them (§7.5).
  const sane =
    parameters.minEpochDurationMs >= 10 * MINUTE_MS &&
    3 * parameters.epochRefreshFrequencyMs <= parameters.minEpochDurationMs &&
    parameters.fullCheckpointFrequency >= 1 &&
    parameters.cleanupSafetyMarginMs >= 3 * parameters.epochRefreshFrequencyMs &&
    parameters.epochAdvanceOnCountThreshold >= 10 &&
    parameters.epochAdvanceOnTotalSizeBytes >= 1 << 20;
  if (!sane) {
    throw damaged(FORMAT_BLOB_ID, `epoch parameters out of range: ${JSON.stringify(parameters)}`);
  }
  return parameters;
}

function isValidPackSize(sizeBytes: number): boolean {
  return Number.isInteger(sizeBytes) && sizeBytes >= MIN_PACK_SIZE_BYTES && sizeBytes <= MAX_PACK_SIZE_BYTES;
}

function retentionProblem({ mode, periodMs }: BlobRetention): string | undefined {
  if ((mode === "") !== (periodMs === 0)) {
    return "retention mode and period must both be set";
  }
  if (!Number.isSafeInteger(periodMs) || periodMs > MAX_DURATION_MS) {
    return `impossible retention period of ${periodMs} ms`;
  }
  return periodMs < DAY_MS ? `a retention period of ${periodMs} ms is too short, the minimum is one day` : undefined;
}

// ---- sealing ----

function seal(plaintext: Uint8Array, { formatKey, uniqueId }: FormatKeys): Buffer {
  const { aesKey, aad } = deriveFormatSealingKeys(formatKey, uniqueId);
  const nonce = cryptoRandomBytes(NONCE_BYTES);
  const cipher = createCipheriv("aes-256-gcm", aesKey, nonce, { authTagLength: TAG_BYTES });
  cipher.setAAD(aad);
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

/** The plaintext, or undefined when the tag is wrong. `sealed` has at least nonce and tag. */
function open(sealed: Uint8Array, { formatKey, uniqueId }: FormatKeys): Buffer | undefined {
  assert(sealed.length >= NONCE_BYTES + TAG_BYTES, "sealed bytes have a nonce and a tag");
  const { aesKey, aad } = deriveFormatSealingKeys(formatKey, uniqueId);
  const tagStart = sealed.length - TAG_BYTES;
  const options = { authTagLength: TAG_BYTES };
  const decipher = createDecipheriv("aes-256-gcm", aesKey, sealed.subarray(0, NONCE_BYTES), options);
  decipher.setAAD(aad);
  decipher.setAuthTag(sealed.subarray(tagStart));
  const plaintext = decipher.update(sealed.subarray(NONCE_BYTES, tagStart));
  try {
    decipher.final();
  } catch {
    // The only way for GCM to fail here is the tag; the caller knows what that means for its blob.
    return undefined;
  }
  return plaintext;
}

// ---- JSON as Go reads it ----

/**
 * The fields of a JSON object, read as Go's encoding/json does: names in any case, null and missing are the zero
 * value, anything of another type is damage.
 */
class Fields {
  readonly #blobId: string;
  readonly #path: string;
  readonly #values = new Map<string, unknown>();

  constructor(blobId: string, path: string, value: unknown) {
    this.#blobId = blobId;
    this.#path = path;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw damaged(blobId, `${path} is not a JSON object`);
    }
    for (const [name, field] of Object.entries(value)) {
      // null leaves a Go field as it is.
      if (field !== null) {
        this.#values.set(name.toLowerCase(), field);
      }
    }
  }

  static parse(blobId: string, path: string, bytes: Uint8Array): Fields {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      // The cause is left out for the sealed part: V8 quotes the text in it, and that text has keys.
      const cause = path === "blob" ? error : undefined;
      throw new BlockmoverError("DATA_LOSS", `${blobId}: ${path} is not JSON`, {
        cause: cause === undefined ? undefined : messageOf(cause),
      });
    }
    return new Fields(blobId, path, value);
  }

  string(name: string): string {
    return this.#get(name, "a string", (value) => (typeof value === "string" ? value : undefined)) ?? "";
  }

  boolean(name: string): boolean {
    return this.#get(name, "a boolean", (value) => (typeof value === "boolean" ? value : undefined)) ?? false;
  }

  integer(name: string): number {
    return (
      this.#get(name, "an integer", (value) =>
        typeof value === "number" && Number.isSafeInteger(value) ? value : undefined,
      ) ?? 0
    );
  }

  /** Nanoseconds in JSON. Fractions of a millisecond are rounded away; nobody sets such. */
  durationMs(name: string): number {
    const isDuration = (value: number): boolean =>
      Number.isInteger(value) && value >= 0 && value <= MAX_DURATION_MS * NS_PER_MS;
    return (
      this.#get(name, "a duration in nanoseconds", (value) =>
        typeof value === "number" && isDuration(value) ? Math.round(value / NS_PER_MS) : undefined,
      ) ?? 0
    );
  }

  bytes(name: string): Buffer {
    return (
      this.#get(name, "base64", (value) => (typeof value === "string" ? bytesOfBase64(value) : undefined)) ??
      Buffer.alloc(0)
    );
  }

  object(name: string): Fields | undefined {
    const value = this.#values.get(name.toLowerCase());
    return value === undefined ? undefined : new Fields(this.#blobId, `"${name}"`, value);
  }

  objects(name: string): Fields[] {
    const list = this.#get(name, "a list", (value) => (Array.isArray(value) ? (value as unknown[]) : undefined)) ?? [];
    return list.map((item, position) => new Fields(this.#blobId, `"${name}"[${position}]`, item));
  }

  /** Undefined when absent; damage when `read` gives undefined. The value stays out of the text: it may be a key. */
  #get<T>(name: string, expected: string, read: (value: unknown) => T | undefined): T | undefined {
    const value = this.#values.get(name.toLowerCase());
    if (value === undefined) {
      return undefined;
    }
    const result = read(value);
    if (result === undefined) {
      throw damaged(this.#blobId, `"${name}" in ${this.#path} is not ${expected}`);
    }
    return result;
  }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}

/** Standard base64 with padding, undefined for anything else; Node alone would skip what it does not know. */
function bytesOfBase64(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, "base64");
  return bytes.toString("base64") === text ? bytes : undefined;
}

// ---- errors ----

function damaged(blobId: string, problem: string): BlockmoverError {
  return new BlockmoverError("DATA_LOSS", `${blobId}: ${problem}`, {
    hint: "The blob is damaged or was not written by Kopia.",
  });
}

function unsupported(thing: string, hint?: string): BlockmoverError {
  return new BlockmoverError("UNIMPLEMENTED", `${FORMAT_BLOB_ID}: not supported: ${thing}`, {
    hint: hint ?? "Use a repository without it, or a newer blockmover.",
  });
}

function invalidChoice(problem: string, choices: readonly string[]): BlockmoverError {
  return new BlockmoverError("INVALID_ARGUMENT", problem, { hint: `Choose one of ${choices.join(", ")}.` });
}
