import { expect } from "chai";
import { describe, it } from "mocha";

import { allocateAligned, isZero } from "../../../native/index.js";
import { MiB } from "../../support/sizes.js";

describe("isZero", () => {
  it("is true for zeros of every length and alignment", () => {
    const zeros = Buffer.alloc(700);
    for (let start = 0; start < 9; start++) {
      for (let length = 0; length < 650; length++) {
        expect(isZero(zeros.subarray(start, start + length))).to.equal(true);
      }
    }
    expect(isZero(allocateAligned(8 * MiB))).to.equal(true);
  });

  it("sees a single byte wherever it is, and nothing outside", () => {
    const data = Buffer.alloc(600, 0xff).fill(0, 50, 550);
    expect(isZero(data.subarray(50, 550))).to.equal(true);
    for (let at = 50; at < 550; at++) {
      data[at] = 1;
      expect(isZero(data.subarray(50, 550)), `byte ${at}`).to.equal(false);
      data[at] = 0;
    }
  });
});

describe("allocateAligned", () => {
  it("gives zeroed buffers of the size that was asked for", () => {
    for (const sizeBytes of [0, 1, 4095, 4096, MiB + 1]) {
      const buffer = allocateAligned(sizeBytes);
      expect(buffer).to.be.instanceOf(Buffer).with.lengthOf(sizeBytes);
      expect(isZero(buffer)).to.equal(true);
      buffer.fill(7);
    }
  });

  it("takes no memory until it is written", () => {
    const before = process.memoryUsage.rss();
    const buffers = Array.from({ length: 8 }, () => allocateAligned(64 * MiB));
    expect(process.memoryUsage.rss() - before).to.be.lessThan(64 * MiB);
    expect(buffers).to.have.lengthOf(8);
  });

  it("refuses sizes that are none", () => {
    for (const size of [-1, 1.5, NaN, 2 ** 33]) expect(() => allocateAligned(size)).to.throw(RangeError, "sizeBytes");
  });
});
