import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import { contentIdKey } from "../../../../../services/datapath/repository/kopia/content-id.js";
import { openIndex } from "../../../../../services/datapath/repository/kopia/open-index.js";
import {
  damagedVersionsOf,
  entriesOf,
  expectCleanFailure,
  seed,
  VECTOR_ENTRIES,
  VECTOR_V1,
  VECTOR_V2,
  VECTOR_V2_LONG,
} from "./index-fixtures.js";

const OPTIONS = { overheadBytes: 28, name: "xn0_abc" };

describe("openIndex", () => {
  it("opens either version", () => {
    expect(openIndex(VECTOR_V2, OPTIONS).entryCount).to.equal(3);
    expect(openIndex(VECTOR_V1, OPTIONS).entryCount).to.equal(3);
  });

  it("names the index that it cannot read", () => {
    expect(() => openIndex(Buffer.from([3, 0, 0]), OPTIONS))
      .to.throw(BlockmoverError, "index xn0_abc: damaged: unknown version 3")
      .with.property("code", "DATA_LOSS");
    expect(() => openIndex(Buffer.alloc(0), OPTIONS)).to.throw(BlockmoverError, "it is empty");
  });

  const damaged = fc.oneof(
    ...[VECTOR_V1, VECTOR_V2, VECTOR_V2_LONG].map(damagedVersionsOf),
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  );

  it(`fails as DATA_LOSS on damaged bytes, or reads what is left (SEED=${seed})`, () => {
    fc.assert(
      fc.property(damaged, (bytes) => {
        expectCleanFailure(() => {
          const reader = openIndex(bytes, OPTIONS);
          for (const { contentId } of VECTOR_ENTRIES) {
            reader.find(contentIdKey(contentId));
          }
          entriesOf(reader);
        });
      }),
      { seed, numRuns: 3000 },
    );
  });

  it("looks at nothing outside of the given bytes", () => {
    const memory = Buffer.alloc(VECTOR_V2.length + 100, 0xff);
    VECTOR_V2.copy(memory, 50);
    const view = memory.subarray(50, 50 + VECTOR_V2.length);
    expect(entriesOf(openIndex(view, OPTIONS))).to.deep.equal(VECTOR_ENTRIES);
    expect(() => openIndex(view.subarray(0, view.length - 1), OPTIONS)).to.throw(BlockmoverError);
  });
});
