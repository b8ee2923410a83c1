import { expect } from "chai";
import fc from "fast-check";

import {
  chooseIndexBlobs,
  epochMarkerName,
  epochState,
  firstCompleteSet,
  indexBlobSuffix,
  parseEpochBlobName,
  uncompactedPrefix,
  uncompactedPrefixes,
  watermarkName,
  type EpochBlobName,
  type NamedBlob,
} from "../../../../../services/datapath/repository/kopia/epoch.js";
import { seed } from "./index-fixtures.js";

const blobs = (...ids: string[]): NamedBlob[] => ids.map((id) => ({ id }));
const idsOf = (list: readonly NamedBlob[] | undefined) => list?.map(({ id }) => id);

/** Everything that a reader would do with a storage of these blobs: list, decide, list, decide. */
function chosen(stored: readonly string[]): string[] {
  const list = (prefix: string) => blobs(...stored.filter((id) => id.startsWith(prefix)));
  const state = epochState({
    epochMarkers: list("xe"),
    watermarks: list("xw"),
    single: list("xs"),
    ranges: list("xr"),
  });
  return chooseIndexBlobs(state, uncompactedPrefixes(state).flatMap(list))
    .map(({ id }) => id)
    .sort();
}

function stateOf(fields: Partial<Record<"epochMarkers" | "watermarks" | "single" | "ranges", string[]>>) {
  return epochState({
    epochMarkers: blobs(...(fields.epochMarkers ?? [])),
    watermarks: blobs(...(fields.watermarks ?? [])),
    single: blobs(...(fields.single ?? [])),
    ranges: blobs(...(fields.ranges ?? [])),
  });
}

describe("names of index blobs", () => {
  const names: [string, EpochBlobName | undefined][] = [
    ["xe12", { kind: "epoch-marker", epoch: 12 }],
    ["xw1700000000", { kind: "watermark", seconds: 1700000000 }],
    ["xn0_3d66-sb2b5-c1", { kind: "uncompacted", epoch: 0 }],
    ["xs7_3d66-sb2b5-c2", { kind: "single", epoch: 7 }],
    ["xr0_10_3d66-sb2b5-c1", { kind: "range", firstEpoch: 0, lastEpoch: 10 }],
    ["xr0_10", undefined],
    ["xe", undefined],
    ["xe-1", undefined],
    ["xe99999999999999999999", undefined],
    ["xnabc_", undefined],
    ["xwsoon", undefined],
    ["n0_abc", undefined],
  ];
  for (const [name, expected] of names) {
    it(`${name} is ${expected === undefined ? "none" : JSON.stringify(expected)}`, () => {
      expect(parseEpochBlobName(name)).to.deep.equal(expected);
    });
  }

  it("parse as what they were built from", () => {
    expect(parseEpochBlobName(epochMarkerName(3))).to.deep.equal({ kind: "epoch-marker", epoch: 3 });
    expect(parseEpochBlobName(watermarkName(3))).to.deep.equal({ kind: "watermark", seconds: 3 });
    const name = `${uncompactedPrefix(3)}abc-${indexBlobSuffix("s01", 1)}`;
    expect(name).to.equal("xn3_abc-s01-c1");
    expect(parseEpochBlobName(name)).to.deep.equal({ kind: "uncompacted", epoch: 3 });
  });
});

describe("firstCompleteSet", () => {
  // Kopia internal/completeset/complete_set_test.go
  const cases: [string[], string[] | undefined][] = [
    [[], undefined],
    [
      ["a-s0-c2", "b-s0-c2"],
      ["a-s0-c2", "b-s0-c2"],
    ],
    [["a-s0-c2", "malformed", "b-s0-c2"], ["malformed"]],
    [["foo-s0-c3", "bar-s0-c3"], undefined],
    [
      ["foo-s0-c2", "aaa-s1-c2", "bar-s0-c2", "bbb-s1-c2"],
      ["foo-s0-c2", "bar-s0-c2"],
    ],
    [["a-s0-c2", "a-s0-c2"], undefined],
    [["a-s0-cx"], ["a-s0-cx"]],
    [["a-s0-c0"], undefined],
  ];
  for (const [given, expected] of cases) {
    it(`of [${given.join(", ")}] is ${expected?.join(", ") ?? "none"}`, () => {
      expect(idsOf(firstCompleteSet(blobs(...given)))).to.deep.equal(expected);
    });
  }
});

describe("epochState", () => {
  it("is epoch 0 without watermark in an empty repository", () => {
    const state = stateOf({});
    expect(state.writeEpoch).to.equal(0);
    expect(state.watermarkSeconds).to.equal(0);
    expect(state.ranges).to.deep.equal([]);
  });

  it("takes the largest epoch as a number, even if lower markers are gone", () => {
    expect(stateOf({ epochMarkers: ["xe9", "xe10", "xe-junk"] }).writeEpoch).to.equal(10);
  });

  it("takes the latest watermark and ignores what does not parse", () => {
    expect(stateOf({ watermarks: ["xw900", "xw1000", "xwx"] }).watermarkSeconds).to.equal(1000);
  });

  it("keeps complete compactions only", () => {
    const state = stateOf({ single: ["xs1_a-s1-c1", "xs2_a-s2-c2", "xs3_a-s3-c2", "xs3_b-s3-c2"] });
    expect([...state.single.keys()].sort()).to.deep.equal([1, 3]);
    expect(idsOf(state.single.get(3))).to.deep.equal(["xs3_a-s3-c2", "xs3_b-s3-c2"]);
  });

  const chains: [string, string[], string[]][] = [
    ["adjacent ranges", ["0_2", "3_5"], ["0_2", "3_5"]],
    ["ranges in any order", ["3_5", "6_8", "0_2"], ["0_2", "3_5", "6_8"]],
    ["nothing that does not begin at 0", ["1_5"], []],
    ["nothing after a gap", ["0_2", "4_9"], ["0_2"]],
    ["the chain that reaches highest", ["0_5", "0_2", "3_9"], ["0_2", "3_9"]],
    ["the fewest ranges of equal reach", ["0_2", "3_5", "0_5"], ["0_5"]],
    ["no range that ends before it begins", ["0_2", "3_1"], ["0_2"]],
    ["a range of one epoch", ["0_0", "1_4"], ["0_0", "1_4"]],
  ];
  for (const [what, ranges, expected] of chains) {
    it(`chains ${what}`, () => {
      const state = stateOf({ epochMarkers: ["xe20"], ranges: ranges.map((range) => `xr${range}_a-s${range}-c1`) });
      expect(state.ranges.map(({ firstEpoch, lastEpoch }) => `${firstEpoch}_${lastEpoch}`)).to.deep.equal(expected);
    });
  }

  it("takes the complete one of two compactions of a range", () => {
    const state = stateOf({ ranges: ["xr0_2_a-s1-c2", "xr0_2_b-s2-c2", "xr0_2_c-s2-c2"] });
    expect(idsOf(state.ranges[0]?.blobs)).to.deep.equal(["xr0_2_b-s2-c2", "xr0_2_c-s2-c2"]);
  });
});

describe("chooseIndexBlobs", () => {
  it("takes all blobs of epochs 0 and 1 in a young repository, complete sets or not", () => {
    expect(chosen(["xn0_a-s1-c1", "xn0_b-s2-c2", "xn1_c-s3-c1"])).to.deep.equal([
      "xn0_a-s1-c1",
      "xn0_b-s2-c2",
      "xn1_c-s3-c1",
    ]);
  });

  it("takes a compaction in place of a settled epoch", () => {
    expect(chosen(["xe2", "xs0_a-s1-c1", "xn0_b-s2-c1", "xn1_c-s3-c1"])).to.deep.equal(["xn1_c-s3-c1", "xs0_a-s1-c1"]);
  });

  it("reads the last epochs uncompacted even if they have been compacted", () => {
    expect(chosen(["xe2", "xs1_a-s1-c1", "xn1_c-s3-c1", "xn3_d-s4-c1"])).to.deep.equal(["xn1_c-s3-c1", "xn3_d-s4-c1"]);
  });

  it("does not take an incomplete compaction", () => {
    expect(chosen(["xe2", "xs0_a-s1-c2", "xn0_b-s2-c1"])).to.deep.equal(["xn0_b-s2-c1"]);
  });

  it("takes ranges, and nothing below their end", () => {
    const stored = ["xe6", "xr0_3_r-s1-c1", "xs2_a-s2-c1", "xn3_b-s3-c1", "xn4_c-s4-c1", "xn5_d-s5-c1"];
    expect(chosen(stored)).to.deep.equal(["xn4_c-s4-c1", "xn5_d-s5-c1", "xr0_3_r-s1-c1"]);
  });

  it("reads unsettled epochs even if a range claims to hold them", () => {
    expect(chosen(["xe4", "xr0_9_r-s1-c1", "xn3_b-s3-c1", "xn2_a-s2-c1"])).to.deep.equal([
      "xn3_b-s3-c1",
      "xr0_9_r-s1-c1",
    ]);
  });

  it("does not take epoch 10 for epoch 1", () => {
    const state = stateOf({});
    expect(uncompactedPrefixes(state)).to.deep.equal(["xn0_", "xn1_"]);
    expect(chooseIndexBlobs(state, blobs("xn1_a-s1-c1", "xn10_b-s2-c1"))).to.deep.equal(blobs("xn1_a-s1-c1"));
  });

  it("lists all epochs at once rather than each of very many", () => {
    expect(uncompactedPrefixes(stateOf({ epochMarkers: ["xe999999999999999"] }))).to.deep.equal(["xn"]);
    expect(chosen(["xe999999999999999", "xn5_a-s1-c1"])).to.deep.equal(["xn5_a-s1-c1"]);
  });

  it("counts a blob once that two listings show", () => {
    expect(chooseIndexBlobs(stateOf({}), blobs("xn0_a-s1-c1", "xn0_a-s1-c1"))).to.have.length(1);
  });

  it(`always covers every epoch up to one after the current (SEED=${seed})`, () => {
    const epochs = fc.nat(12);
    const arbitraryBlobs = fc.array(
      fc.oneof(
        epochs.map((epoch) => `xs${epoch}_a-s${epoch}-c1`),
        fc.tuple(epochs, epochs).map(([first, last]) => `xr${first}_${last}_a-s${first}x${last}-c1`),
      ),
      { maxLength: 25 },
    );
    fc.assert(
      fc.property(epochs, arbitraryBlobs, (writeEpoch, compacted) => {
        const written = Array.from({ length: writeEpoch + 2 }, (_, epoch) => `xn${epoch}_a-s1-c1`);
        const covered = new Set<number>();
        for (const id of chosen([...new Set([`xe${writeEpoch}`, ...compacted, ...written])])) {
          const name = parseEpochBlobName(id)!;
          const [first, last] =
            name.kind === "range"
              ? [name.firstEpoch, name.lastEpoch]
              : name.kind === "watermark"
                ? [0, -1]
                : [name.epoch, name.epoch];
          for (let epoch = first; epoch <= last; epoch++) {
            covered.add(epoch);
          }
        }
        for (let epoch = 0; epoch <= writeEpoch + 1; epoch++) {
          expect(covered.has(epoch), `epoch ${epoch}`).to.equal(true);
        }
      }),
      { seed, numRuns: 500 },
    );
  });
});
