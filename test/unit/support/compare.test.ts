import { writeFile } from "node:fs/promises";

import { expect } from "chai";

import { assertSameBytes, firstDifference, isZeroRange } from "../../support/compare.js";
import { Random } from "../../support/random-data.js";
import { MiB } from "../../support/sizes.js";
import { useTempDir } from "../../support/temp-dir.js";

describe("firstDifference", () => {
  const temp = useTempDir();
  const content = new Random(1).bytes(9 * MiB + 5);

  /** The first difference of `content` and `other`. */
  async function differenceTo(other: Buffer, lengthBytes?: number) {
    await writeFile(temp.file("left"), content);
    await writeFile(temp.file("right"), other);
    return firstDifference(temp.file("left"), temp.file("right"), { lengthBytes });
  }

  it("finds none between equal files", async () => {
    expect(await differenceTo(content)).to.equal(undefined);
  });

  it("finds a single byte, first, inner and last", async () => {
    for (const offsetBytes of [0, 4 * MiB, 5 * MiB + 1, content.length - 1]) {
      const other = Buffer.from(content);
      other[offsetBytes] = other[offsetBytes]! ^ 1;
      expect(await differenceTo(other)).to.include({ kind: "byte", offsetBytes });
    }
  });

  it("finds that one is longer, at a block boundary too", async () => {
    for (const rightBytes of [content.length - 1, 8 * MiB, 0]) {
      const expected = { kind: "length", leftBytes: Math.min(content.length, rightBytes + 4 * MiB), rightBytes };
      expect(await differenceTo(content.subarray(0, rightBytes))).to.deep.equal(expected);
    }
  });

  it("ignores what lies behind the given length, and misses nothing before it", async () => {
    const longer = Buffer.concat([content, Buffer.from("x")]);
    expect(await differenceTo(longer, content.length)).to.equal(undefined);
    expect(await differenceTo(content.subarray(0, 100), 101)).to.include({ kind: "length", rightBytes: 100 });
  });

  it("says where in words", async () => {
    const other = Buffer.from(content);
    other[MiB + 7] = other[MiB + 7]! ^ 1;
    await differenceTo(other);
    const error = await assertSameBytes(temp.file("left"), temp.file("right")).catch(String);
    expect(error).to.contain("byte 1048583 (chunk 1 + 7)");
  });
});

describe("isZeroRange", () => {
  const temp = useTempDir();

  it("wants every byte to be there and zero", async () => {
    const bytes = Buffer.alloc(5 * MiB);
    bytes[4 * MiB + 1] = 1;
    await writeFile(temp.file("data"), bytes);
    expect(await isZeroRange(temp.file("data"), 0, 4 * MiB + 1)).to.equal(true);
    expect(await isZeroRange(temp.file("data"), 0, 4 * MiB + 2)).to.equal(false);
    expect(await isZeroRange(temp.file("data"), 4 * MiB + 2, MiB)).to.equal(false); // two bytes past the end
  });
});
