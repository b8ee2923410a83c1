import { createCipheriv, createHmac, hkdfSync } from "node:crypto";

import { expect } from "chai";
import { describe, it } from "mocha";

import {
  ContentCipher,
  KeyedHash,
  NativeError,
  hasZstd,
  zstdCompress,
  type CipherAlgorithm,
  type OpenItem,
} from "../../../native/index.js";
import { Random, testSeed } from "../../support/random-data.js";
import { MiB } from "../../support/sizes.js";

const seed = testSeed();
const secret = Buffer.from(Array.from({ length: 32 }, (_, i) => i));
const algorithms: readonly CipherAlgorithm[] = ["aes-256-gcm", "chacha20-poly1305"];

/** kopia-format.md §2.5: the content key of a master key. */
function contentKey(masterKey: Uint8Array): Buffer {
  return Buffer.from(hkdfSync("sha256", masterKey, "encryption", "", 32));
}

describe("ContentCipher", () => {
  describe("opens what Kopia sealed (appendix A.3)", () => {
    const key = contentKey(Buffer.from("01234567890123456789012345678901"));
    const vectors: [CipherAlgorithm, string, string, string][] = [
      [
        "aes-256-gcm",
        "aabbccddeeffgghhiijjkkllmmnnoopp",
        "foo",
        "e43ba07f85a6d70c5f1102ca06cf19c597e5f91e527b21f00fb76e8bec3fd1",
      ],
      [
        "chacha20-poly1305",
        "aabbccddeeffgghhiijjkkllmmnnoopp",
        "foo",
        "118359f3d4d589d939efbbc3168ae4c77c51bcebce6845fe6ef5d11342faa6",
      ],
      [
        "aes-256-gcm",
        "00000000000000000000000000000000",
        "quick brown fox jumps over the lazy dog",
        "eaad755a238f1daa4052db2e5ccddd934790b6cca415b3ccfd46ac5746af33d9d30f4400ffa9eb3a64fb1ce21b888c12c043bf6787d4a5c15ad10f21f6a6027ee3afe0",
      ],
      [
        "chacha20-poly1305",
        "00000000000000000000000000000000",
        "quick brown fox jumps over the lazy dog",
        "836d2ba87892711077adbdbe1452d3b2c590bbfdf6fd3387dc6810220a32ec19de862e1a4f865575e328424b5f178afac1b7eeff11494f719d119b7ebb924d1d0846a3",
      ],
    ];
    for (const [algorithm, iv, plaintext, sealed] of vectors) {
      it(`${algorithm}, "${plaintext}"`, () => {
        const cipher = new ContentCipher({ algorithm, key });
        expect(cipher.open(Buffer.from(sealed, "hex"), Buffer.from(iv)).toString()).to.equal(plaintext);
      });
    }

    it("the contents of real repositories", async () => {
      const aes = new ContentCipher({ algorithm: "aes-256-gcm", key: contentKey(secret) });
      const chacha = new ContentCipher({ algorithm: "chacha20-poly1305", key: contentKey(secret) });
      const short = Buffer.from("e284e5ae9e9ee34777499c886c42fce0", "hex");
      const long = Buffer.from("e284e5ae9e9ee34777499c886c42fce0466a813b7e278dc806db57bcfe2255f1", "hex");
      const stored = "a9dd8641668cee8877475174809f53d7b9348ee45c0cf934768c783539fc23f72ce9a8142df214";
      expect(aes.open(Buffer.from(stored, "hex"), short).toString()).to.equal("hello world");
      const target = Buffer.alloc(11);
      const failure = await chacha.openMany(
        [
          {
            sealed: Buffer.from(
              "405681ec8c97fc35d74fbd6d50bbaa97406b10c43c55164de373c13034dce5240c25a15017238b",
              "hex",
            ),
            iv: long.subarray(-16),
            compression: "none",
            headerId: 0,
            target,
            digest: long,
          },
        ],
        new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 32 }),
      );
      expect(failure).to.equal(undefined);
      expect(target.toString()).to.equal("hello world");
    });
  });

  for (const algorithm of algorithms) {
    describe(algorithm, () => {
      const random = new Random(seed).fork(algorithm);
      const key = random.bytes(32);
      const cipher = new ContentCipher({ algorithm, key });

      it(`seals as node:crypto does under the same nonce [seed ${seed}]`, () => {
        const iv = random.bytes(16);
        const plaintext = random.bytes(10_000);
        const sealed = cipher.seal(plaintext, iv);
        const itemKey = createHmac("sha256", key).update(iv).digest();
        const nonce = sealed.subarray(0, 12);
        const options = { authTagLength: 16 };
        const reference =
          algorithm === "aes-256-gcm"
            ? createCipheriv("aes-256-gcm", itemKey, nonce, options)
            : createCipheriv("chacha20-poly1305", itemKey, nonce, options);
        reference.setAAD(iv, { plaintextLength: plaintext.length });
        const ciphertext = Buffer.concat([reference.update(plaintext), reference.final()]);
        expect(sealed.equals(Buffer.concat([nonce, ciphertext, reference.getAuthTag()]))).to.equal(true);
      });

      it("opens what it sealed, of any length", async () => {
        const plaintexts = [0, 1, 15, 16, 17, 4096, MiB].map((length) => random.bytes(length));
        const items = plaintexts.map((plaintext) => ({
          plaintext,
          iv: random.bytes(random.between(1, 40)),
          target: Buffer.alloc(plaintext.length + ContentCipher.overheadBytes),
        }));
        await cipher.sealMany(items);
        items.forEach((item) => expect(cipher.open(item.target, item.iv).equals(item.plaintext)).to.equal(true));
        const opened = items.map(({ plaintext, iv, target }) => openItem(target, iv, plaintext.length));
        expect(await cipher.openMany(opened)).to.equal(undefined);
        opened.forEach((item, i) => expect(plaintexts[i]?.equals(item.target)).to.equal(true));
      });

      it("never uses a nonce twice", async () => {
        const plaintext = Buffer.from("same");
        const iv = random.bytes(16);
        const items = Array.from({ length: 1000 }, () => ({ plaintext, iv, target: Buffer.alloc(32) }));
        await cipher.sealMany(items);
        const nonces = new Set(items.map((item) => item.target.subarray(0, 12).toString("hex")));
        expect(nonces.size).to.equal(1000);
      });

      it("notices every changed bit of nonce, ciphertext, tag and iv", async () => {
        const iv = random.bytes(16);
        const sealed = cipher.seal(Buffer.from("hello world"), iv);
        for (let at = 0; at < sealed.length; at++) {
          const changed = Buffer.from(sealed);
          changed[at] = (changed[at] ?? 0) ^ (1 << random.below(8));
          expect(await cipher.openMany([openItem(changed, iv, 11)])).to.deep.equal({
            index: 0,
            reason: "authentication",
          });
          expect(() => cipher.open(changed, iv))
            .to.throw(NativeError)
            .with.property("errno", "EBADMSG");
        }
        const wrongIv = Buffer.from(iv);
        wrongIv[3] = (wrongIv[3] ?? 0) ^ 1;
        expect(() => cipher.open(sealed, wrongIv)).to.throw(NativeError, "authentication failed");
        expect(cipher.open(sealed, iv).toString(), "the thread's context is usable after failures").to.equal(
          "hello world",
        );
      });

      it("refuses what is too short to hold nonce and tag", async () => {
        const iv = random.bytes(16);
        expect(() => cipher.open(Buffer.alloc(27), iv))
          .to.throw(NativeError)
          .with.property("errno", "EBADMSG");
        expect(await cipher.openMany([openItem(Buffer.alloc(27), iv, 0)])).to.deep.equal({
          index: 0,
          reason: "authentication",
        });
      });
    });
  }

  describe("openMany", () => {
    const random = new Random(seed).fork("openMany");
    const cipher = new ContentCipher({ algorithm: "aes-256-gcm", key: secret });
    const hash = new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 16 });
    const iv = Buffer.alloc(16, 9);
    const text = Buffer.from("block mover ".repeat(1000));

    function stored(plaintext: Uint8Array, headerId: number): Buffer {
      const header = Buffer.alloc(4);
      header.writeUInt32BE(headerId);
      return cipher.seal(Buffer.concat([header, plaintext]), iv);
    }
    function compressedItem(headerId: number, change: Partial<OpenItem> = {}): OpenItem {
      const sealed = stored(zstdCompress(text, 1), headerId);
      return { sealed, iv, compression: "zstd", headerId: 0x1101, target: Buffer.alloc(text.length), ...change };
    }

    it("decrypts, decompresses and verifies a mixed batch", async function () {
      if (!hasZstd()) this.skip();
      const plain = random.bytes(text.length);
      const s2 = Buffer.from("ff06000053327354774f001000008c0c07d880020c6162636411041500ec", "hex");
      const lz4 = Buffer.from(
        "04224d186470b9180000004f616263640400d900ec00c061626364616263646162636400000000a416db1b",
        "hex",
      );
      const abcd = Buffer.from("abcd".repeat(64));
      const items: OpenItem[] = [
        { ...compressedItem(0x1101), digest: hash.digest(text) },
        { ...openItem(cipher.seal(plain, iv), iv, plain.length), digest: hash.digest(plain) },
        { ...openItem(stored(s2, 0x1200), iv, 256), compression: "s2", headerId: 0x1200, digest: hash.digest(abcd) },
        { ...openItem(stored(lz4, 0x1400), iv, 256), compression: "lz4", headerId: 0x1400 },
      ];
      expect(await cipher.openMany(items, hash)).to.equal(undefined);
      expect([text, plain, abcd, abcd].every((expected, i) => expected.equals(items[i]?.target ?? abcd))).to.equal(
        true,
      );
    });

    it("names the reason: header, decompression, length, digest", async function () {
      if (!hasZstd()) this.skip();
      const damaged = stored(zstdCompress(text, 1).subarray(0, -1), 0x1101);
      const cases: [string, OpenItem][] = [
        ["header", compressedItem(0x1100)],
        ["header", compressedItem(0x1101, { sealed: cipher.seal(Buffer.from("abc"), iv) })],
        ["decompression", compressedItem(0x1101, { sealed: damaged })],
        ["decompression", compressedItem(0x1101, { sealed: stored(Buffer.alloc(0), 0x1101) })],
        ["length", compressedItem(0x1101, { target: Buffer.alloc(text.length + 1) })],
        ["length", compressedItem(0x1101, { target: Buffer.alloc(text.length - 1) })],
        ["length", openItem(cipher.seal(text, iv), iv, text.length - 1)],
        ["length", openItem(cipher.seal(text, iv), iv, text.length + 1)],
        ["digest", compressedItem(0x1101, { digest: Buffer.alloc(16) })],
      ];
      for (const [reason, item] of cases) {
        const good = openItem(cipher.seal(text, iv), iv, text.length);
        expect(await cipher.openMany([good, good, item, good], hash)).to.deep.equal({ index: 2, reason });
      }
    });

    it("names the first item that failed, whatever failed later", async () => {
      const good = (): OpenItem => openItem(cipher.seal(text, iv), iv, text.length);
      const wrongDigest = { ...good(), digest: Buffer.alloc(16) };
      const unauthentic = openItem(random.bytes(100), iv, 72);
      expect(await cipher.openMany([good(), wrongDigest, unauthentic], hash)).to.deep.equal({
        index: 1,
        reason: "digest",
      });
      expect(await cipher.openMany([good(), unauthentic, wrongDigest], hash)).to.deep.equal({
        index: 1,
        reason: "authentication",
      });
    });

    it("looks at digests only when a hash is given", async () => {
      const item = { ...openItem(cipher.seal(text, iv), iv, text.length), digest: Buffer.alloc(16) };
      expect(await cipher.openMany([item])).to.equal(undefined);
    });

    it("refuses wrong arguments at once", () => {
      const item = openItem(cipher.seal(text, iv), iv, text.length);
      expect(() => cipher.openMany([{ ...item, digest: Buffer.alloc(15) }], hash)).to.throw(RangeError, "digest");
      expect(() => cipher.openMany([{ ...item, compression: "gzip" as "zstd" }])).to.throw(RangeError, "gzip");
      expect(() => cipher.openMany([{ ...item, iv: Buffer.alloc(0) }])).to.throw(RangeError, "iv");
      expect(() => cipher.sealMany([{ plaintext: text, iv, target: Buffer.alloc(text.length) }])).to.throw(
        RangeError,
        "28 bytes",
      );
      expect(() => new ContentCipher({ algorithm: "aes-256-gcm", key: Buffer.alloc(16) })).to.throw(RangeError, "32");
    });
  });
});

function openItem(sealed: Uint8Array, iv: Uint8Array, length: number): OpenItem {
  return { sealed, iv, compression: "none", headerId: 0, target: Buffer.alloc(length) };
}
