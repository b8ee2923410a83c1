import { gunzipSync, gzipSync, inflateRawSync } from "node:zlib";

import { expect } from "chai";
import fc from "fast-check";

import { decompress } from "../../../../../native/index.js";
import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  compressContent,
  compressContentSync,
  compressionById,
  compressionByName,
  compressions,
  decompressContent,
  writableCompressionNames,
} from "../../../../../services/datapath/repository/kopia/compression.js";
import { testSeed } from "../../../../support/random-data.js";

const seed = testSeed();

/** The plaintext of kopia-format.md A.8, and what Kopia printed for each compressor. */
const PLAINTEXT = Buffer.from("abcd".repeat(64));
const VECTORS: Readonly<Record<string, string>> = {
  gzip: "000010001f8b08000000000000ff4a4c4a4e19c918100000ffffa22462fa00010000",
  "gzip-best-speed": "000010011f8b08000000000004ffe4c3c9000000008440d63dfc1902e931e96e46000000ffffa22462fa00010000",
  "gzip-best-compression": "000010021f8b08000000000002ff4a4c4a4e19c918100000ffffa22462fa00010000",
  zstd: "0000110028b52ffd440000006500002061626364015404022bf90348981d56",
  "zstd-fastest": "0000110128b52ffd440000006500002061626364015404022bf90348981d56",
  "zstd-better-compression": "0000110228b52ffd440000006500002061626364015404022bf90348981d56",
  "zstd-best-compression": "0000110328b52ffd440000006500002061626364015404022bf90348981d56",
  "s2-default": "00001200ff06000053327354774f001000008c0c07d880020c6162636411041500ec",
  "s2-better": "00001201ff06000053327354774f001000008c0c07d880020c6162636411041500ec",
  "s2-parallel-4": "00001202ff06000053327354774f001000008c0c07d880020c6162636411041500ec",
  "s2-parallel-8": "00001203ff06000053327354774f001000008c0c07d880020c6162636411041500ec",
  pgzip: "000013001f8b080000096e8800ff4a4c4a4e19c918000000ffff0300a22462fa00010000",
  "pgzip-best-speed": "000013011f8b080000096e8804ff4a4c4a4e19c918000000ffff0300a22462fa00010000",
  "pgzip-best-compression": "000013021f8b080000096e8802ff4a4c4a4e19c918000000ffff0300a22462fa00010000",
  lz4: "0000140004224d186470b9180000004f616263640400d900ec00c061626364616263646162636400000000a416db1b",
  "deflate-default": "000015004a4c4a4e19c9183000",
  "deflate-best-speed": "000015014a4c4a4e19c9183000",
  "deflate-best-compression": "000015024a4c4a4e19c9183000",
};

describe("the table of compressors", () => {
  it("has those of Kopia, each findable by ID", () => {
    expect(compressions.map(({ name }) => name).sort()).to.deep.equal(Object.keys(VECTORS).sort());
    for (const compression of compressions) {
      expect(compressionById(compression.id)).to.equal(compression);
      expect(Buffer.from(VECTORS[compression.name]!, "hex").readUInt32BE(0)).to.equal(compression.id);
    }
  });

  it("says which can be written", () => {
    expect(writableCompressionNames).to.deep.equal([
      "none",
      "gzip",
      "gzip-best-speed",
      "gzip-best-compression",
      "zstd",
      "zstd-fastest",
      "zstd-better-compression",
      "zstd-best-compression",
      "pgzip",
      "pgzip-best-speed",
      "pgzip-best-compression",
      "deflate-default",
      "deflate-best-speed",
      "deflate-best-compression",
    ]);
    for (const name of writableCompressionNames) {
      expect(compressionByName(name)?.name).to.equal(name === "none" ? undefined : name);
    }
  });

  it("refuses names to write with that are unknown or only read", () => {
    for (const name of ["", "ZSTD", "zstd-ultra", "constructor"]) {
      expect(() => compressionByName(name))
        .to.throw(BlockmoverError)
        .with.property("code", "INVALID_ARGUMENT");
    }
    for (const name of ["s2-default", "s2-better", "s2-parallel-4", "s2-parallel-8", "lz4"]) {
      expect(() => compressionByName(name))
        .to.throw(BlockmoverError, name)
        .with.property("code", "UNIMPLEMENTED");
    }
  });

  it("refuses an unknown ID, 0 among them", () => {
    for (const id of [0, 1, 0x1104, 0x1600, 2 ** 32 - 1]) {
      expect(() => compressionById(id))
        .to.throw(BlockmoverError, `0x${id.toString(16)}`)
        .with.property("code", "DATA_LOSS");
    }
  });
});

describe("decompressContent", () => {
  for (const { id, name } of compressions) {
    it(`reads what Kopia wrote with ${name}`, async () => {
      const stored = Buffer.from(VECTORS[name]!, "hex");
      expect(await decompressContent(id, stored, PLAINTEXT.length)).to.deep.equal(PLAINTEXT);
    });

    it(`gives out exactly the length of the index, or nothing (${name})`, async () => {
      const stored = Buffer.from(VECTORS[name]!, "hex");
      for (const length of [0, 1, PLAINTEXT.length - 1, PLAINTEXT.length + 1, 2 ** 28 - 1]) {
        await expectDamage(decompressContent(id, stored, length));
      }
    });

    it(`refuses another header than that of the index (${name})`, async () => {
      const stored = Buffer.from(VECTORS[name]!, "hex");
      stored.writeUInt32BE(id ^ 1, 0);
      await expectDamage(decompressContent(id, stored, PLAINTEXT.length));
      await expectDamage(decompressContent(id, stored.subarray(0, 3), PLAINTEXT.length));
      await expectDamage(decompressContent(id, Buffer.alloc(0), PLAINTEXT.length));
    });

    it(`decodes or refuses damaged streams, never anything else (${name}, seed ${seed})`, async () => {
      const good = Buffer.from(VECTORS[name]!, "hex");
      const streams = fc.oneof(
        fc.uint8Array({ maxLength: 100 }),
        fc.nat({ max: good.length - 5 }).map((length) => good.subarray(4, 4 + length)),
        fc.nat({ max: 8 * (good.length - 4) - 1 }).map((bit) => {
          const flipped = Buffer.from(good.subarray(4));
          flipped[bit >> 3]! ^= 1 << (bit & 7);
          return flipped;
        }),
      );
      await fc.assert(
        fc.asyncProperty(streams, async (stream) => {
          try {
            const stored = Buffer.concat([good.subarray(0, 4), stream]);
            expect(await decompressContent(id, stored, PLAINTEXT.length)).to.have.length(PLAINTEXT.length);
          } catch (error) {
            expect(error).to.be.instanceOf(BlockmoverError).with.property("code", "DATA_LOSS");
          }
        }),
        { seed, numRuns: 300 },
      );
    });
  }

  it("takes ID 0 for the plaintext itself", async () => {
    expect(await decompressContent(0, PLAINTEXT, PLAINTEXT.length)).to.deep.equal(PLAINTEXT);
    expect(await decompressContent(0, Buffer.alloc(0), 0)).to.have.length(0);
    await expectDamage(decompressContent(0, PLAINTEXT, PLAINTEXT.length - 1));
  });

  it("refuses an unknown ID and an impossible length", async () => {
    await expectDamage(decompressContent(0x1600, PLAINTEXT, 5));
    for (const length of [-1, 0.5, NaN, 2 ** 28]) {
      await expectDamage(decompressContent(0, PLAINTEXT, length));
    }
  });

  it("takes no more memory than the index says, whatever the stream holds", async () => {
    const bomb = Buffer.concat([Buffer.from("00001000", "hex"), gzipSync(Buffer.alloc(64 << 20))]);
    const before = process.memoryUsage().arrayBuffers;
    await expectDamage(decompressContent(0x1000, bomb, 1000));
    expect(process.memoryUsage().arrayBuffers - before).to.be.below(8 << 20);
  });

  it("does not mistake neighbours in a buffer for its own bytes", async () => {
    const stored = Buffer.from(VECTORS["gzip"]!, "hex");
    const around = Buffer.concat([Buffer.alloc(7, 1), stored, Buffer.alloc(9, 2)]);
    const view = new Uint8Array(around.buffer, around.byteOffset + 7, stored.length);
    expect(await decompressContent(0x1000, view, PLAINTEXT.length)).to.deep.equal(PLAINTEXT);
  });
});

describe("compressContent", () => {
  const compressible = Buffer.from("All happy families are alike; ".repeat(40_000));

  for (const name of writableCompressionNames) {
    it(`writes what reads back, on a thread and here (${name})`, async () => {
      for (const { headerId, stored } of [
        await compressContent(name, compressible),
        compressContentSync(name, compressible),
      ]) {
        expect(headerId).to.equal(compressionByName(name)?.id ?? 0);
        expect(await decompressContent(headerId, stored, compressible.length)).to.deep.equal(compressible);
        if (headerId !== 0) expect(stored.length).to.be.below(compressible.length / 10);
      }
    });

    it(`keeps the plaintext where nothing is gained (${name})`, async () => {
      for (const plaintext of [Buffer.alloc(0), Buffer.from("a"), Buffer.from("abcdefgh")]) {
        const raw = { headerId: 0, stored: plaintext };
        expect(await compressContent(name, plaintext)).to.deep.equal(raw);
        expect(compressContentSync(name, plaintext)).to.deep.equal(raw);
      }
    });
  }

  it("is one stream of the family behind four bytes of ID", async () => {
    const deflated = await compressContent("deflate-best-speed", compressible);
    expect(Buffer.from(deflated.stored).readUInt32BE(0)).to.equal(0x1501);
    expect(inflateRawSync(deflated.stored.subarray(4))).to.deep.equal(compressible);
    const gzipped = await compressContent("pgzip", compressible);
    expect(Buffer.from(gzipped.stored).readUInt32BE(0)).to.equal(0x1300);
    expect(gunzipSync(gzipped.stored.subarray(4))).to.deep.equal(compressible);
    const frame = await compressContent("zstd-fastest", compressible);
    expect(Buffer.from(frame.stored).readUInt32BE(0)).to.equal(0x1101);
    expect(decompress("zstd", frame.stored.subarray(4), compressible.length)).to.deep.equal(compressible);
  });

  it("gains only when the header is counted too", () => {
    // The shortest runs that deflate makes smaller: find where it starts, and check both sides of it.
    for (let length = 1; length < 60; length++) {
      const plaintext = Buffer.alloc(length, 7);
      const { headerId, stored } = compressContentSync("deflate-default", plaintext);
      if (headerId === 0) {
        expect(stored).to.equal(plaintext);
      } else {
        expect(stored.length).to.be.below(length);
      }
    }
    expect(compressContentSync("deflate-default", Buffer.alloc(8, 7)).headerId).to.equal(0);
    expect(compressContentSync("deflate-default", Buffer.alloc(59, 7)).headerId).to.equal(0x1500);
  });

  it("refuses what can only be read", async () => {
    const error: unknown = await compressContent("s2-default", compressible).catch((thrown: unknown) => thrown);
    expect(error).to.be.instanceOf(BlockmoverError).with.property("code", "UNIMPLEMENTED");
    expect(() => compressContentSync("lz4", compressible)).to.throw(BlockmoverError, "lz4");
  });

  for (const name of ["zstd-fastest", "gzip", "deflate-best-speed"]) {
    it(`survives the way there and back, never longer than it was (${name}, seed ${seed})`, async () => {
      const repetitive = fc
        .tuple(fc.uint8Array({ minLength: 1, maxLength: 20 }), fc.nat({ max: 200 }))
        .map(([piece, count]) => Buffer.concat(Array.from({ length: count }, () => piece)));
      await fc.assert(
        fc.asyncProperty(fc.oneof(fc.uint8Array({ maxLength: 2000 }), repetitive), async (plaintext) => {
          const { headerId, stored } = await compressContent(name, plaintext);
          expect(stored.length).to.be.at.most(plaintext.length);
          expect(await decompressContent(headerId, stored, plaintext.length)).to.deep.equal(Buffer.from(plaintext));
        }),
        { seed },
      );
    });
  }
});

async function expectDamage(promise: Promise<unknown>): Promise<void> {
  const error: unknown = await promise.then(
    () => expect.fail("it resolved"),
    (thrown: unknown) => thrown,
  );
  expect(error).to.be.instanceOf(BlockmoverError).with.property("code", "DATA_LOSS");
}
