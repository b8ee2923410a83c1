import { expect } from "chai";
import { Bitmap } from "../../../../services/datapath/cbt/bitmap.js";
import { Random, testSeed } from "../../../support/random-data.js";

const MIB = 1024 * 1024;

describe("Bitmap", () => {
  it("rounds ranges outwards to chunks", () => {
    const bitmap = new Bitmap(10 * MIB, MIB);
    bitmap.setRange(3 * MIB - 1, 2);
    expect([...bitmap.setRuns()]).to.deep.equal([{ firstChunk: 2, chunkCount: 2 }]);
  });

  it("ignores empty ranges and clips those that reach past the end", () => {
    const bitmap = new Bitmap(10 * MIB - 512, MIB);
    bitmap.setRange(4 * MIB, 0);
    bitmap.setRange(20 * MIB, MIB);
    expect(bitmap.setChunkCount).to.equal(0);
    bitmap.setRange(9 * MIB, 100 * MIB);
    expect([...bitmap.setRuns()]).to.deep.equal([{ firstChunk: 9, chunkCount: 1 }]);
    expect(bitmap.setBytes).to.equal(MIB - 512);
  });

  it("splits runs at the longest length asked for", () => {
    const bitmap = new Bitmap(20 * MIB, MIB);
    bitmap.setAll();
    expect([...bitmap.setRuns(8)].map((run) => run.chunkCount)).to.deep.equal([8, 8, 4]);
  });

  it("holds 64 TiB in 8 MiB", () => {
    const before = process.memoryUsage().arrayBuffers;
    const bitmap = new Bitmap(64 * 1024 * 1024 * MIB, MIB);
    bitmap.setRange(63 * 1024 * 1024 * MIB, 1);
    expect(process.memoryUsage().arrayBuffers - before).to.be.at.most(8 * MIB + 65_536);
    expect([...bitmap.setRuns()]).to.deep.equal([{ firstChunk: 63 * 1024 * 1024, chunkCount: 1 }]);
  });

  const seed = testSeed();
  it(`equals a plain array of booleans (seed ${seed})`, () => {
    const random = new Random(seed);
    for (let round = 0; round < 200; round++) {
      const sizeBytes = random.between(1, 300 * 4096);
      const bitmap = new Bitmap(sizeBytes, 4096);
      const plain = Array.from({ length: Math.ceil(sizeBytes / 4096) }, () => false);
      for (let i = random.below(6); i > 0; i--) {
        const offset = random.below(sizeBytes + 5000);
        const length = random.below(sizeBytes);
        bitmap.setRange(offset, length);
        for (let chunk = 0; chunk < plain.length; chunk++) {
          if (length > 0 && chunk * 4096 < offset + length && (chunk + 1) * 4096 > offset && offset < sizeBytes) {
            plain[chunk] = true;
          }
        }
      }
      const fromRuns = plain.map(() => false);
      for (const { firstChunk, chunkCount } of bitmap.setRuns(random.between(1, 40))) {
        fromRuns.fill(true, firstChunk, firstChunk + chunkCount);
      }
      expect(fromRuns).to.deep.equal(plain);
      expect(bitmap.setChunkCount).to.equal(plain.filter(Boolean).length);
    }
  });
});
