import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  contentIdFromKey,
  contentIdHash,
  contentIdIv,
  contentIdKey,
  contentIdOf,
  contentIdPrefix,
  type ContentPrefix,
  parseContentId,
} from "../../../../../services/datapath/repository/kopia/content-id.js";
import { testSeed } from "../../../../support/random-data.js";

const seed = testSeed();

const prefixes = fc.constantFrom<ContentPrefix>("", "k", "m", "x");
const hashes = fc.uint8Array({ minLength: 16, maxLength: 32 });
const ids = fc.tuple(prefixes, hashes).map(([prefix, hash]) => contentIdOf(prefix, hash));

describe("content IDs", () => {
  it("are the prefix letter and the hash in hex", () => {
    expect(contentIdOf("x", Buffer.from("00112233445566778899aabbccddeeff", "hex"))).to.equal(
      "x00112233445566778899aabbccddeeff",
    );
    expect(contentIdOf("", Buffer.from("ffee", "hex"))).to.equal("ffee");
  });

  it("give their prefix, hash and iv, and the prefix is part of neither hash nor iv", () => {
    const id = parseContentId("k000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    expect(contentIdPrefix(id)).to.equal("k");
    expect(contentIdHash(id).toString("hex")).to.equal(
      "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    );
    expect(contentIdIv(id).toString("hex")).to.equal("101112131415161718191a1b1c1d1e1f");
    expect(contentIdPrefix(parseContentId("f0f0"))).to.equal("");
  });

  it("have a key that begins with the prefix byte, or zero", () => {
    expect(contentIdKey(parseContentId("m0102")).toString("hex")).to.equal("6d0102");
    expect(contentIdKey(parseContentId("ff02")).toString("hex")).to.equal("00ff02");
  });

  it("read upper-case digits as lower-case ones, as Kopia does", () => {
    expect(parseContentId("xABCDEF")).to.equal("xabcdef");
  });

  it("refuse an iv of a hash shorter than 16 bytes", () => {
    const id = parseContentId("000102030405060708090a0b0c0d0e");
    expect(() => contentIdIv(id))
      .to.throw(BlockmoverError, id)
      .with.property("code", "DATA_LOSS");
  });

  for (const text of ["", "x", "abc", "f0f0f", "X00", "Xf0f", "zz", "g0g0g", "x0\n", "x00\n", "00 ", "00".repeat(33)]) {
    it(`refuse ${JSON.stringify(text)}`, () => {
      expect(() => parseContentId(text))
        .to.throw(BlockmoverError)
        .with.property("code", "DATA_LOSS");
      expect(() => parseContentId(text, "INVALID_ARGUMENT"))
        .to.throw(BlockmoverError)
        .with.property("code", "INVALID_ARGUMENT");
    });
  }

  for (const [why, hex] of [
    ["an empty key", ""],
    ["no hash", "6d"],
    ["a prefix below g", "66000102"],
    ["a prefix above z", "7b000102"],
    ["a prefix in upper case", "58000102"],
    ["a hash of 33 bytes", "00".repeat(34)],
  ] as const) {
    it(`refuse an index key with ${why}`, () => {
      expect(() => contentIdFromKey(Buffer.from(hex, "hex")))
        .to.throw(BlockmoverError)
        .with.property("code", "DATA_LOSS");
    });
  }

  it("stop on a hash or prefix that cannot be, which is our mistake", () => {
    expect(() => contentIdOf("", new Uint8Array(33)))
      .to.throw(BlockmoverError)
      .with.property("code", "INTERNAL");
    expect(() => contentIdOf("", new Uint8Array(0)))
      .to.throw(BlockmoverError)
      .with.property("code", "INTERNAL");
    expect(() => contentIdOf("X" as ContentPrefix, new Uint8Array(16)))
      .to.throw(BlockmoverError)
      .with.property("code", "INTERNAL");
  });

  it(`survive text and key (seed ${seed})`, () => {
    fc.assert(
      fc.property(ids, (id) => {
        expect(parseContentId(id)).to.equal(id);
        expect(contentIdFromKey(contentIdKey(id))).to.equal(id);
        expect(contentIdOf(contentIdPrefix(id) as ContentPrefix, contentIdHash(id))).to.equal(id);
      }),
      { seed },
    );
  });

  it(`sort by key as they sort without prefix first, then by prefix and hash (seed ${seed})`, () => {
    fc.assert(
      fc.property(ids, ids, (a, b) => {
        const byKey = Buffer.compare(contentIdKey(a), contentIdKey(b));
        const byPrefix = Buffer.compare(Buffer.from(contentIdPrefix(a)), Buffer.from(contentIdPrefix(b)));
        const expected = byPrefix !== 0 ? byPrefix : Buffer.compare(contentIdHash(a), contentIdHash(b));
        expect(byKey).to.equal(expected);
      }),
      { seed },
    );
  });

  it(`of any text or key are read or refused, never anything else (seed ${seed})`, () => {
    const texts = fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom("0", "a", "f", "g", "x", "I", "A", "\n") }));
    fc.assert(
      fc.property(texts, fc.uint8Array({ maxLength: 40 }), (text, key) => {
        expectValueOrRefusal(() => expect(parseContentId(text)).to.equal(text.toLowerCase()));
        expectValueOrRefusal(() => expect(contentIdKey(contentIdFromKey(key))).to.deep.equal(Buffer.from(key)));
      }),
      { seed, numRuns: 2000 },
    );
  });
});

function expectValueOrRefusal(attempt: () => void): void {
  try {
    attempt();
  } catch (error) {
    if (!(error instanceof BlockmoverError)) throw error;
    expect(error.code).to.equal("DATA_LOSS");
  }
}
