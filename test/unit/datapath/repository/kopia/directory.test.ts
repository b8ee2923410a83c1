import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  decodeDirectory,
  encodeDirectory,
  formatMode,
  parseMode,
  type Directory,
  type DirectoryEntry,
} from "../../../../../services/datapath/repository/kopia/directory.js";
import { damagedVersionsOf, expectCleanFailure, seed } from "./index-fixtures.js";

/** kopia-format.md Appendix B: a directory that Kopia wrote. */
const REAL =
  '{"stream":"kopia:directory","entries":[{"name":"/dev/blk","type":"f","mode":"0777","size":31000000,' +
  '"mtime":"2026-11-22T07:04:26.588571287Z","obj":"Ix4848cc5ab97a87b70abdc56db132e3b1"}],"summary":{"size":31000000,' +
  '"files":1,"symlinks":0,"dirs":1,"maxTime":"2026-11-22T07:04:26.588571287Z","numFailed":0}}\n';

/** As Velero's block mover writes it. */
const VELERO =
  '{"stream":"kopia:directory","entries":[{"name":"a-b","type":"f","mode":"0777","size":1048576,' +
  '"mtime":"1754-08-30T22:43:41.128654848Z","obj":"Ix4848cc5ab97a87b70abdc56db132e3b1"}],"summary":null}\n';

const FULL =
  '{"stream":"kopia:directory","entries":[{"name":"z","type":"d","mode":"0755","mtime":"2026-11-22T07:04:26Z","uid":1,' +
  '"gid":2,"obj":"k07e1e2fd115ce5240e3c6c06d11b86f2","summ":{"size":1,"files":2,"symlinks":3,"dirs":4,' +
  '"maxTime":"1970-01-01T00:00:00Z","incomplete":"canceled","numFailed":5,"numIgnoredErrors":6,' +
  '"errors":[{"path":"p","error":"e"}]}},{"name":"\\u003ca\\u003e","type":"f","obj":"fb2a5b0e3899e749ac9667a5922a3ddd"}],' +
  '"summary":null}\n';

const OBJ = "Ix4848cc5ab97a87b70abdc56db132e3b1";
const decode = (text: string) => decodeDirectory(Buffer.from(text), "k07e1");
const directoryWith = (...entries: Partial<DirectoryEntry>[]): Directory => ({
  entries: entries.map((entry) => ({ name: "a", type: "f", obj: OBJ, ...entry })),
});

describe("directories", () => {
  for (const [writer, text] of Object.entries({ Kopia: REAL, "Velero's mover": VELERO, "every field": FULL })) {
    it(`of ${writer} are read, and written to the same bytes`, () => {
      expect(encodeDirectory(decode(text)).toString()).to.equal(text);
    });
  }

  it("are written with directories first, then by the bytes of the names", () => {
    const names = ["b", "\u{1f600}", "\uffee", "a", "B"].map((name) => ({ name }));
    const encoded = encodeDirectory(directoryWith(...names, { name: "z", type: "d" }));
    expect(decode(encoded.toString()).entries.map(({ name }) => name)).to.deep.equal([
      "z",
      "B",
      "a",
      "b",
      "\uffee",
      "\u{1f600}",
    ]);
  });

  it("are written without zero sizes, ids and the time 1970", () => {
    const entry = { size: 0, uid: 0, gid: 0, mtime: "1970-01-01T00:00:00Z" };
    expect(encodeDirectory(directoryWith(entry)).toString()).to.equal(
      `{"stream":"kopia:directory","entries":[{"name":"a","type":"f","obj":"${OBJ}"}],"summary":null}\n`,
    );
  });

  it("are written with times in UTC", () => {
    const text = encodeDirectory(directoryWith({ mtime: "2022-03-22T22:45:22-07:00" })).toString();
    expect(text).to.contain('"mtime":"2022-03-23T05:45:22Z"');
  });

  const mistakes: [string, Directory][] = [
    ["two entries of one name", directoryWith({}, {})],
    ["an entry without a name", directoryWith({ name: "" })],
    ["an entry without an object", directoryWith({ obj: "" })],
    ["an object id that is none", directoryWith({ obj: "Ixyz" })],
    ["a size that is no integer", directoryWith({ size: 1.5 })],
  ];
  for (const [mistake, directory] of mistakes) {
    it(`are not written with ${mistake}`, () => {
      expect(() => encodeDirectory(directory))
        .to.throw(BlockmoverError)
        .with.property("code", "INTERNAL");
    });
  }

  const malformed: [string, string][] = [
    ["another stream", '{"stream":"kopia:indirect","entries":[]}'],
    ["a numeric mode", '{"stream":"kopia:directory","entries":[{"mode":511,"obj":"k00"}]}'],
    ["a fractional size", '{"stream":"kopia:directory","entries":[{"size":0.5,"obj":"k00"}]}'],
    ["a time that is none", '{"stream":"kopia:directory","entries":[{"mtime":"now","obj":"k00"}]}'],
    ["entries that are no list", '{"stream":"kopia:directory","entries":7}'],
    ["nothing", ""],
  ];
  for (const [what, text] of malformed) {
    it(`with ${what} are refused by name`, () => {
      expect(() => decode(text))
        .to.throw(BlockmoverError, "directory k07e1")
        .with.property("code", "DATA_LOSS");
    });
  }

  it(`that are damaged fail as DATA_LOSS (SEED=${seed})`, () => {
    const damaged = fc.oneof(damagedVersionsOf(Buffer.from(REAL)), damagedVersionsOf(Buffer.from(FULL)));
    fc.assert(
      fc.property(damaged, (bytes) => expectCleanFailure(() => decodeDirectory(bytes, "k07e1"))),
      { seed, numRuns: 1000 },
    );
  });
});

describe("modes", () => {
  it("are octal text with a leading zero, absent for none", () => {
    expect([formatMode(0o755), formatMode(0o4755), formatMode(0)]).to.deep.equal(["0755", "04755", undefined]);
    expect([parseMode("0755"), parseMode("04755"), parseMode(undefined)]).to.deep.equal([0o755, 0o4755, 0]);
  });

  it("of another form are refused", () => {
    for (const mode of ["755", "0x1ff", "0799", ""]) {
      expect(() => parseMode(mode))
        .to.throw(BlockmoverError)
        .with.property("code", "DATA_LOSS");
    }
  });
});
