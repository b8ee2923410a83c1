/** Kopia, its maintenance and we, all in one repository at the same time: nothing is lost. */
import { copyFile, readFile, utimes } from "node:fs/promises";

import { expect } from "chai";

import { isBlockmoverError } from "../../services/common/errors.js";
import type { KopiaRepository } from "../../services/datapath/repository/kopia/kopia-repository.js";
import { sourcePath, volumeSource } from "../../services/datapath/repository/kopia/velero-block-layout.js";
import { openStorage } from "../../services/datapath/repository/storage/storage-url.js";
import { kopiaVersions, skipUnlessKopia, type Kopia } from "../support/kopia.js";
import { Random, testSeed, writeRandom } from "../support/random-data.js";
import { MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import {
  allSettledOrThrow,
  collectGarbage,
  expectRestoredByUs,
  expectSound,
  expectTrees,
  expectVolumes,
  listContents,
  markAllDeleted,
  snapshotTree,
  writeTree,
  type KnownTree,
} from "./expectations.js";
import { SharedRepository } from "./shared-repository.js";
import { TestVolume, type KnownSnapshot } from "./test-volume.js";

const seed = testSeed();

const dayMs = 24 * 60 * 60 * 1000;

for (const version of kopiaVersions) {
  describe(`one repository, ours and Kopia ${version}'s at the same time (SEED=${seed})`, function () {
    this.timeout(180_000);
    const temp = useTempDir();
    const random = new Random(seed).fork(version);
    let repository: SharedRepository;

    before(function () {
      skipUnlessKopia(this, version);
    });

    beforeEach(() => {
      repository = new SharedRepository({ version, scratch: temp.path });
    });

    it("keeps every snapshot of both, with maintenance during and between", async () => {
      await repository.createByUs();
      const maintainer = await repository.kopia();
      // Another user, so that it never runs maintenance by itself: two at once are Kopia's own danger.
      const writer = await repository.kopia({ hostname: "writer", username: "writer" });
      const volumes = await allSettledOrThrow(
        ["first", "second"].map((name) =>
          TestVolume.create({ repository, name, sizeBytes: 4 * MiB + 4096, random: random.fork(name) }),
        ),
      );
      let snapshots: KnownSnapshot[] = [];
      let trees: KnownTree[] = [];

      for (let round = 0; round < 4; round++) {
        // Not the newest of a volume: its next increment is being based on it.
        const old = snapshots.slice(0, -volumes.length);
        const victims = old.length === 0 ? [] : [random.pick(old)];
        const treeVictims = round < 2 ? [] : [random.pick(trees)];
        snapshots = snapshots.filter((snapshot) => !victims.includes(snapshot));
        trees = trees.filter((tree) => !treeVictims.includes(tree));
        const directory = await writeTree(repository, random);
        for (const volume of volumes) await volume.writeSomewhere(2);

        const byUs = volumes.map(async (volume) => snapshots.push(await volume.backUp()));
        const byKopia = [
          snapshotTree(writer, directory).then((tree) => trees.push(tree)),
          ...victims.map(({ id }) => writer.runOrThrow(["snapshot", "delete", "--delete", id])),
          ...treeVictims.map(({ id }) => repository.blockmover(["snapshot", "delete", id])),
          maintainer.runOrThrow(["maintenance", "run", "--full"]),
        ];
        await allSettledOrThrow([...byUs, ...byKopia]);
        if (round % 2 === 1) await collectGarbage(maintainer);

        const expected = [...snapshots, ...trees].map(({ id }) => id);
        const ours = await repository.listByUs(["--all"]);
        expect(
          ours.map(({ snapshotId }) => snapshotId),
          `round ${round}`,
        ).to.have.members(expected);
        const theirs = (await writer.runJson(["snapshot", "list", "--all", "--json"])) as { id: string }[];
        expect(
          theirs.map(({ id }) => id),
          `round ${round}`,
        ).to.have.members(expected);
      }

      expect(snapshots).to.have.length(6);
      const fresh = await expectSound(repository);
      await expectVolumes(repository, fresh, snapshots);
      await expectTrees(repository, fresh, trees);
    });

    describe("when the contents that a backup relies on are collected while it runs", () => {
      let parent: KnownSnapshot;
      /** The image that the increment is of. */
      let child: string;
      let kopia: Kopia;
      let warnings: string[];
      let opened: KopiaRepository;
      let objectId: string;
      const source = volumeSource(sourcePath("interop", "child"));

      /** An increment on a parent which somebody deletes just before the manifest is written. */
      beforeEach(async () => {
        await repository.createByUs();
        const volume = await TestVolume.create({ repository, name: "parent", sizeBytes: 4 * MiB, random });
        parent = await volume.backUp();
        kopia = await repository.kopia();
        warnings = [];
        opened = await repository.open((message) => warnings.push(message));
        temp.defer(() => opened.close());
        const writer = opened.newObjectWriter({
          volumeSizeBytes: parent.sizeBytes,
          parentObjectId: parent.report.objectId,
        });
        child = repository.newPath("child");
        await copyFile(parent.image, child);
        await writeRandom(child, random, { offsetBytes: 2 * MiB, lengthBytes: MiB });
        const bytes = (await readFile(child)).subarray(2 * MiB, 3 * MiB);
        await writer.writeAt([{ offsetBytes: 2 * MiB, bytes }]);
        objectId = await writer.result();
        await opened.flush();
        await repository.blockmover(["snapshot", "delete", parent.id]);
      });

      const save = (): Promise<string> =>
        opened.saveSnapshot({
          source,
          description: "a child",
          startTimeNs: BigInt(Date.now()) * 1_000_000n,
          objectId,
          volumeSizeBytes: parent.sizeBytes,
          changeTracking: undefined,
        });

      it("writes those again that are marked as deleted", async () => {
        await markAllDeleted(kopia);
        const id = await save();
        expect(warnings.join("\n")).to.match(/\d contents .* written again/);
        await collectGarbage(await repository.kopia());
        const fresh = await expectSound(repository);

        await expectVolumes(repository, fresh, [{ ...parent, id, image: child }]);
      });

      it("makes no snapshot when they are gone", async () => {
        await collectGarbage(kopia);
        const error: unknown = await save().catch((reason: unknown) => reason);
        expect(isBlockmoverError(error, "UNAVAILABLE"), String(error)).to.equal(true);
        await opened.close();
        expect(await repository.listByUs(["--all"])).to.deep.equal([]);
        await expectSound(repository);
        const { snapshotId } = await repository.backUp(parent.image, ["--source=interop/parent"]);
        await expectSound(repository);
        await expectRestoredByUs(repository, { ...parent, id: snapshotId });
      });
    });

    describe("manifests", () => {
      const noise = { type: "interop-test" };
      const putNoise = async (opened: KopiaRepository, count: number): Promise<void> => {
        for (let i = 0; i < count; i++) await opened.putManifest(noise, { at: i });
      };
      const liveManifestContents = async (kopia: Kopia): Promise<number> =>
        (await listContents(kopia, ["--prefix=m"])).length;

      it("survive Kopia's compaction of them, and can be deleted afterwards by both", async () => {
        await repository.createByUs();
        const volume = await TestVolume.create({ repository, name: "listed", sizeBytes: MiB + 512, random });
        const snapshots: KnownSnapshot[] = [];
        for (let i = 0; i < 3; i++) {
          await volume.writeSomewhere(1);
          snapshots.push(await volume.backUp());
        }
        await repository.withOpen((opened) => putNoise(opened, 15));
        // This one has read the index, but none of the manifests that it names.
        const stale = await repository.open();
        temp.defer(() => stale.close());

        const kopia = await repository.kopia();
        expect(await liveManifestContents(kopia)).to.be.at.least(18);
        await kopia.runOrThrow(["policy", "set", "--global", "--keep-latest=5"]);
        expect(await liveManifestContents(kopia)).to.be.below(4);
        await collectGarbage(kopia);
        const ids = snapshots.map(({ id }) => id);
        expect(
          (await stale.listSnapshots()).map(({ id }) => id),
          "read with an old index",
        ).to.have.members(ids);
        expect(await stale.findManifests(noise)).to.have.length(15);
        expect((await repository.listByUs()).map(({ snapshotId }) => snapshotId)).to.have.members(ids);

        await repository.blockmover(["snapshot", "delete", ids[0]!]);
        await kopia.runOrThrow(["snapshot", "delete", "--delete", ids[1]!]);
        const listed = (await kopia.runJson(["snapshot", "list", "--all", "--json"])) as { id: string }[];
        expect(listed.map(({ id }) => id)).to.deep.equal([ids[2]]);
        expect((await repository.listByUs()).map(({ snapshotId }) => snapshotId)).to.deep.equal([ids[2]]);

        // The tombstones survive a compaction too.
        await repository.withOpen((opened) => putNoise(opened, 16));
        await kopia.runOrThrow(["policy", "set", "--global", "--keep-latest=6"]);
        expect(await liveManifestContents(kopia)).to.be.below(4);
        expect((await repository.listByUs()).map(({ snapshotId }) => snapshotId)).to.deep.equal([ids[2]]);
        await expectVolumes(repository, await expectSound(repository), [snapshots[2]!]);
      });

      it("survive epochs that Kopia advances and compacts, also those of a writer that slept meanwhile", async () => {
        await repository.createByUs();
        const kopia = await repository.kopia();
        await kopia.runOrThrow([
          "repository",
          "set-parameters",
          "--epoch-advance-on-count=10",
          "--epoch-checkpoint-frequency=2",
        ]);
        const sleeper = await repository.open();
        temp.defer(() => sleeper.close());
        const volume = await TestVolume.create({ repository, name: "epochs", sizeBytes: 2 * MiB + 512, random });
        const snapshots: KnownSnapshot[] = [];
        const seen = new Set<string>();
        let written = 0;
        for (let round = 0; round < 6; round++) {
          await volume.writeSomewhere(1);
          snapshots.push(await volume.backUp());
          await repository.withOpen((opened) => putNoise(opened, 5));
          await ageIndexBlobs(repository, 2 * dayMs);
          await repository.withOpen((opened) => putNoise(opened, 6));
          written += 11;
          await kopia.runOrThrow(["maintenance", "run", "--full", "--safety=none"]);
          for (const name of await repository.blobs("x")) seen.add(name.slice(0, 2));
          if (round === 4) {
            // It still believes in epoch 0, which has been compacted and would never be read again.
            await putNoise(sleeper, 1);
            written++;
          }
          const listed = await repository.listByUs();
          expect(listed.map(({ snapshotId }) => snapshotId)).to.deep.equal(snapshots.map(({ id }) => id));
          await repository.withOpen(async (opened) =>
            expect(await opened.findManifests(noise), `round ${round}`).to.have.length(written),
          );
          const manifests = await kopia.runJson(["manifest", "list", "--filter=type:interop-test", "--json"]);
          expect(manifests, `round ${round}`).to.have.length(written);
        }
        expect([...seen].sort(), "kinds of index blobs").to.deep.equal(["xe", "xn", "xr", "xs", "xw"]);
        await expectVolumes(repository, await expectSound(repository), snapshots.slice(-2));
        await expectVolumes(repository, kopia, snapshots.slice(0, 1));
      });
    });
  });
}

/** Makes the index blobs older, as Kopia judges epochs by when their blobs were stored. */
async function ageIndexBlobs(repository: SharedRepository, byMs: number): Promise<void> {
  const storage = await openStorage(repository.path);
  try {
    for (const id of await repository.blobs("x")) {
      const time = new Date((await storage.stat(id)).modifiedMs - byMs);
      await utimes(repository.blobFile(id), time, time);
    }
  } finally {
    await storage.close();
  }
}
