import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import { expect } from "chai";
import { describe, it } from "mocha";

import {
  NativeError,
  decompress,
  hasZstd,
  zstdCompress,
  zstdCompressMany,
  type StreamCompression,
} from "../../../native/index.js";
import { Random, testSeed } from "../../support/random-data.js";
import { MiB } from "../../support/sizes.js";

const seed = testSeed();

interface Golden {
  readonly name: string;
  readonly kind: StreamCompression;
  readonly length: number;
  readonly sha256: string;
  readonly stream: string;
}
/** Written by the libraries that Kopia uses; see golden/generate/main.go. */
const golden = JSON.parse(readFileSync(new URL("golden/streams.json", import.meta.url), "utf8")) as Golden[];

/** kopia-format.md A.8: stored bytes without their header; the plaintext is `abcd` 64 times. */
const kopia: [string, StreamCompression, string][] = [
  ["zstd", "zstd", "28b52ffd440000006500002061626364015404022bf90348981d56"],
  ["s2-default", "s2", "ff06000053327354774f001000008c0c07d880020c6162636411041500ec"],
  ["lz4", "lz4", "04224d186470b9180000004f616263640400d900ec00c061626364616263646162636400000000a416db1b"],
];
const abcd = "abcd".repeat(64);

describe("decompress", () => {
  for (const [name, kind, stream] of kopia) {
    it(`reads Kopia's ${name} (appendix A.8)`, () => {
      expect(decompress(kind, Buffer.from(stream, "hex"), 256).toString()).to.equal(abcd);
      expect(decompress(kind, Buffer.from(stream, "hex"), 10_000).toString()).to.equal(abcd);
    });
  }

  for (const { name, kind, length, sha256, stream } of golden) {
    it(`reads ${kind}: ${name}`, () => {
      const data = Buffer.from(stream, "base64");
      // klauspost/compress writes nothing for an empty zstd stream: no frame, so no stream.
      if (data.length === 0) return expect(() => decompress(kind, data, 10)).to.throw(NativeError, "cut off");
      const plaintext = decompress(kind, data, length);
      expect(createHash("sha256").update(plaintext).digest("hex")).to.equal(sha256);
      if (length > 0) expect(() => decompress(kind, data, length - 1)).to.throw(NativeError, "bytes come out");
    });
  }

  for (const kind of ["zstd", "lz4", "s2"] as const) {
    it(`notices that a ${kind} stream is cut off, at every byte`, () => {
      const stream = Buffer.from(kopia.find((row) => row[1] === kind)?.[2] ?? "", "hex");
      // After the identifier chunk an S2 stream may end: it is empty then.
      for (let length = 0; length < stream.length; length++) {
        if (kind === "s2" && length === 10) continue;
        expect(() => decompress(kind, stream.subarray(0, length), 256), `${length} bytes`)
          .to.throw(NativeError)
          .with.property("errno", "EBADMSG");
      }
    });

    it(`survives damaged ${kind} streams and never returns other bytes than a checksum allows [seed ${seed}]`, () => {
      const random = new Random(seed).fork(kind);
      for (const { name, length, sha256, stream } of golden.filter((each) => each.kind === kind)) {
        if (length > MiB || length < 100) continue;
        for (let round = 0; round < 100; round++) {
          const damaged = Buffer.from(stream, "base64");
          for (let changes = random.between(1, 3); changes > 0; changes--) {
            damaged[random.below(damaged.length)] = random.below(256);
          }
          let plaintext: Buffer;
          try {
            plaintext = decompress(kind, damaged, length);
          } catch (error) {
            expect(error).to.be.instanceOf(NativeError);
            continue;
          }
          // A change can hit padding or an index, or write the byte that was there.
          const same = createHash("sha256").update(plaintext).digest("hex") === sha256;
          const shortened = plaintext.length < length; // whole blocks that became skippable chunks
          expect(same || shortened, `${name}, round ${round}`).to.equal(true);
        }
      }
    });
  }

  it("refuses an S2 copy before the beginning, and a repeat without an offset", () => {
    // identifier || chunk 0x00, length || crc (wrong, but never reached) || block
    const stream = (block: string): Buffer => {
      const body = Buffer.from(`00000000${block}`, "hex");
      const header = Buffer.from([0, body.length, 0, 0]);
      return Buffer.concat([Buffer.from("ff06000053327354774f", "hex"), header, body]);
    };
    for (const block of [
      "0800610102", // literal "a", copy of 4 from 2 bytes back
      "0800610100", // literal "a", repeat of nothing
      "0500610103", // longer than its length says
      "08f0", // literal whose length is cut off
      "08fcffffffff", // literal of 4 GiB
      "0807ffffffff", // copy from 4 GiB back
      "ffffffffff01", // length of more than 32 bits
    ]) {
      expect(() => decompress("s2", stream(block), 100), block).to.throw(NativeError, "damaged");
    }
  });

  it("does not let one S2 block copy from the block before it, even under a right checksum", () => {
    const chunk = (type: number, plaintext: string, body: Buffer): Buffer => {
      const head = Buffer.alloc(8);
      head.writeUInt32LE(((body.length + 4) << 8) | type);
      head.writeUInt32LE(maskedCrc32c(Buffer.from(plaintext)), 4);
      return Buffer.concat([head, body]);
    };
    const identifier = Buffer.from("ff06000053327354774f", "hex");
    const first = chunk(1, "abcd", Buffer.from("abcd"));
    // literal "x", then a copy of 4 bytes from 1 (within the block) or 2 (the "d" before it) bytes back
    const inside = chunk(0, "xxxxx", Buffer.from("0500780101", "hex"));
    const across = chunk(0, "xdxdx", Buffer.from("0500780102", "hex"));
    expect(decompress("s2", Buffer.concat([identifier, first, inside]), 100).toString()).to.equal("abcdxxxxx");
    expect(() => decompress("s2", Buffer.concat([identifier, first, across]), 100)).to.throw(NativeError, "damaged");
  });

  it("refuses wrong arguments", () => {
    expect(() => decompress("gzip" as "zstd", Buffer.alloc(1), 1)).to.throw(RangeError, "gzip");
    expect(() => decompress("s2", Buffer.alloc(1), -1)).to.throw(RangeError, "maxBytes");
    expect(() => decompress("s2", Buffer.alloc(1), 1.5)).to.throw(RangeError, "maxBytes");
  });
});

describe("zstd compression", () => {
  const random = new Random(seed).fork("zstd");

  before(function () {
    if (!hasZstd()) this.skip();
  });

  it(`gives back what went in, at every level [seed ${seed}]`, () => {
    for (const level of [-7, -1, 1, 3, 19]) {
      for (const source of [Buffer.alloc(0), Buffer.alloc(MiB), random.bytes(5000), Buffer.from(abcd)]) {
        const frame = zstdCompress(source, level);
        expect(decompress("zstd", frame, source.length).equals(source)).to.equal(true);
      }
    }
  });

  it("writes frames with a checksum", () => {
    const frame = zstdCompress(Buffer.from(abcd), 1);
    expect(frame.readUInt32LE(0)).to.equal(0xfd2fb528);
    expect((frame[4] ?? 0) & 4, "checksum flag of the frame header").to.equal(4);
    frame[frame.length - 1] = (frame.at(-1) ?? 0) ^ 1;
    expect(() => decompress("zstd", frame, 256)).to.throw(NativeError);
  });

  it("puts the header before the frame and tells the total length", async () => {
    const items = Array.from({ length: 9 }, (_, i) => {
      const source = Buffer.from(`line ${i} of a text that repeats itself `.repeat(200 + i));
      return { source, target: Buffer.alloc(source.length), headerId: 0x1101 };
    });
    const lengths = await zstdCompressMany(items, 1);
    items.forEach(({ source, target }, i) => {
      const length = lengths[i] ?? 0;
      expect(length).to.be.within(5, source.length / 2);
      expect(target.readUInt32BE(0)).to.equal(0x1101);
      expect(decompress("zstd", target.subarray(4, length), source.length).equals(source)).to.equal(true);
    });
  });

  it("says 0 where nothing is gained", async () => {
    const sources = [0, 1, 4, 5, 6, 100, MiB].map((length) => random.bytes(length));
    const items = sources.map((source) => ({ source, target: Buffer.alloc(source.length), headerId: 1 }));
    expect(await zstdCompressMany(items, 3)).to.deep.equal(sources.map(() => 0));
  });

  it("compresses exactly where that gains, give or take the few bytes of room that zstd wants", async () => {
    for (let zeros = 0; zeros < 200; zeros++) {
      const source = Buffer.concat([random.bytes(40), Buffer.alloc(zeros)]);
      const [length] = await zstdCompressMany([{ source, target: Buffer.alloc(source.length), headerId: 1 }], 1);
      const exact = zstdCompress(source, 1).length + 4;
      const gain = source.length - exact;
      const expected = gain <= 0 ? [0] : gain < 16 ? [0, exact] : [exact];
      expect(length, `${zeros} zeros`).to.be.oneOf(expected);
    }
  });

  it("refuses wrong arguments", () => {
    expect(() => zstdCompress(Buffer.alloc(1), 20)).to.throw(RangeError, "level");
    expect(() => zstdCompressMany([{ source: Buffer.alloc(9), target: Buffer.alloc(8), headerId: 1 }], 1)).to.throw(
      RangeError,
      "target",
    );
  });
});

/** The checksum of the Snappy framing format, bit by bit. */
function maskedCrc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  crc = ~crc;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}
