import { crc32 } from "node:zlib";

import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  decodePostamble,
  encodeLocalIndexSuffix,
  encodePadding,
  encodePostamble,
  encodePreamble,
  MAX_POSTAMBLE_BYTES,
  newPackBlobId,
  paddingLength,
  type Postamble,
  PREAMBLE_BYTES,
} from "../../../../../services/datapath/repository/kopia/pack.js";
import { testSeed } from "../../../../support/random-data.js";

const seed = testSeed();
const SESSION = "s531bea9f2b3eaa72147";
const PACK = `p0bb110664e8b5b7c31fd49c9e3ba469a-${SESSION}`;

/** kopia-format.md A.6. */
const POSTAMBLE: Postamble = {
  iv: Buffer.from("00112233445566778899aabbccddeeff", "hex"),
  localIndexOffset: 8192,
  localIndexLength: 300,
};
const POSTAMBLE_BYTES = Buffer.from("011000112233445566778899aabbccddeeff8040ac0236e4378f1a", "hex");

const postambles = fc.record({
  iv: fc.uint8Array({ minLength: 16, maxLength: 32 }),
  localIndexOffset: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  localIndexLength: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
});

describe("the parts of a pack", () => {
  it("pad to a multiple of 4096, and an aligned pack by a whole unit", () => {
    expect(paddingLength(32)).to.equal(4064);
    expect(paddingLength(4095)).to.equal(1);
    expect(paddingLength(4096)).to.equal(4096);
    expect(paddingLength(4097)).to.equal(4095);
    expect(paddingLength(2 ** 31)).to.equal(4096);
    expect(encodePadding(4000)).to.have.length(96);
  });

  it("begin with 32 random bytes", () => {
    expect(encodePreamble()).to.have.length(PREAMBLE_BYTES).and.to.not.deep.equal(encodePreamble());
  });

  it("have 32 random bytes after the local index", () => {
    expect(encodeLocalIndexSuffix()).to.have.length(32).and.to.not.deep.equal(encodeLocalIndexSuffix());
  });

  it("take their random bytes from where the caller says", () => {
    const sevens = (sizeBytes: number): Uint8Array => new Uint8Array(sizeBytes).fill(7);
    expect(encodePreamble(sevens)).to.deep.equal(sevens(32));
    expect(encodePadding(4090, sevens)).to.deep.equal(sevens(6));
    expect(encodeLocalIndexSuffix(sevens)).to.deep.equal(sevens(32));
    expect(newPackBlobId("q", SESSION, sevens)).to.equal(`q${"07".repeat(16)}-${SESSION}`);
  });
});

describe("newPackBlobId", () => {
  it("names a pack by kind, 16 random bytes and session", () => {
    expect(newPackBlobId("p", SESSION)).to.match(/^p[0-9a-f]{32}-s531bea9f2b3eaa72147$/);
    expect(newPackBlobId("p", SESSION)).to.not.equal(newPackBlobId("p", SESSION));
  });

  it("stops on a session that has no ID, which is our mistake", () => {
    expect(() => newPackBlobId("p", ""))
      .to.throw(BlockmoverError)
      .with.property("code", "INTERNAL");
  });
});

describe("postamble", () => {
  it("is written as Kopia writes it (kopia-format.md A.6)", () => {
    expect(encodePostamble(POSTAMBLE).toString("hex")).to.equal(POSTAMBLE_BYTES.toString("hex"));
  });

  it("is found at the end of a pack", () => {
    const tail = Buffer.concat([Buffer.alloc(500, 0xee), POSTAMBLE_BYTES]);
    expect(decodePostamble(tail, 8192 + 300 + POSTAMBLE_BYTES.length, PACK)).to.deep.equal(POSTAMBLE);
  });

  it("stops on values that cannot be, which is our mistake", () => {
    for (const change of [
      { iv: Buffer.alloc(15) },
      { iv: Buffer.alloc(33) },
      { localIndexOffset: -1 },
      { localIndexOffset: 2 ** 32 },
      { localIndexLength: 0.5 },
    ]) {
      expect(() => encodePostamble({ ...POSTAMBLE, ...change }))
        .to.throw(BlockmoverError)
        .with.property("code", "INTERNAL");
    }
  });

  const packLength = 8192 + 300 + POSTAMBLE_BYTES.length;
  const withCrc = (hex: string): Buffer => {
    const covered = Buffer.from(hex, "hex");
    const end = Buffer.alloc(5);
    end.writeUInt32BE(crc32(covered));
    end.writeUInt8(covered.length + 4, 4);
    return Buffer.concat([covered, end]);
  };
  const iv = "00112233445566778899aabbccddeeff";
  const refused: readonly (readonly [string, Buffer, number])[] = [
    ["nothing", Buffer.alloc(0), packLength],
    ["a last byte too small to be its length", Buffer.alloc(100, 4), packLength],
    ["a last byte larger than what there is", Buffer.from([0, 0, 0, 0, 0, 0xff]), packLength],
    ["a wrong checksum", Buffer.concat([Buffer.from([2]), POSTAMBLE_BYTES.subarray(1)]), packLength],
    ["another flag", withCrc(`0210${iv}8040ac02`), packLength],
    ["an iv longer than itself", withCrc(`0120${iv}8040ac02`), packLength],
    ["an iv shorter than any hash", withCrc("0103aabbcc8040ac02"), packLength],
    ["no length", withCrc(`0110${iv}8040`), packLength],
    ["an offset of more than 32 bits", withCrc(`0110${iv}ffffffff1fac02`), 2 ** 40],
    ["an offset without end", withCrc(`0110${iv}808080808080808080808001ac02`), 2 ** 40],
    ["an index past the end of the pack", POSTAMBLE_BYTES, packLength - 1],
  ];
  for (const [what, tail, length] of refused) {
    it(`is refused with ${what}`, () => {
      expect(() => decodePostamble(tail, length, PACK))
        .to.throw(BlockmoverError, PACK)
        .with.property("code", "DATA_LOSS");
    });
  }

  it("may have longer varints than needed, as Go reads them", () => {
    const tail = withCrc(`0110${iv}80c08000ac82808080808080 8000`.replace(" ", ""));
    expect(decodePostamble(tail, 2 ** 20, PACK)).to.deep.equal(POSTAMBLE);
  });

  it(`survives the way there and back (seed ${seed})`, () => {
    fc.assert(
      fc.property(postambles, fc.uint8Array({ maxLength: 300 }), (postamble, before) => {
        const bytes = encodePostamble(postamble);
        expect(bytes.length).to.be.at.most(MAX_POSTAMBLE_BYTES);
        const decoded = decodePostamble(Buffer.concat([before, bytes]), 2 ** 40, PACK);
        expect({ ...decoded, iv: Buffer.from(decoded.iv) }).to.deep.equal({
          ...postamble,
          iv: Buffer.from(postamble.iv),
        });
      }),
      { seed },
    );
  });

  it(`with any bit flipped or anything cut off is refused (seed ${seed})`, () => {
    fc.assert(
      fc.property(postambles, fc.nat(), (postamble, choice) => {
        const bytes = encodePostamble(postamble);
        // All but the last byte, which moves the checked range; what that may give is the next test's business.
        const flipped = Buffer.from(bytes);
        const bit = choice % (8 * (bytes.length - 1));
        flipped[bit >> 3]! ^= 1 << (bit & 7);
        expect(() => decodePostamble(flipped, 2 ** 40, PACK)).to.throw(BlockmoverError, "checksum");
        expect(() => decodePostamble(bytes.subarray(1 + (choice % bytes.length)), 2 ** 40, PACK)).to.throw(
          BlockmoverError,
        );
      }),
      { seed },
    );
  });

  it(`is decoded or refused from any bytes, never anything else (seed ${seed})`, () => {
    const covered = fc.oneof(
      fc.uint8Array({ maxLength: 60 }),
      fc
        .tuple(fc.constantFrom("0110", "0111", "0120", "0100", "8100"), fc.uint8Array({ maxLength: 40 }))
        .map(([start, rest]) => Buffer.concat([Buffer.from(start, "hex"), rest])),
    );
    const tails = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      covered.map((bytes) => withCrc(Buffer.from(bytes).toString("hex"))),
    );
    fc.assert(
      fc.property(tails, fc.nat({ max: 2 ** 31 - 1 }), (tail, length) => {
        try {
          const { localIndexOffset, localIndexLength } = decodePostamble(tail, length, PACK);
          expect(localIndexOffset + localIndexLength).to.be.below(length);
        } catch (error) {
          if (!(error instanceof BlockmoverError)) throw error;
          expect(error.code).to.equal("DATA_LOSS");
        }
      }),
      { seed, numRuns: 3000 },
    );
  });
});
