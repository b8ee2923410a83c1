import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import { parseContentId } from "../../../../../services/datapath/repository/kopia/content-id.js";
import {
  formatObjectId,
  MAX_INDIRECTION,
  NO_OBJECT,
  parseObjectId,
} from "../../../../../services/datapath/repository/kopia/object-id.js";
import { testSeed } from "../../../../support/random-data.js";

const seed = testSeed();

describe("parseObjectId", () => {
  // kopia-format.md A.9, from Kopia's own unit tests.
  const valid: readonly (readonly [string, number, boolean, string])[] = [
    ["Df0f0", 0, false, "f0f0"],
    ["IDf0f0", 1, false, "f0f0"],
    ["IIDf0f0", 2, false, "f0f0"],
    ["Dxf0f0", 0, false, "xf0f0"],
    ["IIDxf0f0", 2, false, "xf0f0"],
    ["Zf0f0", 0, true, "f0f0"],
    ["ZDf0f0", 0, true, "f0f0"],
    ["Ix4848cc5ab97a87b70abdc56db132e3b1", 1, false, "x4848cc5ab97a87b70abdc56db132e3b1"],
  ];
  for (const [text, indirection, compressed, contentId] of valid) {
    it(`reads ${text}`, () => {
      expect(parseObjectId(text)).to.deep.equal({ indirection, compressed, contentId });
    });
  }

  for (const text of ["Da", "Daf0f0", "X", "I1", "IZabcd", "Xsomething", "I", "Z", "D", "ZIf0f0", "DIf0f0", "DDf0f0"]) {
    it(`refuses ${text}`, () => {
      expect(() => parseObjectId(text))
        .to.throw(BlockmoverError, text)
        .with.property("code", "DATA_LOSS");
    });
  }

  it("takes the empty ID for no object at all", () => {
    expect(() => parseObjectId(NO_OBJECT))
      .to.throw(BlockmoverError, "empty")
      .with.property("code", "DATA_LOSS");
  });

  it("gives the code that the caller asks for", () => {
    expect(() => parseObjectId("nonsense", "INVALID_ARGUMENT"))
      .to.throw(BlockmoverError)
      .with.property("code", "INVALID_ARGUMENT");
  });

  it("refuses more levels of lists than a reader should follow", () => {
    expect(parseObjectId(`${"I".repeat(MAX_INDIRECTION)}f0`).indirection).to.equal(MAX_INDIRECTION);
    expect(() => parseObjectId(`${"I".repeat(MAX_INDIRECTION + 1)}f0`))
      .to.throw(BlockmoverError, "indirection")
      .with.property("code", "DATA_LOSS");
  });

  it(`reads or refuses any text, never anything else (seed ${seed})`, () => {
    const texts = fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom("I", "Z", "D", "x", "f", "0") }));
    fc.assert(
      fc.property(texts, (text) => {
        try {
          const written = formatObjectId(parseObjectId(text));
          const marks = /^(I*Z?)D?(.*)$/s.exec(text);
          expect(written).to.equal(`${marks?.[1] ?? ""}${marks?.[2]?.toLowerCase() ?? ""}`);
        } catch (error) {
          if (!(error instanceof BlockmoverError)) throw error;
          expect(error.code).to.equal("DATA_LOSS");
        }
      }),
      { seed, numRuns: 2000 },
    );
  });
});

describe("formatObjectId", () => {
  it("writes what Kopia writes", () => {
    const contentId = parseContentId("xf0f0");
    expect(formatObjectId({ indirection: 0, compressed: false, contentId })).to.equal("xf0f0");
    expect(formatObjectId({ indirection: 2, compressed: false, contentId })).to.equal("IIxf0f0");
    expect(formatObjectId({ indirection: 0, compressed: true, contentId })).to.equal("Zxf0f0");
  });

  it("stops on what cannot be, which is our mistake", () => {
    const contentId = parseContentId("xf0f0");
    for (const indirection of [-1, 0.5, MAX_INDIRECTION + 1, NaN]) {
      expect(() => formatObjectId({ indirection, compressed: false, contentId }))
        .to.throw(BlockmoverError)
        .with.property("code", "INTERNAL");
    }
    expect(() => formatObjectId({ indirection: 1, compressed: true, contentId }))
      .to.throw(BlockmoverError)
      .with.property("code", "INTERNAL");
  });
});
