import { expect } from "chai";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import { contentIdKey } from "../../../../../services/datapath/repository/kopia/content-id.js";
import { openIndexV1 } from "../../../../../services/datapath/repository/kopia/index-v1.js";
import { entriesOf, VECTOR_ENTRIES, VECTOR_V1 } from "./index-fixtures.js";

const OVERHEAD_BYTES = 28;
const open = (bytes: Uint8Array) => openIndexV1(bytes, { name: "index test", overheadBytes: OVERHEAD_BYTES });

describe("openIndexV1", () => {
  it("reads what Kopia wrote; plaintexts are as long as the packed bytes less the encryption's", () => {
    expect(entriesOf(open(VECTOR_V1))).to.deep.equal(
      VECTOR_ENTRIES.map((entry) => ({
        ...entry,
        compressionHeaderId: 0,
        originalLength: entry.packedLength - OVERHEAD_BYTES,
      })),
    );
  });

  it("finds each content, and none that is not there", () => {
    const reader = open(VECTOR_V1);
    VECTOR_ENTRIES.forEach(({ contentId }, position) => {
      expect(reader.find(contentIdKey(contentId))).to.equal(position);
    });
    const absent = contentIdKey(VECTOR_ENTRIES[0]!.contentId);
    absent[16] = 0;
    expect(reader.find(absent)).to.equal(-1);
  });

  it("tells names apart that begin at the same place", () => {
    const bytes = Buffer.from(VECTOR_V1);
    bytes.writeUInt8(5, 8 + 37 + 17 + 7);
    const reader = open(bytes);
    expect(reader.packBlobIdAt(0)).to.equal(VECTOR_ENTRIES[0]!.packBlobId);
    expect(reader.packBlobIdAt(1)).to.equal("p0000");
  });

  it("reads times beyond 32 bits", () => {
    const bytes = Buffer.from(VECTOR_V1);
    bytes.writeUIntBE(2 ** 40, 8 + 17, 6);
    expect(open(bytes).timestampSecondsAt(0)).to.equal(2 ** 40);
  });

  it("reads an index without entries", () => {
    expect(open(Buffer.from("01ff001400000000", "hex")).entryCount).to.equal(0);
  });

  const damages: [string, number, string][] = [
    ["another version", 0, "02"],
    ["key size 1", 1, "01"],
    ["entry size 19", 2, "0013"],
    ["more entries than bytes", 4, "00000010"],
  ];
  for (const [damage, offset, hex] of damages) {
    it(`refuses ${damage}`, () => {
      const bytes = Buffer.from(VECTOR_V1);
      bytes.write(hex, offset, "hex");
      expect(() => open(bytes))
        .to.throw(BlockmoverError, "index test: damaged")
        .with.property("code", "DATA_LOSS");
    });
  }

  const entryDamages: [string, number, string][] = [
    ["a pack name beyond the end", 8 + 17 + 8, "000000ff"],
    ["no pack name", 8 + 17 + 7, "00"],
    ["fewer bytes than encryption adds", 8 + 17 + 16, "0000001b"],
  ];
  for (const [damage, offset, hex] of entryDamages) {
    it(`opens an index with ${damage}, and refuses that entry only`, () => {
      const bytes = Buffer.from(VECTOR_V1);
      bytes.write(hex, offset, "hex");
      const reader = open(bytes);
      expect(() => reader.entryAt(0))
        .to.throw(BlockmoverError)
        .with.property("code", "DATA_LOSS");
      expect(reader.entryAt(1).contentId).to.equal(VECTOR_ENTRIES[1]!.contentId);
    });
  }
});
