import { expect } from "chai";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import { encodeDirectory } from "../../../../../services/datapath/repository/kopia/directory.js";
import {
  encodeSnapshotManifest,
  snapshotLabels,
} from "../../../../../services/datapath/repository/kopia/snapshot-manifest.js";
import {
  changeTrackingOf,
  checkpointSourcePath,
  fileEntryName,
  isVolumeSnapshot,
  paddedSizeBytes,
  sourcePath,
  sourceSizeBytes,
  volumeDirectory,
  volumeFileEntry,
  volumeSnapshot,
  volumeSource,
  type VolumeSnapshotFields,
} from "../../../../../services/datapath/repository/kopia/velero-block-layout.js";

const MIB = 1024 * 1024;
const OBJECT = "Ix4848cc5ab97a87b70abdc56db132e3b1";
const PATH = sourcePath("shop", "database");
const SOURCE = volumeSource(PATH);

const FIELDS: VolumeSnapshotFields = {
  kind: "complete",
  path: PATH,
  objectId: OBJECT,
  objectSizeBytes: 4 * MIB,
  volumeSizeBytes: 4 * MIB - 512,
  directoryObjectId: "k07e1e2fd115ce5240e3c6c06d11b86f2",
  startTimeNs: 1_000_000_000n,
  endTimeNs: 2_000_000_000n,
  changeId: "change-1",
  volumeId: "vol-1",
  asyncOperationId: "du-1",
};

describe("names of the layout", () => {
  it("are those of Velero's block mover", () => {
    expect(PATH).to.equal("snapshot-data-upload-download/velero-block/shop/database");
    expect(fileEntryName(PATH)).to.equal("snapshot-data-upload-download-velero-block-shop-database");
    expect(SOURCE).to.deep.equal({ host: "default", userName: "default", path: PATH });
  });

  it("have no dashes at the ends, and no slash of either kind", () => {
    expect(fileEntryName("/a\\b/-c-//")).to.equal("a-b--c");
    expect(() => fileEntryName("//"))
      .to.throw(BlockmoverError)
      .with.property("code", "INVALID_ARGUMENT");
  });

  for (const name of ["", ".", "..", "a/b", "a\\b", "a\0"]) {
    it(`refuse a volume named ${JSON.stringify(name)}`, () => {
      expect(() => sourcePath("shop", name))
        .to.throw(BlockmoverError)
        .with.property("code", "INVALID_ARGUMENT");
      expect(() => sourcePath(name, "database")).to.throw(BlockmoverError);
    });
  }
});

describe("paddedSizeBytes", () => {
  it("rounds up to whole MiB", () => {
    expect([0, 1, MIB, MIB + 1].map(paddedSizeBytes)).to.deep.equal([0, MIB, MIB, 2 * MIB]);
  });
});

describe("volumeDirectory", () => {
  it("has one file as long as the object", () => {
    expect(encodeDirectory(volumeDirectory(FIELDS)).toString()).to.equal(
      '{"stream":"kopia:directory","entries":[{"name":"snapshot-data-upload-download-velero-block-shop-database",' +
        `"type":"f","mode":"0777","size":4194304,"mtime":"1970-01-01T00:00:01Z","obj":"${OBJECT}"}],` +
        '"summary":{"size":4194304,"files":1,"symlinks":0,"dirs":1,"maxTime":"1970-01-01T00:00:01Z","numFailed":0}}\n',
    );
  });

  it("is not made of an object that the layout does not allow", () => {
    for (const fields of [{ objectSizeBytes: 1000 }, { objectId: "fb2a5b0e3899e749ac9667a5922a3ddd" }]) {
      expect(() => volumeDirectory({ ...FIELDS, ...fields }))
        .to.throw(BlockmoverError)
        .with.property("code", "INTERNAL");
    }
  });
});

describe("volumeSnapshot", () => {
  it("carries what a restore and the next increment need", () => {
    const manifest = volumeSnapshot(FIELDS);
    expect(manifest.tags).to.deep.equal({
      "bdev-source-size": String(4 * MIB - 512),
      "cbt-change-id": "change-1",
      "cbt-volume-id": "vol-1",
      "snapshot-requester": "snapshot-data-upload-download",
      "snapshot-uploader": "velero-block",
      "velero.io/async-operation-id": "du-1",
    });
    expect(manifest.pins).to.deep.equal(["velero-pin"]);
    expect(manifest.stats.totalSize).to.equal(4 * MIB);
    expect(manifest.rootEntry).to.include({ type: "d", mode: "0777", obj: FIELDS.directoryObjectId });
    expect(sourceSizeBytes(manifest)).to.equal(4 * MIB - 512);
    expect(() => encodeSnapshotManifest(manifest)).to.not.throw();
    expect(snapshotLabels(manifest)).to.include({ type: "snapshot", "cbt-volume-id": "vol-1" });
  });

  it("as a checkpoint has nothing that Velero's mover would take it for a parent by", () => {
    const path = checkpointSourcePath(PATH);
    const manifest = volumeSnapshot({ ...FIELDS, kind: "checkpoint", path });
    expect(manifest.incomplete).to.equal("checkpoint");
    expect(manifest.tags).to.not.have.any.keys("snapshot-uploader", "cbt-change-id", "cbt-volume-id");
    expect(path).to.equal("snapshot-data-upload-download/blockmover-checkpoint/shop/database");
  });

  it("is not made of an object of the wrong length", () => {
    expect(() => volumeSnapshot({ ...FIELDS, volumeSizeBytes: 4 * MIB + 1 })).to.throw(BlockmoverError);
  });
});

describe("sourceSizeBytes", () => {
  it("is unknown if the tag is absent or no number", () => {
    for (const tags of [{}, { "bdev-source-size": "" }, { "bdev-source-size": "1e3" }, { "bdev-source-size": "-1" }]) {
      expect(sourceSizeBytes({ ...volumeSnapshot(FIELDS), tags: tags as Record<string, string> })).to.equal(undefined);
    }
  });
});

describe("isVolumeSnapshot", () => {
  const manifest = volumeSnapshot(FIELDS);

  it("is true of what a block mover wrote", () => {
    expect(isVolumeSnapshot(manifest)).to.equal(true);
  });

  it("is false by another uploader, for another requester, without tags, and of a checkpoint", () => {
    const { tags } = manifest;
    expect(isVolumeSnapshot({ ...manifest, tags: { ...tags, "snapshot-uploader": "kopia" } })).to.equal(false);
    expect(isVolumeSnapshot({ ...manifest, tags: { ...tags, "snapshot-requester": "snapshot-pod-volume" } })).to.equal(
      false,
    );
    expect(isVolumeSnapshot({ ...manifest, tags: {} })).to.equal(false);
    expect(isVolumeSnapshot(volumeSnapshot({ ...FIELDS, kind: "checkpoint" }))).to.equal(false);
  });
});

describe("changeTrackingOf", () => {
  it("is change id and volume id", () => {
    expect(changeTrackingOf(volumeSnapshot(FIELDS))).to.deep.equal({ changeId: "change-1", volumeId: "vol-1" });
  });

  it("is absent if either is missing or empty", () => {
    expect(changeTrackingOf(volumeSnapshot({ ...FIELDS, changeId: "" }))).to.equal(undefined);
    expect(changeTrackingOf(volumeSnapshot({ ...FIELDS, volumeId: "" }))).to.equal(undefined);
    expect(changeTrackingOf({ ...volumeSnapshot(FIELDS), tags: {} })).to.equal(undefined);
    expect(changeTrackingOf(volumeSnapshot({ ...FIELDS, kind: "checkpoint" }))).to.equal(undefined);
  });
});

describe("volumeFileEntry", () => {
  const directory = volumeDirectory(FIELDS);
  const [entry] = directory.entries;

  it("is the one file of the directory", () => {
    expect(volumeFileEntry(directory)).to.deep.equal({ entry });
  });

  it("is refused unless there is exactly one entry, and it is a file", () => {
    expect(volumeFileEntry({ entries: [] }))
      .to.have.property("reason")
      .that.contains("0 entries");
    expect(volumeFileEntry({ entries: [entry!, entry!] }))
      .to.have.property("reason")
      .that.contains("2 entries");
    expect(volumeFileEntry({ entries: [{ ...entry!, type: "d" }] }))
      .to.have.property("reason")
      .that.contains("file");
  });
});
