import { expect } from "chai";
import fc from "fast-check";

import { NativeError } from "../../../../../native/index.js";
import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  type BlobCrypto,
  blobIv,
  openHashedBlob,
  sealHashedBlob,
} from "../../../../../services/datapath/repository/kopia/blob-crypto.js";
import { newContentCipher } from "../../../../../services/datapath/repository/kopia/encryption.js";
import { newContentHash } from "../../../../../services/datapath/repository/kopia/hashing.js";
import { testSeed } from "../../../../support/random-data.js";

const seed = testSeed();

/** SECRET32 of kopia-format.md, Appendix A. */
const SECRET32 = Buffer.from(Array.from({ length: 32 }, (_, position) => position));
const SESSION = "sb2b51260d5d2c0e9147";

function cryptoOf(hash: string, encryption: string): BlobCrypto {
  return { hash: newContentHash(hash, SECRET32), cipher: newContentCipher(encryption, SECRET32) };
}

const crypto = cryptoOf("BLAKE2B-256-128", "AES256-GCM-HMAC-SHA256");
const wide = cryptoOf("BLAKE2B-256", "CHACHA20-POLY1305-HMAC-SHA256");

describe("sealHashedBlob", () => {
  it("names a blob by prefix, hash of the plaintext and suffix", () => {
    const payload = Buffer.from("hello world");
    expect(sealHashedBlob(crypto, { prefix: "s", suffix: SESSION, payload }).id).to.equal(
      "se284e5ae9e9ee34777499c886c42fce0-sb2b51260d5d2c0e9147",
    );
    expect(sealHashedBlob(wide, { prefix: "xn0_", suffix: `${SESSION}-c1`, payload }).id).to.equal(
      "xn0_e284e5ae9e9ee34777499c886c42fce0466a813b7e278dc806db57bcfe2255f1-sb2b51260d5d2c0e9147-c1",
    );
    expect(sealHashedBlob(crypto, { prefix: "n", payload }).id).to.equal("ne284e5ae9e9ee34777499c886c42fce0");
  });

  it("seals with the last 16 bytes of the hash, as Kopia sealed these contents (kopia-format.md A.3)", () => {
    const narrow = "a9dd8641668cee8877475174809f53d7b9348ee45c0cf934768c783539fc23f72ce9a8142df214";
    const id = "se284e5ae9e9ee34777499c886c42fce0";
    expect(openHashedBlob(crypto, id, Buffer.from(narrow, "hex")).toString()).to.equal("hello world");
    const long = "405681ec8c97fc35d74fbd6d50bbaa97406b10c43c55164de373c13034dce5240c25a15017238b";
    const wideId = "xn12_e284e5ae9e9ee34777499c886c42fce0466a813b7e278dc806db57bcfe2255f1-s01-c1";
    expect(openHashedBlob(wide, wideId, Buffer.from(long, "hex")).toString()).to.equal("hello world");
  });

  it("gives the same name and other bytes each time", () => {
    const payload = Buffer.from("again");
    const first = sealHashedBlob(crypto, { prefix: "s", payload });
    const second = sealHashedBlob(crypto, { prefix: "s", payload });
    expect(second.id).to.equal(first.id);
    expect(second.bytes).to.not.deep.equal(first.bytes);
  });

  for (const [what, either] of [
    ["16-byte hashes", crypto],
    ["32-byte hashes", wide],
  ] as const) {
    it(`is undone by openHashedBlob (${what}, seed ${seed})`, () => {
      const prefixes = fc.constantFrom("s", "n", "xn0_", "xn12_", "xs7_", "xr0_6_", "_log_20260102030405_ab12_1_2_0_");
      const suffixes = fc.constantFrom(undefined, "", SESSION, `${SESSION}-c1`);
      fc.assert(
        fc.property(prefixes, suffixes, fc.uint8Array({ maxLength: 500 }), (prefix, suffix, payload) => {
          const { id, bytes } = sealHashedBlob(either, { prefix, suffix, payload });
          expect(openHashedBlob(either, id, bytes)).to.deep.equal(Buffer.from(payload));
        }),
        { seed },
      );
    });
  }
});

describe("openHashedBlob", () => {
  const { id, bytes } = sealHashedBlob(crypto, { prefix: "s", suffix: SESSION, payload: Buffer.from("marker") });

  it(`refuses bytes that are damaged or cut, naming the blob (seed ${seed})`, () => {
    fc.assert(
      fc.property(fc.nat({ max: 8 * bytes.length - 1 }), (bit) => {
        const flipped = Buffer.from(bytes);
        flipped[bit >> 3]! ^= 1 << (bit & 7);
        for (const damaged of [flipped, bytes.subarray(0, bit >> 3)]) {
          expect(() => openHashedBlob(crypto, id, damaged))
            .to.throw(BlockmoverError, id)
            .with.property("code", "DATA_LOSS");
        }
      }),
      { seed },
    );
  });

  it("refuses a blob under another blob's name", () => {
    const other = sealHashedBlob(crypto, { prefix: "s", suffix: SESSION, payload: Buffer.from("other") });
    expect(() => openHashedBlob(crypto, other.id, bytes))
      .to.throw(BlockmoverError, other.id)
      .with.property("code", "DATA_LOSS");
  });

  it("does not take a mistake of ours for damage", () => {
    for (const mistake of [
      new TypeError("not a buffer"),
      new NativeError("no memory", { errno: "ENOMEM", operation: "open" }),
    ]) {
      const broken: BlobCrypto = {
        ...crypto,
        cipher: {
          seal: () => Buffer.alloc(0),
          open: () => {
            throw mistake;
          },
        },
      };
      expect(() => openHashedBlob(broken, id, bytes)).to.throw(
        mistake.constructor as ErrorConstructor,
        mistake.message,
      );
    }
  });
});

describe("blobIv", () => {
  const iv = "3d66899eef6ce47833d91efffcefee17";
  for (const name of [`xn0_${iv}-${SESSION}-c1`, `xr0_6_${iv}-${SESSION}-c1`, `n${iv}`, `m${"00".repeat(16)}${iv}-x`]) {
    it(`is cut backwards from the first dash of ${name}`, () => {
      expect(blobIv(name).toString("hex")).to.equal(iv);
    });
  }

  it("is not looked for behind the first dash", () => {
    expect(blobIv(`s${iv}-${"11".repeat(16)}-c1`).toString("hex")).to.equal(iv);
    for (const name of [`s01-${iv}`, `-${iv}`, `s${iv.slice(1)}-${iv}-c1`]) {
      expect(() => blobIv(name))
        .to.throw(BlockmoverError, name)
        .with.property("code", "DATA_LOSS");
    }
  });

  it(`is found or refused in any name, never anything else (seed ${seed})`, () => {
    const names = fc.oneof(
      fc.string(),
      fc.string({ unit: fc.constantFrom("a", "f", "0", "-", "_", "g"), minLength: 30, maxLength: 80 }),
    );
    fc.assert(
      fc.property(names, (name) => {
        const head = name.split("-")[0] ?? "";
        const hex = head.slice(-32);
        if (/^[0-9a-f]{32}$/i.test(hex)) {
          expect(blobIv(name).toString("hex")).to.equal(hex.toLowerCase());
        } else {
          expect(() => blobIv(name))
            .to.throw(BlockmoverError)
            .with.property("code", "DATA_LOSS");
        }
      }),
      { seed, numRuns: 3000 },
    );
  });
});
