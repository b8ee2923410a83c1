/** Snapshots as Velero's block mover writes them, to us; and ours, as Velero's block mover looks at them. */
import { writeFile } from "node:fs/promises";
import path from "node:path";

import { expect } from "chai";

import { kopiaVersions, skipUnlessKopia, type Kopia } from "../support/kopia.js";
import { sparseFile } from "../support/loop-device.js";
import { Random, testSeed, writeRandom } from "../support/random-data.js";
import { MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import {
  expectRestoredByUs,
  expectSound,
  expectVolumes,
  snapshotTree,
  tableShownByKopia,
  writeTree,
} from "./expectations.js";
import { SharedRepository, type BackupReport } from "./shared-repository.js";
import { TestVolume, type KnownSnapshot } from "./test-volume.js";
import { UpstreamBlockMover, type UpstreamVolume } from "./upstream-block-mover.js";

const seed = testSeed();

for (const version of kopiaVersions) {
  describe(`the layout of Velero's block mover, checked by Kopia ${version} (SEED=${seed})`, function () {
    this.timeout(120_000);
    const temp = useTempDir();
    const random = new Random(seed).fork(version);
    let repository: SharedRepository;

    before(function () {
      skipUnlessKopia(this, version);
    });

    beforeEach(() => {
      repository = new SharedRepository({ version, scratch: temp.path });
    });

    async function upstreamBackUp(volume: UpstreamVolume): Promise<string> {
      const upstream = await UpstreamBlockMover.open(repository);
      try {
        return await upstream.backUp(volume);
      } finally {
        await upstream.close();
      }
    }

    const newImage = (name: string, sizeBytes: number): Promise<TestVolume> =>
      TestVolume.create({ repository, name, sizeBytes, random });

    /** An increment of ours on change `from`. */
    const increment = (volume: TestVolume, name: string, from: string): Promise<BackupReport> =>
      repository.backUp(
        volume.image,
        [
          `--source=${volume.source}`,
          "--changed-ranges=-",
          `--base-change-id=${from}`,
          "--change-id=ours",
          `--volume-id=${name}`,
        ],
        `{"offset":${MiB + 1},"length":1}\n`,
      );

    it("restores what upstream wrote without its tags, in the size of the object, and takes no parent from it", async () => {
      const kopia = await repository.createByKopia();
      const volume = await newImage("bare", 3 * MiB);
      const id = await upstreamBackUp({ name: "bare", image: volume.image, sizeBytes: volume.sizeBytes });

      const listed = await repository.listByUs();
      expect(listed).to.have.length(1);
      expect(listed[0]).to.include({ snapshotId: id, isVolume: true, volumeSizeBytes: 3 * MiB });
      await expectVolumes(repository, await expectSound(repository), [
        { id, image: volume.image, sizeBytes: 3 * MiB } as KnownSnapshot,
      ]);
      const report = await increment(volume, "bare", "theirs");
      expect(report).to.include({ backupType: "full", newContentBytes: 0 });
      expect(report.fallbackReason).to.contain("no change id");
      await kopia.runOrThrow(["maintenance", "run", "--full"]);
      await expectSound(repository);
    });

    it("restores an irregular size that upstream recorded, and continues upstream's increments", async () => {
      await repository.createByKopia();
      const volume = await newImage("chain", 4 * MiB + 512);
      const { image, sizeBytes } = volume;
      const id = await upstreamBackUp({
        name: "chain",
        image,
        sizeBytes,
        tags: { "bdev-source-size": String(sizeBytes), "cbt-change-id": "theirs", "cbt-volume-id": "chain" },
      });
      const first = repository.newPath("first");
      await volume.copyTo(first);
      await volume.write({ offset: MiB + 1, length: 1 });
      const report = await increment(volume, "chain", "theirs");
      expect(report.backupType, report.fallbackReason).to.equal("incremental");
      expect(report).to.include({ parentSnapshotId: id, incrementalBytes: MiB, newContentBytes: MiB });
      await expectVolumes(repository, await expectSound(repository), [
        { id, image: first, sizeBytes, report },
        { id: report.snapshotId, image, sizeBytes, report },
      ]);
    });

    it("reads a table of more than one piece, whose own table is not compressed, and continues it", async () => {
      await repository.createByKopia();
      // A row is at least 67 bytes, and a piece of the table 128 KiB.
      const sizeBytes = 1960 * MiB;
      const image = await sparseFile(repository.newPath("large"), sizeBytes);
      await writeRandom(image, random, { offsetBytes: 5 * MiB - 7, lengthBytes: 100 });
      await writeRandom(image, random, { offsetBytes: sizeBytes - 100, lengthBytes: 100 });
      const tags = { "bdev-source-size": String(sizeBytes), "cbt-change-id": "theirs", "cbt-volume-id": "large" };
      const id = await upstreamBackUp({ name: "large", image, sizeBytes, tags });
      const shown = await repository.blockmover(["snapshot", "show", id]);
      expect(shown.objectId).to.match(/^IIx/);

      await writeRandom(image, random, { offsetBytes: MiB + 1, lengthBytes: 1 });
      const report = await repository.backUp(
        image,
        ["--source=interop/large", "--changed-ranges=-", "--base-change-id=theirs", "--volume-id=large"],
        `{"offset":${MiB + 1},"length":1}\n`,
      );
      expect(report.backupType, report.fallbackReason).to.equal("incremental");
      expect(report.objectId).to.match(/^IIx/);
      await expectRestoredByUs(repository, { id: report.snapshotId, image, sizeBytes, report });
      await (await repository.kopia()).runOrThrow(["snapshot", "verify", "--verify-files-percent=100"]);
    });

    it("restores what Velero up to 1.18 wrote: one file under any splitter", async () => {
      const kopia = await repository.createByKopia();
      const volume = await newImage("old", 11 * MiB + 512);
      const directory = await repository.makeDirectory("old");
      await volume.copyTo(path.join(directory, "data"));
      const { id } = await snapshotTree(kopia, directory);
      await expectRestoredByUs(repository, { id, image: volume.image, sizeBytes: volume.sizeBytes } as KnownSnapshot);
    });

    it("makes no volume of a snapshot of files, and says so", async () => {
      const kopia = await repository.createByKopia();
      const file = repository.newPath("single-file");
      await writeFile(file, random.bytes(2 * MiB));
      const volume = await newImage("two", MiB);
      const upstream = { name: "two", image: volume.image, sizeBytes: MiB, otherEntries: ["another"] };
      const ids = [
        (await snapshotTree(kopia, await writeTree(repository, random))).id,
        (await snapshotTree(kopia, file)).id,
        await upstreamBackUp({ ...upstream, tags: { "cbt-change-id": "theirs", "cbt-volume-id": "two" } }),
      ];
      for (const id of ids) {
        const result = await repository.tryBlockmover(["restore", id, repository.newPath("target")]);
        expect(result.code, id).to.equal(1);
        expect(result.stderr, id).to.match(/not of a volume/);
      }
      const report = await increment(volume, "two", "theirs");
      expect(report.backupType).to.equal("full");
      expect(report.fallbackReason).to.contain("2 entries");
    });

    it("leaves manifests of others as they are, also with numbers that JavaScript cannot hold", async () => {
      const kopia = await repository.createByKopia();
      const upstream = await UpstreamBlockMover.open(repository);
      const policy = `{"upload":{"parallelUploadAboveSize":9223372036854775807,"maxParallelFileReads":2}}`;
      const id = "0123456789abcdef0123456789abcdef";
      const labels = `{"type":"policy","policyType":"path","hostname":"default","username":"default","path":"x"}`;
      try {
        await upstream.writeManifestText(
          `{"entries":[{"id":"${id}","labels":${labels},"modified":"2026-01-02T03:04:05+02:00","data":${policy}}]}\n`,
        );
      } finally {
        await upstream.close();
      }
      await (await newImage("beside", MiB)).backUp();
      expect(await kopia.runOrThrow(["manifest", "show", id])).to.contain("9223372036854775807");
      expect(await repository.listByUs()).to.have.length(1);
    });

    it("gives upstream what it asks of a parent and of a restore", async () => {
      await repository.createByUs();
      const kopia = await repository.kopia();
      const irregular = await newImage("irregular", 2 * MiB + 1536);
      const tiny = await newImage("tiny", 512);
      for (const [volume, name, chunks] of [
        [irregular, "irregular", 3],
        [tiny, "tiny", 1],
      ] as const) {
        const full = await volume.backUp();
        await expectUpstreamAccepts(kopia, { ...full, name, chunks });
        await volume.write({ offset: 17, length: 1 });
        await expectUpstreamAccepts(kopia, { ...(await volume.backUp()), name, chunks });
      }
    });

    /** Everything that upstream looks at, in Kopia's words. */
    async function expectUpstreamAccepts(
      kopia: Kopia,
      snapshot: KnownSnapshot & { readonly name: string; readonly chunks: number },
    ): Promise<void> {
      const text = await kopia.runOrThrow(["manifest", "show", snapshot.id]);
      const manifest = JSON.parse(text.replace(/^\/\/.*$/gm, "")) as {
        source: unknown;
        stats: { totalSize: number };
        rootEntry: { type: string; obj: string };
        tags: Record<string, string>;
        pins: string[];
        incomplete?: string;
      };
      const { name, chunks } = snapshot;
      expect(manifest.source).to.deep.equal({
        host: "default",
        userName: "default",
        path: `snapshot-data-upload-download/velero-block/interop/${name}`,
      });
      expect(manifest.tags).to.include({
        "snapshot-requester": "snapshot-data-upload-download",
        "snapshot-uploader": "velero-block",
        "bdev-source-size": String(snapshot.sizeBytes),
        "cbt-volume-id": name,
      });
      expect(manifest.tags["cbt-change-id"]).to.match(/^change-/);
      expect(manifest.pins).to.deep.equal(["velero-pin"]);
      expect(manifest).to.not.have.property("incomplete");
      expect(manifest.stats.totalSize).to.equal(chunks * MiB);
      expect(manifest.rootEntry.type).to.equal("d");
      const directory = (await kopia.runJson(["show", manifest.rootEntry.obj])) as {
        entries: { name: string; type: string; size: number; obj: string }[];
      };
      expect(directory.entries).to.have.length(1);
      const [file] = directory.entries;
      expect(file).to.include({
        name: `snapshot-data-upload-download-velero-block-interop-${name}`,
        type: "f",
        size: chunks * MiB,
        obj: snapshot.report.objectId,
      });
      const rows = await tableShownByKopia(kopia, file!.obj);
      expect(rows.map(({ s = 0, l }) => [s, l])).to.deep.equal(
        Array.from({ length: chunks }, (_, chunk) => [chunk * MiB, MiB]),
      );
      for (const { o } of rows) expect(o, "a content without prefix").to.match(/^([0-9a-f]{2})+$/);
    }
  });
}
