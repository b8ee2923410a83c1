import { expect } from "chai";
import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  TableDecoder,
  TableEncoder,
  type TableEntry,
} from "../../../../../services/datapath/repository/kopia/indirect-table.js";
import { Random, testSeed } from "../../../../support/random-data.js";

const MIB = 1024 * 1024;

function decode(pieces: readonly Uint8Array[]): { entries: TableEntry[]; lengthBytes: number } {
  const decoder = new TableDecoder("Itest");
  const entries = pieces.flatMap((piece) => decoder.push(piece));
  return { entries, lengthBytes: decoder.end() };
}

function decodeText(text: string): { entries: TableEntry[]; lengthBytes: number } {
  return decode([Buffer.from(text)]);
}

function damage(text: string): BlockmoverError {
  try {
    decodeText(text);
  } catch (error) {
    expect(error).to.be.instanceOf(BlockmoverError);
    expect((error as BlockmoverError).code).to.equal("DATA_LOSS");
    expect((error as BlockmoverError).message).to.contain("Itest");
    return error as BlockmoverError;
  }
  throw new Error(`accepted: ${text}`);
}

describe("TableEncoder", () => {
  it("writes Kopia's exact form: no white space, no zero start, a final newline", () => {
    const encoder = new TableEncoder(4096);
    encoder.append(MIB, "aa".repeat(16));
    encoder.append(MIB, "bb".repeat(16));
    expect(Buffer.concat(encoder.peekRest()).toString()).to.equal(
      `{"stream":"kopia:indirect","entries":[{"l":1048576,"o":"${"aa".repeat(16)}"},` +
        `{"s":1048576,"l":1048576,"o":"${"bb".repeat(16)}"}]}\n`,
    );
  });

  it("cuts pieces of exactly the size asked for, and a rest", () => {
    const encoder = new TableEncoder(1000);
    const pieces: Buffer[] = [];
    for (let i = 0; i < 100; i++) {
      const piece = encoder.append(MIB, "cd".repeat(16));
      if (piece) pieces.push(piece);
    }
    expect(pieces.map((piece) => piece.length)).to.deep.equal(pieces.map(() => 1000));
    const { entries, lengthBytes } = decode([...pieces, ...encoder.peekRest()]);
    expect(entries).to.have.length(100);
    expect(lengthBytes).to.equal(100 * MIB);
  });

  it("leaves all pieces before and after a changed entry as they were", () => {
    const piecesOf = (changed: number): string[] => {
      const encoder = new TableEncoder(1024);
      const pieces: Buffer[] = [];
      for (let i = 0; i < 500; i++) {
        const piece = encoder.append(MIB, (i === changed ? "ff" : "ab").repeat(16));
        if (piece) pieces.push(piece);
      }
      return [...pieces, ...encoder.peekRest()].map((piece) => piece.toString());
    };
    const before = piecesOf(-1);
    const after = piecesOf(250);
    const different = before.filter((piece, position) => piece !== after[position]);
    expect(different.length).to.be.within(1, 2);
  });

  it("goes on after a peek as if nothing had happened", () => {
    const run = (peek: boolean): string => {
      const encoder = new TableEncoder(512);
      const pieces: Buffer[] = [];
      for (let i = 0; i < 40; i++) {
        const piece = encoder.append(MIB, "12".repeat(16));
        if (piece) pieces.push(piece);
        if (peek) encoder.peekRest();
      }
      return Buffer.concat([...pieces, ...encoder.peekRest()]).toString();
    };
    expect(run(true)).to.equal(run(false));
  });
});

describe("TableDecoder", () => {
  const seed = testSeed();
  it(`reads what the encoder wrote, however the pieces are cut (seed ${seed})`, () => {
    const random = new Random(seed);
    for (let round = 0; round < 30; round++) {
      const encoder = new TableEncoder(random.between(256, 3000));
      const written: TableEntry[] = [];
      const pieces: Buffer[] = [];
      let offsetBytes = 0;
      for (let i = random.between(1, 120); i > 0; i--) {
        const entry = {
          offsetBytes,
          lengthBytes: random.between(1, 9 * MIB),
          objectId: (random.chance(0.2) ? "Ix" : "") + random.bytes(random.pick([16, 28, 32])).toString("hex"),
        };
        written.push(entry);
        offsetBytes += entry.lengthBytes;
        const piece = encoder.append(entry.lengthBytes, entry.objectId);
        if (piece) pieces.push(piece);
      }
      const all = Buffer.concat([...pieces, ...encoder.peekRest()]);
      const recut: Buffer[] = [];
      for (let at = 0; at < all.length;) {
        const size = random.pick([1, 7, 100, 5000]);
        recut.push(all.subarray(at, at + size));
        at += size;
      }
      expect(decode(recut)).to.deep.equal({ entries: written, lengthBytes: offsetBytes });
    }
  });

  it("reads any JSON with these members: white space, other order, other members, escapes", () => {
    const { entries, lengthBytes } = decodeText(
      ' {\n "stream": "kopia:indirect", "entries" : [ { "o" : "x\\u0061b", "x": "}]{", "l": 10 } ,\n{"l":5,"s":10,"o":"cd"} ] }',
    );
    expect(entries).to.deep.equal([
      { offsetBytes: 0, lengthBytes: 10, objectId: "xab" },
      { offsetBytes: 10, lengthBytes: 5, objectId: "cd" },
    ]);
    expect(lengthBytes).to.equal(15);
  });

  const head = '{"stream":"kopia:indirect","entries":[';
  for (const [what, text] of [
    ["a gap", `${head}{"l":10,"o":"ab"},{"s":11,"l":5,"o":"cd"}]}\n`],
    ["an overlap", `${head}{"l":10,"o":"ab"},{"s":9,"l":5,"o":"cd"}]}\n`],
    ["a start that is not 0", `${head}{"s":1,"l":10,"o":"ab"}]}\n`],
    ["an entry without length", `${head}{"o":"ab"}]}\n`],
    ["an entry without object", `${head}{"l":10}]}\n`],
    ["an empty object id", `${head}{"l":10,"o":""}]}\n`],
    ["no entries", `${head}]}\n`],
    ["an early end", `${head}{"l":10,"o":"ab"},{"s":10,"l":5,`],
    ["nothing", ""],
    ["something else", '{"stream":"kopia:directory"}\n'],
    ["a fraction", `${head}{"l":1.5,"o":"ab"}]}\n`],
    ["a number that is too large", `${head}{"l":99999999999999999999,"o":"ab"}]}\n`],
    ["rubbish between entries", `${head}{"l":10,"o":"ab"}x{"s":10,"l":5,"o":"cd"}]}\n`],
    ["an endless entry", `${head}{"l":10,"o":"${"a".repeat(100_000)}`],
  ] as const) {
    it(`refuses a table with ${what}`, () => {
      damage(text);
    });
  }

  it(`throws nothing but DATA_LOSS for flipped bits (seed ${seed})`, () => {
    const random = new Random(seed).fork("flips");
    const encoder = new TableEncoder(4096);
    for (let i = 0; i < 20; i++) encoder.append(MIB, random.bytes(16).toString("hex"));
    const good = Buffer.concat(encoder.peekRest());
    for (let round = 0; round < 500; round++) {
      const bad = Buffer.from(good);
      const at = random.below(bad.length);
      bad[at] = (bad[at] as number) ^ (1 << random.below(8));
      try {
        decode([bad]);
      } catch (error) {
        expect(error).to.be.instanceOf(BlockmoverError);
        expect((error as BlockmoverError).code).to.equal("DATA_LOSS");
      }
    }
  });
});
