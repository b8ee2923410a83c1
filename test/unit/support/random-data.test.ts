import { expect } from "chai";

import { Random } from "../../support/random-data.js";

describe("Random", () => {
  it("gives the same bytes for the same seed, whatever the sizes asked for", () => {
    expect(new Random(7).bytes(200_000).equals(new Random(7).bytes(200_000))).to.equal(true);
    expect(new Random(7).bytes(1000).equals(new Random(7).bytes(200_000).subarray(0, 1000))).to.equal(true);
  });

  it("gives other bytes for another seed and for another fork", () => {
    const bytes = [
      new Random(1),
      new Random(2),
      new Random(1).fork("a"),
      new Random(1).fork("b"),
      new Random(1 + 2 ** 33),
    ];
    expect(new Set(bytes.map((random) => random.bytes(64).toString("hex"))).size).to.equal(bytes.length);
  });

  it("fills views that start anywhere and touches nothing else", () => {
    const whole = Buffer.alloc(300_003);
    new Random(3).fill(whole.subarray(1, 300_002));
    expect(whole[0]).to.equal(0);
    expect(whole.at(-1)).to.equal(0);
    expect(whole.subarray(1, 300_002).equals(new Random(3).bytes(300_001))).to.equal(true);
  });

  it("spreads bytes evenly", () => {
    const counts = new Uint32Array(256);
    for (const byte of new Random(11).bytes(1 << 20)) counts[byte] = (counts[byte] ?? 0) + 1;
    for (const count of counts) expect(count).to.be.within(3600, 4600); // 4096 expected, 8 standard deviations
  });

  it("keeps below() and between() within their bounds, both ends reached", () => {
    const random = new Random(5);
    const seen = new Set(Array.from({ length: 1000 }, () => random.between(3, 6)));
    expect([...seen].sort()).to.deep.equal([3, 4, 5, 6]);
    for (let i = 0; i < 1000; i++) expect(random.below(2 ** 45)).to.be.within(0, 2 ** 45 - 1);
  });
});
