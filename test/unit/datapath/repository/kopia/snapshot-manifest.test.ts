import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import type { JsonValue } from "../../../../../services/datapath/repository/kopia/go-json.js";
import { stringifyLikeGo } from "../../../../../services/datapath/repository/kopia/go-json.js";
import {
  decodeSnapshotManifest,
  EMPTY_STATS,
  encodeSnapshotManifest,
  snapshotLabels,
  sourceLabels,
  type SnapshotManifest,
} from "../../../../../services/datapath/repository/kopia/snapshot-manifest.js";
import { damagedVersionsOf, expectCleanFailure, seed } from "./index-fixtures.js";

/** kopia-format.md Appendix B: what Kopia wrote for Velero. */
const LABELS = {
  hostname: "default",
  path: "snapshot-data-upload-download/kopia/ns/pvc",
  "snapshot-requester": "snapshot-data-upload-download",
  "snapshot-uploader": "kopia",
  type: "snapshot",
  username: "default",
};
const DATA =
  '{"id":"","source":{"host":"default","userName":"default","path":"snapshot-data-upload-download/kopia/ns/pvc"},' +
  '"description":"Kopia Uploader","startTime":"2026-11-22T07:04:26.588601242Z","endTime":"2026-11-22T07:04:26.735847868Z",' +
  '"stats":{"totalSize":31000000,"excludedTotalSize":0,"fileCount":1,"cachedFiles":0,"nonCachedFiles":1,"dirCount":1,' +
  '"excludedFileCount":0,"excludedDirCount":0,"ignoredErrorCount":0,"errorCount":0},"rootEntry":{"name":"/dev/blk",' +
  '"type":"d","mode":"0777","mtime":"1754-08-30T22:43:41.128654848Z","obj":"k07e1e2fd115ce5240e3c6c06d11b86f2",' +
  '"summ":{"size":31000000,"files":1,"symlinks":0,"dirs":1,"maxTime":"2026-11-22T07:04:26.588571287Z","numFailed":0}},' +
  '"tags":{"snapshot-requester":"snapshot-data-upload-download","snapshot-uploader":"kopia"},"pins":["velero-pin"]}';

const parse = (text: string) => JSON.parse(text) as JsonValue;
const real = () => decodeSnapshotManifest(LABELS, parse(DATA));

describe("snapshot manifests", () => {
  it("of Kopia are read, and written to the same text and labels", () => {
    expect(stringifyLikeGo(encodeSnapshotManifest(real()))).to.equal(DATA);
    expect(snapshotLabels(real())).to.deep.equal(LABELS);
    expect(Object.keys(snapshotLabels(real()))).to.deep.equal(Object.keys(LABELS));
  });

  it("of Velero's block mover are read: unnamed root, empty counters, no summary", () => {
    const manifest = decodeSnapshotManifest(
      LABELS,
      parse(
        '{"source":{"host":"default","userName":"default","path":"p"},"startTime":"2026-11-22T07:04:26Z",' +
          '"stats":{"totalSize":1048576},"rootEntry":{"type":"d","mode":"0777","obj":"k07e1e2fd115ce5240e3c6c06d11b86f2",' +
          '"mtime":"1754-08-30T22:43:41.128654848Z","summ":null},"pins":null}',
      ),
    );
    expect(manifest.stats).to.deep.equal({ ...EMPTY_STATS, totalSize: 1048576 });
    expect(manifest.rootEntry).to.deep.equal({
      type: "d",
      mode: "0777",
      mtime: "1754-08-30T22:43:41.128654848Z",
      obj: "k07e1e2fd115ce5240e3c6c06d11b86f2",
    });
    expect(manifest.endTime).to.equal("0001-01-01T00:00:00Z");
    expect(manifest.tags).to.deep.equal({});
  });

  it("without a source have that of the labels", () => {
    expect(decodeSnapshotManifest(LABELS, {}).source).to.deep.equal({
      host: "default",
      userName: "default",
      path: LABELS.path,
    });
  });

  it("leave out empty tags and pins, and name why they are incomplete", () => {
    const text = stringifyLikeGo(encodeSnapshotManifest({ ...real(), tags: {}, pins: [], incomplete: "checkpoint" }));
    expect(text).to.not.contain('"tags"').and.not.contain('"pins"');
    expect(text).to.contain('},"incomplete":"checkpoint","rootEntry":{');
  });

  for (const name of ["type", "hostname", "username", "path", ""]) {
    it(`refuse a tag named ${JSON.stringify(name)}`, () => {
      expect(() => snapshotLabels({ ...real(), tags: { [name]: "x" } }))
        .to.throw(BlockmoverError, "cannot be named")
        .with.property("code", "INVALID_ARGUMENT");
    });
  }

  const root = real().rootEntry!;
  const mistakes: [string, Partial<SnapshotManifest>][] = [
    ["without a root", { rootEntry: undefined }],
    ["with a root without an object", { rootEntry: { ...root, obj: "" } }],
    ["with an incomplete source", { source: { host: "", userName: "u", path: "p" } }],
    ["with a counter that is no integer", { stats: { ...EMPTY_STATS, totalSize: Number.NaN } }],
  ];
  for (const [what, fields] of mistakes) {
    it(`are not written ${what}`, () => {
      expect(() => encodeSnapshotManifest({ ...real(), ...fields }))
        .to.throw(BlockmoverError)
        .with.property("code", "INTERNAL");
    });
  }

  const malformed: [string, string][] = [
    ["a numeric mode", '{"rootEntry":{"mode":511,"obj":"k00"}}'],
    ["text for a counter", '{"stats":{"totalSize":"1"}}'],
    ["a time that is none", '{"startTime":"then"}'],
    ["a list for tags", '{"tags":["a"]}'],
    ["text for pins", '{"pins":"a"}'],
    ["null for all", "null"],
  ];
  for (const [what, text] of malformed) {
    it(`with ${what} are refused, naming the source`, () => {
      expect(() => decodeSnapshotManifest(LABELS, parse(text)))
        .to.throw(BlockmoverError, LABELS.path)
        .with.property("code", "DATA_LOSS");
    });
  }

  it("are of type snapshot", () => {
    expect(() => decodeSnapshotManifest({ ...LABELS, type: "policy" }, parse(DATA)))
      .to.throw(BlockmoverError, "type policy")
      .with.property("code", "DATA_LOSS");
  });

  it("are found by the labels of their source", () => {
    expect(snapshotLabels(real())).to.include(sourceLabels(real().source));
  });

  it(`that are damaged fail as DATA_LOSS (SEED=${seed})`, () => {
    const damaged = damagedVersionsOf(Buffer.from(DATA));
    fc.assert(
      fc.property(damaged, (bytes) => {
        let data: JsonValue;
        try {
          data = parse(bytes.toString());
        } catch {
          return;
        }
        expectCleanFailure(() => decodeSnapshotManifest(LABELS, data));
      }),
      { seed, numRuns: 1000 },
    );
  });
});
