import { expect } from "chai";

import {
  DEFAULT_SPLITTER,
  fixedSplitterSizeBytes,
  isKnownSplitter,
  knownSplitterNames,
} from "../../../../../services/datapath/repository/kopia/splitter.js";

describe("splitter names", () => {
  it("are the 23 that Kopia registers", () => {
    expect(knownSplitterNames).to.have.length(23);
    expect(new Set(knownSplitterNames)).to.have.property("size", 23);
    for (const name of ["FIXED", "FIXED-128K", "FIXED-8M", "DYNAMIC", "DYNAMIC-512K-RABINKARP", DEFAULT_SPLITTER]) {
      expect(isKnownSplitter(name), name).to.be.true;
    }
  });

  it("are case-sensitive and closed", () => {
    for (const name of ["", "fixed-1m", "FIXED-1m", "FIXED-16M", "FIXED-1M ", "DYNAMIC-1M", "toString", "__proto__"]) {
      expect(isKnownSplitter(name), name).to.be.false;
      expect(fixedSplitterSizeBytes(name), name).to.be.undefined;
    }
  });

  it("tell the piece length of fixed splitters, 4 MiB for the old name", () => {
    const expected = { "128K": 131072, "256K": 262144, "512K": 524288, "1M": 1048576, "2M": 2097152, "4M": 4194304 };
    for (const [size, bytes] of Object.entries(expected)) {
      expect(fixedSplitterSizeBytes(`FIXED-${size}`)).to.equal(bytes);
    }
    expect(fixedSplitterSizeBytes("FIXED-8M")).to.equal(8388608);
    expect(fixedSplitterSizeBytes("FIXED")).to.equal(4194304);
  });

  it("tell no length of dynamic splitters", () => {
    for (const name of knownSplitterNames.filter((each) => each.startsWith("DYNAMIC"))) {
      expect(fixedSplitterSizeBytes(name), name).to.be.undefined;
    }
  });
});
