import { createCipheriv, randomBytes } from "node:crypto";

import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError, type ErrorCode } from "../../../../../services/common/errors.js";
import {
  type BlobConfiguration,
  decodeBlobConfiguration,
  decodeFormatBlob,
  decodeFormatBlobWithKey,
  encodeBlobConfiguration,
  encodeFormatBlob,
  type FormatKeys,
  type NewFormatOptions,
  newRepositoryFormat,
  type RepositoryFormat,
  uniqueIdOfFormatBlob,
} from "../../../../../services/datapath/repository/kopia/format-blob.js";
import { deriveFormatKey, deriveFormatSealingKeys } from "../../../../../services/datapath/repository/kopia/keys.js";
import { testSeed } from "../../../../support/random-data.js";

const seed = testSeed();
const PASSWORD = "pässwörd ☃";
const UNIQUE_ID = Buffer.alloc(32, 0xa5);
const DAY_NS = 86_400_000_000_000;

/** The inner JSON of a repository made by Kopia with its defaults (kopia-format.md, Appendix B), keys replaced. */
const KOPIA_INNER =
  `{"format":{"hash":"BLAKE2B-256-128","encryption":"AES256-GCM-HMAC-SHA256",` +
  `"secret":"${"AQEB".repeat(10)}AQE=","masterKey":"${"AgIC".repeat(10)}AgI=","version":3,"maxPackSize":20971520,` +
  `"indexVersion":2,"epochParameters":{"Enabled":true,"EpochRefreshFrequency":1200000000000,` +
  `"FullCheckpointFrequency":7,"CleanupSafetyMargin":14400000000000,"MinEpochDuration":86400000000000,` +
  `"EpochAdvanceOnCountThreshold":20,"EpochAdvanceOnTotalSizeBytesThreshold":10485760,"DeleteParallelism":4},` +
  `"enablePasswordChange":true,"splitter":"DYNAMIC-4M-BUZHASH"}}`;

/** What that JSON says. */
const KOPIA_FORMAT: RepositoryFormat = {
  uniqueId: UNIQUE_ID,
  keyAlgo: "scrypt-65536-8-1",
  hash: "BLAKE2B-256-128",
  encryption: "AES256-GCM-HMAC-SHA256",
  secret: Buffer.alloc(32, 1),
  masterKey: Buffer.alloc(32, 2),
  version: 3,
  maxPackSizeBytes: 20_971_520,
  indexVersion: 2,
  epochParameters: {
    epochRefreshFrequencyMs: 1_200_000,
    fullCheckpointFrequency: 7,
    cleanupSafetyMarginMs: 14_400_000,
    minEpochDurationMs: 86_400_000,
    epochAdvanceOnCountThreshold: 20,
    epochAdvanceOnTotalSizeBytes: 10_485_760,
    deleteParallelism: 4,
  },
  splitter: "DYNAMIC-4M-BUZHASH",
  requiredFeatures: [],
};

/** `kopia.repository` as Kopia 0.23.1 made it with `--password=testpw` and its defaults; the sealed part in pieces. */
const GOLDEN_SEALED = [
  "04Xv7yu0eYjzu9UUzdktcuoxaFHWawHqa8NkGw6W1oVHPHMNwLdnmsMfHs+Fi2JJLQEiF4jGjEGyJzeMIw3fXaxRo4eosGJhEvji",
  "whi4ipqkMbbIr3o/ZOp/HWQTk9JPl9dloh8GHkv5kA1SmBi2MsMTQJ0rwdim6S7pGQoktZZW+mlTjOe1DXqQUNYYbWvftAefYRHt",
  "2+OEzHhifD81V3utGL/taGkqgmDUpNlkzcJh7tMw4YiUjKbrZorX/6qqpxZwe5olXVPq49tXHB4R48XHJaa57xMhOIUsN+Q/JBqn",
  "QU7cmyFNSJyUpiRrP9QpemKYP3MoC7ioPBU6MWYcF3ZQE14JaxnOojs3gCeCiTMpRhQM3KOf6RPaeiO5LZ4IEx9ahHSAT/TDflj8",
  "1MmqOmVG7K9zzfVpO/kLgksi07PHul3SXOEQ9y+ptCvfiW+ITLFpwdQE6fDWybi6y5VvjW4p0ZBtOmV0jn8r+K3HKnjR+LSVQSm4",
  "VKP0FOqBKp4vPoMinZxx9o+Olb+Mshpxu/UmNw35kQLGUv4dHuFXHjEho3sRFwUHT4ikp3BOgqSRC0zGI5hpyoYJV7WZ7ZKA2NQg",
  "g2Od0vr0KiLwAq7aiCaXzCy+LI4Na7usKSRVro6zrKTk9IOLsB6bBQZLbvxZpLpVHg5c55KBHsiw8tI9hQ++6X9hGUJ/VD6mZzz8",
  "9gqOwJTAOSYMuZqp2Uai9ghVyecXQpOfiiIpVrVlFNdjrrlrpjvOaJ8lHNorvpPZlEBFfteL5saPENYfLeE3Kg7TdpUul1XJ4LaA",
  "fY6+38WLSw==",
].join("");
const GOLDEN = `{
  "tool": "https://github.com/kopia/kopia",
  "buildVersion": "v0.23.1",
  "buildInfo": "-(unknown_revision)",
  "uniqueID": "U0ZFQLhvyCI/jB6P2vvXPOTtQpSdNqDZybs3ZLuajGU=",
  "keyAlgo": "scrypt-65536-8-1",
  "encryption": "AES256_GCM",
  "encryptedBlockFormat": "${GOLDEN_SEALED}"
}
`;
/** The `kopia.blobcfg` beside it. */
const GOLDEN_BLOBCFG = "avYkRaER1V6s6iyq+l7fch5V0LfskDNE0M/GuKnI";

/** Any 32 bytes will do where no password is involved: derivation is slow and has its own tests. */
const keys: FormatKeys = { formatKey: Buffer.alloc(32, 0x17), uniqueId: UNIQUE_ID };

/** Sealing as kopia-format.md §2.3 tells it, independent of the code under test. */
function seal(plaintext: Uint8Array | string): Buffer {
  const { aesKey, aad } = deriveFormatSealingKeys(keys.formatKey, keys.uniqueId);
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", aesKey, nonce).setAAD(aad);
  return Buffer.concat([nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

/** A format blob with this inner text, sealed with `keys`. */
function blobOf(inner: Uint8Array | string, outer: Record<string, unknown> = {}): Buffer {
  return Buffer.from(
    JSON.stringify({
      tool: "https://github.com/kopia/kopia",
      uniqueID: UNIQUE_ID.toString("base64"),
      keyAlgo: "scrypt-65536-8-1",
      encryption: "AES256_GCM",
      encryptedBlockFormat: seal(inner).toString("base64"),
      ...outer,
    }),
  );
}

/** The inner JSON of a default repository with some fields of `format` changed. */
function innerWith(changes: Record<string, unknown>): string {
  const inner = JSON.parse(KOPIA_INNER) as { format: Record<string, unknown> };
  return JSON.stringify({ format: { ...inner.format, ...changes } });
}

function decodeInner(inner: Uint8Array | string): RepositoryFormat {
  return decodeFormatBlobWithKey(blobOf(inner), keys.formatKey);
}

function epochsWith(changes: Record<string, unknown>): Record<string, unknown> {
  const inner = JSON.parse(KOPIA_INNER) as { format: { epochParameters: Record<string, unknown> } };
  return { epochParameters: { ...inner.format.epochParameters, ...changes } };
}

describe("newRepositoryFormat", () => {
  it("makes Kopia's default repository, with fresh keys", () => {
    const format = newRepositoryFormat();
    expect(format).to.deep.equal({
      ...KOPIA_FORMAT,
      uniqueId: format.uniqueId,
      secret: format.secret,
      masterKey: format.masterKey,
    });
    const other = newRepositoryFormat();
    const secrets = [format, other].flatMap(({ uniqueId, secret, masterKey }) => [uniqueId, secret, masterKey]);
    expect(secrets.every(({ length }) => length === 32)).to.be.true;
    expect(new Set(secrets.map((bytes) => Buffer.from(bytes).toString("hex")))).to.have.property("size", 6);
  });

  it("takes other algorithms, pack sizes and the older version", () => {
    const options = {
      hash: "HMAC-SHA3-256",
      encryption: "CHACHA20-POLY1305-HMAC-SHA256",
      splitter: "FIXED-1M",
      maxPackSizeBytes: 120 << 20,
      keyAlgo: "pbkdf2-sha256-600000",
      version: 2,
    };
    expect(newRepositoryFormat(options)).to.include(options);
  });

  const refused: readonly (readonly [NewFormatOptions, ErrorCode, string])[] = [
    [{ hash: "BLAKE3-256" }, "UNIMPLEMENTED", "BLAKE3-256"],
    [{ hash: "MD5" }, "UNIMPLEMENTED", "MD5"],
    [{ encryption: "AES256_GCM" }, "UNIMPLEMENTED", "AES256_GCM"],
    [{ splitter: "FIXED-16M" }, "INVALID_ARGUMENT", "FIXED-16M"],
    [{ keyAlgo: "testing-only-insecure" }, "INVALID_ARGUMENT", "testing-only-insecure"],
    [{ version: 1 }, "INVALID_ARGUMENT", "version 1"],
    [{ version: 4 }, "INVALID_ARGUMENT", "version 4"],
    [{ maxPackSizeBytes: (10 << 20) - 1 }, "INVALID_ARGUMENT", "10485759"],
    [{ maxPackSizeBytes: (120 << 20) + 1 }, "INVALID_ARGUMENT", "125829121"],
    [{ maxPackSizeBytes: NaN }, "INVALID_ARGUMENT", "NaN"],
  ];
  for (const [options, code, text] of refused) {
    it(`refuses ${JSON.stringify(options)}`, () => {
      expect(() => newRepositoryFormat(options))
        .to.throw(BlockmoverError, text)
        .with.property("code", code);
    });
  }
});

describe("kopia.repository", () => {
  it("is written with Kopia's fields in Kopia's order and form", async () => {
    const { bytes, formatKey } = await encodeFormatBlob(KOPIA_FORMAT, PASSWORD);
    const text = bytes.toString("utf8");
    const outer = JSON.parse(text) as Record<string, string>;
    expect(text).to.equal(`${JSON.stringify(outer, undefined, 2)}\n`);
    expect(Object.keys(outer)).to.deep.equal([
      "tool",
      "buildVersion",
      "buildInfo",
      "uniqueID",
      "keyAlgo",
      "encryption",
      "encryptedBlockFormat",
    ]);
    expect(outer).to.include({
      tool: "https://github.com/kopia/kopia",
      uniqueID: UNIQUE_ID.toString("base64"),
      keyAlgo: "scrypt-65536-8-1",
      encryption: "AES256_GCM",
    });
    // Nonce and tag around exactly the text that Kopia would have sealed.
    expect(Buffer.from(outer["encryptedBlockFormat"]!, "base64")).to.have.length(28 + KOPIA_INNER.length);
    expect(formatKey).to.deep.equal(await deriveFormatKey(PASSWORD, UNIQUE_ID, "scrypt-65536-8-1"));
  });

  it("has an inner JSON equal to Kopia's byte for byte", async () => {
    const { bytes, formatKey } = await encodeFormatBlob(KOPIA_FORMAT, PASSWORD);
    const outer = JSON.parse(bytes.toString("utf8")) as Record<string, string>;
    expect(openSealed(Buffer.from(outer["encryptedBlockFormat"]!, "base64"), formatKey)).to.equal(KOPIA_INNER);
  });

  for (const keyAlgo of ["scrypt-65536-8-1", "pbkdf2-sha256-600000"]) {
    it(`opens with the password that sealed it (${keyAlgo})`, async () => {
      const format = newRepositoryFormat({ keyAlgo, splitter: "FIXED-1M", version: 2 });
      const { bytes, formatKey } = await encodeFormatBlob(format, PASSWORD);
      expect(await decodeFormatBlob(bytes, PASSWORD)).to.deep.equal({ format, formatKey });
      expect(decodeFormatBlobWithKey(bytes, formatKey)).to.deep.equal(format);
    });
  }

  it("that Kopia made opens, and its blobcfg too", async () => {
    const { format, formatKey } = await decodeFormatBlob(utf8(GOLDEN), "testpw");
    const { uniqueId, secret, masterKey } = format;
    expect(format).to.deep.equal({ ...KOPIA_FORMAT, uniqueId, secret, masterKey });
    expect([secret.length, masterKey.length]).to.deep.equal([32, 32]);
    const blobcfg = Buffer.from(GOLDEN_BLOBCFG, "base64");
    expect(decodeBlobConfiguration(blobcfg, { formatKey, uniqueId })).to.deep.equal({});
  });

  it("that Kopia made is written again with the same length and form", async () => {
    const { format } = await decodeFormatBlob(utf8(GOLDEN), "testpw");
    const { bytes } = await encodeFormatBlob(format, "testpw");
    const variable = /"(buildVersion|buildInfo|encryptedBlockFormat)": "[^"]*"/g;
    expect(bytes.toString("utf8").replace(variable, "$1")).to.equal(GOLDEN.replace(variable, "$1"));
    const ours = JSON.parse(bytes.toString("utf8")) as Record<string, string>;
    expect(ours["encryptedBlockFormat"]).to.have.length(GOLDEN_SEALED.length);
  });

  it("tells a wrong password from a damaged blob, and says where passwords come from", async () => {
    const { bytes } = await encodeFormatBlob(KOPIA_FORMAT, PASSWORD);
    const wrong = await rejection(decodeFormatBlob(bytes, `${PASSWORD}\n`));
    expect(wrong).to.be.instanceOf(BlockmoverError).with.property("code", "UNAUTHENTICATED");
    expect(wrong).to.have.property("hint").that.includes("--password-file").and.includes("BLOCKMOVER_PASSWORD");
    const damaged = await rejection(decodeFormatBlob(bytes.subarray(0, bytes.length - 5), PASSWORD));
    expect(damaged).to.be.instanceOf(BlockmoverError).with.property("code", "DATA_LOSS");
    expect(damaged).to.have.property("message").that.includes("kopia.repository");
  });

  it("tells its unique ID without a password", () => {
    expect(uniqueIdOfFormatBlob(blobOf(KOPIA_INNER))).to.deep.equal(UNIQUE_ID);
  });

  it("reads Kopia's inner JSON", () => {
    expect(decodeInner(KOPIA_INNER)).to.deep.equal(KOPIA_FORMAT);
  });

  it("matches field names in any case, as Go does", () => {
    const shouted = KOPIA_INNER.replace(/"(\w+)":/g, (_, name: string) => `"${name.toUpperCase()}":`);
    expect(decodeInner(shouted)).to.deep.equal(KOPIA_FORMAT);
    const blob = blobOf(KOPIA_INNER).toString("utf8");
    const outer = blob.replace('"uniqueID"', '"UNIQUEid"').replace('"encryption"', '"Encryption"');
    expect(decodeFormatBlobWithKey(Buffer.from(outer), keys.formatKey)).to.deep.equal(KOPIA_FORMAT);
  });

  it("takes null for absent, and absent for Kopia's zero value", () => {
    const inner = innerWith({
      secret: null,
      maxPackSize: null,
      indexVersion: undefined,
      splitter: "",
      upgradeLock: null,
    });
    expect(decodeInner(inner)).to.deep.equal({ ...KOPIA_FORMAT, secret: Buffer.alloc(0), indexVersion: 1 });
  });

  it("keeps required features that it understands or is only to warn of, and writes them again", async () => {
    const requiredFeatures = [
      { feature: "index-v2", ifNotUnderstood: { warn: false } },
      {
        feature: "flying",
        ifNotUnderstood: { warn: true, message: "no wings", url: "https://w", upgradeToVersion: "9" },
      },
    ];
    const inner = innerWith({ requiredFeatures });
    const format = decodeInner(inner);
    expect(format.requiredFeatures).to.deep.equal([
      { feature: "index-v2", warn: false, message: "", url: "", upgradeToVersion: "" },
      { feature: "flying", warn: true, message: "no wings", url: "https://w", upgradeToVersion: "9" },
    ]);
    const { bytes, formatKey } = await encodeFormatBlob(format, PASSWORD);
    const outer = JSON.parse(bytes.toString("utf8")) as Record<string, string>;
    expect(openSealed(Buffer.from(outer["encryptedBlockFormat"]!, "base64"), formatKey)).to.equal(inner);
  });

  it("keeps durations exact that have more nanoseconds than a number has digits", async () => {
    const MinEpochDuration = 40_000 * DAY_NS;
    const format = decodeInner(innerWith(epochsWith({ MinEpochDuration })));
    expect(format.epochParameters.minEpochDurationMs).to.equal(40_000 * 86_400_000);
    const { bytes, formatKey } = await encodeFormatBlob(format, PASSWORD);
    const outer = JSON.parse(bytes.toString("utf8")) as Record<string, string>;
    expect(openSealed(Buffer.from(outer["encryptedBlockFormat"]!, "base64"), formatKey)).to.include(
      '"MinEpochDuration":3456000000000000000,',
    );
  });

  it("is not written from a format that could not be read again", async () => {
    const broken = await rejection(encodeFormatBlob({ ...KOPIA_FORMAT, maxPackSizeBytes: 5 }, PASSWORD));
    expect(broken).to.be.instanceOf(BlockmoverError);
    const lossy = { ...KOPIA_FORMAT, splitter: "" };
    expect(await rejection(encodeFormatBlob(lossy, PASSWORD)))
      .to.be.instanceOf(BlockmoverError)
      .with.property("code", "INTERNAL");
  });

  const forbidden: readonly (readonly [string, Record<string, unknown>, ErrorCode, string])[] = [
    ["format version 1", { version: 1, enablePasswordChange: false }, "UNIMPLEMENTED", "version 1"],
    ["a future format version", { version: 4 }, "UNIMPLEMENTED", "version 4"],
    ["no format version", { version: undefined }, "UNIMPLEMENTED", "version 0"],
    ["a future index version", { indexVersion: 3 }, "UNIMPLEMENTED", "index version 3"],
    ["no password change", { enablePasswordChange: false }, "UNIMPLEMENTED", "enablePasswordChange"],
    ["no epochs", epochsWith({ Enabled: false }), "UNIMPLEMENTED", "epochParameters.Enabled"],
    ["no epoch parameters", { epochParameters: undefined }, "UNIMPLEMENTED", "epochParameters.Enabled"],
    ["error correction", { ecc: "REED-SOLOMON-CRC32", eccOverheadPercent: 2 }, "UNIMPLEMENTED", "REED-SOLOMON-CRC32"],
    [
      "an upgrade under way",
      { upgradeLock: { ownerID: "me@there", message: "soon" } },
      "FAILED_PRECONDITION",
      "me@there",
    ],
    ["an upgrade with nothing set", { upgradeLock: {} }, "FAILED_PRECONDITION", "upgradeLock"],
    [
      "a required feature it does not know",
      { requiredFeatures: [{ feature: "flying", ifNotUnderstood: { warn: false, message: "no wings" } }] },
      "UNIMPLEMENTED",
      '"flying" that the repository requires: no wings',
    ],
    [
      "a required feature without further words, before anything else",
      { requiredFeatures: [{ feature: "flying" }], version: 99 },
      "UNIMPLEMENTED",
      "flying",
    ],
    ["an impossible pack size", { maxPackSize: 1 }, "DATA_LOSS", "maxPackSize"],
    ["no master key", { masterKey: undefined }, "DATA_LOSS", "masterKey"],
    ["no hash", { hash: "" }, "DATA_LOSS", "hash"],
    ["a number for a string", { hash: 5 }, "DATA_LOSS", '"hash"'],
    ["a fraction for an integer", { version: 2.5 }, "DATA_LOSS", '"version"'],
    ["a key that is not base64", { secret: "AQEB!" }, "DATA_LOSS", '"secret"'],
    ["a key in base64 without padding", { secret: "AQ" }, "DATA_LOSS", '"secret"'],
    ["a list for an object", { epochParameters: [] }, "DATA_LOSS", '"epochParameters"'],
    ["features that are no list", { requiredFeatures: {} }, "DATA_LOSS", '"requiredFeatures"'],
    ["an epoch too short", epochsWith({ MinEpochDuration: 599_999_000_000 }), "DATA_LOSS", "epoch parameters"],
    ["a refresh too rare", epochsWith({ EpochRefreshFrequency: DAY_NS / 2 }), "DATA_LOSS", "epoch parameters"],
    ["a margin too small", epochsWith({ CleanupSafetyMargin: 1 }), "DATA_LOSS", "epoch parameters"],
    ["no checkpoints", epochsWith({ FullCheckpointFrequency: 0 }), "DATA_LOSS", "epoch parameters"],
    ["a count too small", epochsWith({ EpochAdvanceOnCountThreshold: 9 }), "DATA_LOSS", "epoch parameters"],
    ["a size too small", epochsWith({ EpochAdvanceOnTotalSizeBytesThreshold: 1 }), "DATA_LOSS", "epoch parameters"],
    ["a negative duration", epochsWith({ CleanupSafetyMargin: -1 }), "DATA_LOSS", "CleanupSafetyMargin"],
    ["a duration past Go's", epochsWith({ CleanupSafetyMargin: 1e19 }), "DATA_LOSS", "CleanupSafetyMargin"],
  ];
  for (const [what, changes, code, text] of forbidden) {
    it(`refuses ${what}`, () => {
      expect(() => decodeInner(innerWith(changes)))
        .to.throw(BlockmoverError, text)
        .with.property("code", code);
    });
  }

  for (const inner of ["", "{", "null", "[]", "{}", '{"format":null}', '{"format":7}']) {
    it(`refuses a sealed ${JSON.stringify(inner)}`, () => {
      expect(() => decodeInner(inner))
        .to.throw(BlockmoverError, "kopia.repository")
        .with.property("code", "DATA_LOSS");
    });
  }

  const outers: readonly (readonly [string, Record<string, unknown>, ErrorCode, string])[] = [
    ["another encryption of the block", { encryption: "NONE" }, "UNIMPLEMENTED", "NONE"],
    ["another key derivation", { keyAlgo: "argon2" }, "UNIMPLEMENTED", "argon2"],
    ["a short unique ID", { uniqueID: "AQEB" }, "DATA_LOSS", "uniqueID"],
    ["no block", { encryptedBlockFormat: undefined }, "DATA_LOSS", "encryptedBlockFormat"],
    ["a block too short to be sealed", { encryptedBlockFormat: "AQEB" }, "DATA_LOSS", "encryptedBlockFormat"],
    ["a tool that is a number", { uniqueID: 5 }, "DATA_LOSS", "uniqueID"],
    ["more bytes than Kopia takes", { tool: "t".repeat(65_000) }, "DATA_LOSS", "too many"],
  ];
  for (const [what, changes, code, text] of outers) {
    it(`refuses ${what}`, () => {
      expect(() => decodeFormatBlobWithKey(blobOf(KOPIA_INNER, changes), keys.formatKey))
        .to.throw(BlockmoverError, text)
        .with.property("code", code);
    });
  }

  for (const text of ["", "{", "null", "[]", "7", "{}", "<html>", "\u0000"]) {
    it(`refuses ${JSON.stringify(text)} for the blob`, async () => {
      const error = await rejection(decodeFormatBlob(Buffer.from(text), PASSWORD));
      expect(error).to.be.instanceOf(BlockmoverError).with.property("code", "DATA_LOSS");
      expect(error).to.have.property("message").that.includes("kopia.repository");
    });
  }

  it("never puts a key into an error", () => {
    // Malformed just behind the master key: V8's own message would quote it.
    const secret = "c2VjcmV0IGtleSBieXRlcw==";
    for (const inner of [
      `{"format":{"masterKey":["${secret}",x`,
      innerWith({ masterKey: [secret] }),
      innerWith({ secret: `${secret}!` }),
    ]) {
      const error = caught(() => decodeInner(inner));
      expect(error.code).to.equal("DATA_LOSS");
      for (let each: unknown = error; each instanceof Error; each = each.cause) {
        expect(`${each.message} ${String(each.cause)}`).to.not.match(/c2Vjc|lcw==/);
      }
    }
  });

  it(`survives the way there and back (seed ${seed})`, () => {
    const formats = fc.record({
      hash: fc.string({ minLength: 1 }),
      splitter: fc.string({ minLength: 1 }),
      secret: fc.uint8Array({ maxLength: 64 }),
      maxPackSize: fc.integer({ min: 10 << 20, max: 120 << 20 }),
      version: fc.constantFrom(2, 3),
      indexVersion: fc.constantFrom(1, 2),
    });
    fc.assert(
      fc.property(formats, (changes) => {
        const secret = Buffer.from(changes.secret);
        const format = decodeInner(innerWith({ ...changes, secret: secret.toString("base64") }));
        const { maxPackSize: maxPackSizeBytes, ...rest } = changes;
        expect(format).to.deep.equal({ ...KOPIA_FORMAT, ...rest, secret, maxPackSizeBytes });
      }),
      { seed },
    );
  });

  it(`is opened or refused from any bytes, never anything else (seed ${seed})`, () => {
    const good = blobOf(KOPIA_INNER);
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array(), fc.json().map(utf8), damaged(good)), (bytes) => {
        refusesOrOpens(() => decodeFormatBlobWithKey(bytes, keys.formatKey));
      }),
      { seed, numRuns: 2000 },
    );
  });

  it(`is opened or refused with anything sealed inside, never anything else (seed ${seed})`, () => {
    const fields = fc.constantFrom(
      "version",
      "hash",
      "secret",
      "epochParameters",
      "requiredFeatures",
      "upgradeLock",
      "ecc",
    );
    const changed = fc.dictionary(fields, fc.jsonValue()).map((changes) => utf8(innerWith(changes)));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array(), fc.json().map(utf8), changed, damaged(utf8(KOPIA_INNER))), (inner) => {
        refusesOrOpens(() => decodeInner(inner));
      }),
      { seed, numRuns: 3000 },
    );
  });
});

describe("kopia.blobcfg", () => {
  it("has 30 bytes without retention, as Kopia's has", () => {
    const bytes = encodeBlobConfiguration({}, keys);
    expect(bytes).to.have.length(30);
    expect(openSealed(bytes, keys.formatKey)).to.equal("{}");
    expect(decodeBlobConfiguration(bytes, keys)).to.deep.equal({});
  });

  it("has mode and period in nanoseconds with retention", () => {
    const configuration: BlobConfiguration = { retention: { mode: "COMPLIANCE", periodMs: 30 * 86_400_000 } };
    const bytes = encodeBlobConfiguration(configuration, keys);
    expect(openSealed(bytes, keys.formatKey)).to.equal(
      '{"retentionMode":"COMPLIANCE","retentionPeriod":2592000000000000}',
    );
    expect(decodeBlobConfiguration(bytes, keys)).to.deep.equal(configuration);
  });

  for (const retention of [
    { mode: "", periodMs: 86_400_000 },
    { mode: "GOVERNANCE", periodMs: 0 },
    { mode: "GOVERNANCE", periodMs: 86_399_999 },
    { mode: "GOVERNANCE", periodMs: -86_400_000 },
    { mode: "GOVERNANCE", periodMs: Infinity },
  ]) {
    it(`is not written with ${JSON.stringify(retention)} (${retention.periodMs})`, () => {
      expect(() => encodeBlobConfiguration({ retention }, keys))
        .to.throw(BlockmoverError)
        .with.property("code", "INVALID_ARGUMENT");
    });
  }

  for (const text of [
    "",
    "[]",
    '{"retentionMode":"GOVERNANCE"}',
    '{"retentionPeriod":5000000}',
    '{"retentionMode":5}',
  ]) {
    it(`is refused with ${JSON.stringify(text)} sealed inside`, () => {
      expect(() => decodeBlobConfiguration(seal(text), keys))
        .to.throw(BlockmoverError, "kopia.blobcfg")
        .with.property("code", "DATA_LOSS");
    });
  }

  it("is damaged, rather than locked by a password, when the repository's key does not open it", () => {
    const bytes = encodeBlobConfiguration({}, { ...keys, formatKey: Buffer.alloc(32, 1) });
    const error = caught(() => decodeBlobConfiguration(bytes, keys));
    expect(error.code).to.equal("DATA_LOSS");
    expect(error.hint).to.include("password change");
  });

  it(`is opened or refused from any bytes, never anything else (seed ${seed})`, () => {
    const sealed = fc.oneof(fc.uint8Array(), fc.json().map(utf8)).map(seal);
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 100 }), sealed, damaged(seal("{}"))), (bytes) => {
        refusesOrOpens(() => decodeBlobConfiguration(bytes, keys));
      }),
      { seed, numRuns: 1000 },
    );
  });
});

/** The plaintext of sealed bytes; GCM is CTR with the counter at 2, and tags are tested above. */
function openSealed(sealed: Buffer, formatKey: Uint8Array): string {
  const { aesKey } = deriveFormatSealingKeys(formatKey, UNIQUE_ID);
  const counter = Buffer.concat([sealed.subarray(0, 12), Buffer.from([0, 0, 0, 2])]);
  return createCipheriv("aes-256-ctr", aesKey, counter).update(sealed.subarray(12, -16)).toString("utf8");
}

/** `good` with one byte replaced, or cut. */
function damaged(good: Uint8Array): fc.Arbitrary<Uint8Array> {
  const replaced = fc.tuple(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 })).map(([position, byte]) => {
    const bytes = Uint8Array.from(good);
    bytes[position] = byte;
    return bytes;
  });
  return fc.oneof(
    replaced,
    fc.nat({ max: good.length }).map((length) => good.slice(0, length)),
  );
}

function utf8(text: string): Buffer {
  return Buffer.from(text, "utf8");
}

function refusesOrOpens(attempt: () => unknown): void {
  try {
    attempt();
  } catch (error) {
    if (!(error instanceof BlockmoverError)) throw error;
    expect(error.code).to.be.oneOf(["DATA_LOSS", "UNAUTHENTICATED", "UNIMPLEMENTED", "FAILED_PRECONDITION"]);
  }
}

function caught(attempt: () => unknown): BlockmoverError {
  try {
    attempt();
  } catch (error) {
    if (error instanceof BlockmoverError) return error;
    throw error;
  }
  return expect.fail("nothing was thrown");
}

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => expect.fail("it resolved"),
    (error: unknown) => error,
  );
}
