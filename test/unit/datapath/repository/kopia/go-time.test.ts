import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  formatGoTime,
  GO_ZERO_TIME_NS,
  newNanosecondClock,
  parseGoTime,
} from "../../../../../services/datapath/repository/kopia/go-time.js";
import { seed } from "./index-fixtures.js";

describe("Go times", () => {
  const vectors: [string, bigint][] = [
    ["1970-01-01T00:00:00Z", 0n],
    ["1970-01-01T00:00:00.000000001Z", 1n],
    ["1969-12-31T23:59:59.999999999Z", -1n],
    ["2026-11-22T07:04:26.588601242Z", 1795331066588601242n],
    ["2026-11-22T07:04:26.5Z", 1795331066500000000n],
    ["2000-02-29T00:00:00Z", 951782400000000000n],
    ["0001-01-01T00:00:00Z", GO_ZERO_TIME_NS],
    ["1754-08-30T22:43:41.128654848Z", -6795364578871345152n],
    ["0000-01-01T00:00:00Z", -62167219200000000000n],
    ["9999-12-31T23:59:59.999999999Z", 253402300799999999999n],
  ];
  for (const [text, timeNs] of vectors) {
    it(`${text} is ${timeNs}, both ways`, () => {
      expect(parseGoTime(text)).to.equal(timeNs);
      expect(formatGoTime(timeNs)).to.equal(text);
    });
  }

  it("are read with any offset", () => {
    expect(parseGoTime("2022-03-22T22:45:22.159239913-07:00")).to.equal(parseGoTime("2022-03-23T05:45:22.159239913Z"));
    expect(parseGoTime("2022-03-22T05:30:00+05:30")).to.equal(parseGoTime("2022-03-22T00:00:00Z"));
  });

  it("lose decimals beyond the ninth", () => {
    expect(parseGoTime("1970-01-01T00:00:00.1234567899Z")).to.equal(123456789n);
  });

  for (const text of [
    "",
    "2026-11-22",
    "2026-11-22 07:04:26Z",
    "2026-11-22T07:04:26",
    "2026-13-01T00:00:00Z",
    "2026-02-29T00:00:00Z",
    "1900-02-29T00:00:00Z",
    "2026-01-00T00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T00:60:00Z",
    "2026-01-01T00:00:60Z",
    "2026-01-01T00:00:00.Z",
    "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00Z\n",
  ]) {
    it(`${JSON.stringify(text)} is none`, () => {
      expect(() => parseGoTime(text, "manifest x"))
        .to.throw(BlockmoverError, "manifest x")
        .with.property("code", "DATA_LOSS");
    });
  }

  it("cannot be written beyond year 9999", () => {
    expect(() => formatGoTime(253402300800000000000n))
      .to.throw(BlockmoverError)
      .with.property("code", "INTERNAL");
  });

  it(`are read as they were written, and as Date reads them (SEED=${seed})`, () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -62167219200000000000n, max: 253402300799999999999n }), (timeNs) => {
        const text = formatGoTime(timeNs);
        expect(parseGoTime(text)).to.equal(timeNs);
        const whole = ((timeNs % 1_000_000n) + 1_000_000n) % 1_000_000n;
        expect(BigInt(Date.parse(text))).to.equal((timeNs - whole) / 1_000_000n);
      }),
      { seed, numRuns: 1000 },
    );
  });
});

describe("newNanosecondClock", () => {
  it("never gives a time twice, even while its sources stand still", () => {
    const now = newNanosecondClock({ wallMs: () => 1000, monotonicNs: () => 5n });
    expect([now(), now(), now()]).to.deep.equal([1_000_000_000n, 1_000_000_001n, 1_000_000_002n]);
  });

  it("follows the monotonic clock between the ticks of the wall clock", () => {
    let monotonic = 5n;
    const now = newNanosecondClock({ wallMs: () => 1000, monotonicNs: () => monotonic });
    now();
    monotonic += 700_000n;
    expect(now()).to.equal(1_000_700_000n);
  });

  it("follows the wall clock when it is set forward", () => {
    let wall = 1000;
    const now = newNanosecondClock({ wallMs: () => wall, monotonicNs: () => 5n });
    wall = 61_000;
    expect(now()).to.equal(61_000_000_000n);
  });

  it("does not go back when the wall clock is set back", () => {
    let wall = 61_000;
    const now = newNanosecondClock({ wallMs: () => wall, monotonicNs: () => 5n });
    const before = now();
    wall = 1000;
    expect(now()).to.equal(before + 1n);
  });

  it("is near the system's time", () => {
    const difference = Number(newNanosecondClock()() / 1_000_000n) - Date.now();
    expect(Math.abs(difference)).to.be.below(100);
  });
});
