/** Repositories that we make and write, under the eyes of the real Kopia. */
import { readFile, rm, stat, truncate } from "node:fs/promises";
import path from "node:path";

import { expect } from "chai";

import { writableCompressionNames } from "../../services/datapath/repository/kopia/compression.js";
import { supportedEncryptionNames } from "../../services/datapath/repository/kopia/encryption.js";
import { supportedHashNames } from "../../services/datapath/repository/kopia/hashing.js";
import { flipBit } from "../support/flip-bit.js";
import { kopiaVersions, skipUnlessKopia } from "../support/kopia.js";
import { Random, testSeed } from "../support/random-data.js";
import { MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import {
  collectGarbage,
  expectRestoredByKopia,
  expectRestoredByUs,
  expectSound,
  expectSoundToKopia,
  expectTrees,
  expectVolumes,
  listContents,
  markAllDeleted,
  snapshotTree,
  writeTree,
} from "./expectations.js";
import { SharedRepository } from "./shared-repository.js";
import { TestVolume, type KnownSnapshot } from "./test-volume.js";

const seed = testSeed();

for (const version of kopiaVersions) {
  describe(`a repository of ours, to Kopia ${version} (SEED=${seed})`, function () {
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

    /** Volumes of the sizes that matter: several packs, a cut last chunk, less than one chunk, all zero. */
    async function backUpVolumes(): Promise<KnownSnapshot[]> {
      const volume = (name: string, sizeBytes: number, isZero = false): Promise<TestVolume> =>
        TestVolume.create({ repository, name, sizeBytes, isZero, random: random.fork(name) });
      const snapshots: KnownSnapshot[] = [];
      const large = await volume("large", 26 * MiB);
      snapshots.push(await large.backUp());
      const irregular = await volume("irregular", 5 * MiB + 4096);
      snapshots.push(await irregular.backUp());
      await irregular.writeSomewhere();
      snapshots.push(await irregular.backUp());
      await irregular.resize(3 * MiB + 512);
      snapshots.push(await irregular.backUp());
      await irregular.resize(7 * MiB + 1536);
      await irregular.writeSomewhere();
      snapshots.push(await irregular.backUp());
      snapshots.push(await (await volume("tiny", 512)).backUp());
      const chunk = await volume("chunk", MiB);
      snapshots.push(await chunk.backUp());
      await chunk.write({ offset: 4096, length: 512 });
      snapshots.push(await chunk.backUp());
      const zero = await volume("zero", 9 * MiB, true);
      snapshots.push(await zero.backUp());
      await zero.write({ offset: 4 * MiB - 1, length: 2 });
      snapshots.push(await zero.backUp());
      return snapshots;
    }

    it("is connected to, with the format that was asked for", async () => {
      await repository.createByUs(["--hash=HMAC-SHA256", "--encryption=CHACHA20-POLY1305-HMAC-SHA256"]);
      const kopia = await repository.kopia();
      const status = await kopia.runJson(["repository", "status", "--json"]);
      expect(status).to.have.nested.property("contentFormat.hash", "HMAC-SHA256");
      expect(status).to.have.nested.property("contentFormat.encryption", "CHACHA20-POLY1305-HMAC-SHA256");
      expect(status).to.have.nested.property("contentFormat.version", 3);
      expect(status).to.have.nested.property("contentFormat.indexVersion", 2);
      expect(status).to.have.nested.property("contentFormat.epochParameters.Enabled", true);
      expect(status).to.have.nested.property("contentFormat.enablePasswordChange", true);
      expect(status).to.have.nested.property("objectFormat.splitter", "DYNAMIC-4M-BUZHASH");
      const maintenance = await kopia.runJson(["maintenance", "info", "--json"]);
      expect(maintenance).to.have.property("owner", "default@default");
      expect(maintenance).to.have.nested.property("full.enabled", true);
      await kopia.runOrThrow(["repository", "status"]); // its text form prints other parts of the format
    });

    it("is refused with another password, but not for white space around it", async () => {
      const padded = new SharedRepository({ version, scratch: temp.path, password: ` \t${repository.password}\n` });
      await padded.createByUs();
      await repository.kopia();
      const other = new SharedRepository({ version, scratch: temp.path, password: `${repository.password}.` });
      expect(await other.kopia().catch(String)).to.contain("invalid repository password");
    });

    it("lists, verifies and restores every volume, byte for byte", async () => {
      await repository.createByUs();
      const snapshots = await backUpVolumes();

      const kopia = await repository.kopia();
      const listed = (await kopia.runJson(["snapshot", "list", "--all", "--json"])) as { id: string }[];
      expect(listed.map(({ id }) => id)).to.have.members(snapshots.map(({ id }) => id));
      const stranger = await repository.kopia({ hostname: "elsewhere", username: "somebody" });
      expect(await stranger.runOrThrow(["snapshot", "list", "--all"])).to.contain("velero-block/interop/irregular");

      await expectSoundToKopia(kopia);
      expect(await kopia.runOrThrow(["session", "list"])).to.equal("");
      await expectVolumes(repository, kopia, snapshots);
    });

    it("shows a volume as an object", async () => {
      await repository.createByUs();
      const volume = await TestVolume.create({ repository, name: "shown", sizeBytes: 2 * MiB + 512, random });
      const snapshot = await volume.backUp();
      const kopia = await repository.kopia();
      const [listed] = (await kopia.runJson(["snapshot", "list", "--all", "--json"])) as {
        rootEntry: { obj: string };
      }[];
      const directory = (await kopia.runJson(["show", listed!.rootEntry.obj])) as { entries: { name: string }[] };
      expect(directory.entries.map(({ name }) => name)).to.deep.equal([
        "snapshot-data-upload-download-velero-block-interop-shown",
      ]);
      const wanted = Buffer.alloc(3 * MiB);
      (await readFile(snapshot.image)).copy(wanted);
      for (const object of [`${listed!.rootEntry.obj}/${directory.entries[0]!.name}`, snapshot.report.objectId]) {
        const { code, stdoutBytes } = await kopia.run(["show", object]);
        expect(code, object).to.equal(0);
        expect(stdoutBytes.equals(wanted), object).to.equal(true);
      }
    });

    it("has contents compressed by every compressor that we write", async () => {
      await repository.createByUs();
      const snapshots: KnownSnapshot[] = [];
      for (const name of writableCompressionNames) {
        const volume = await TestVolume.create({ repository, name, sizeBytes: 3 * MiB, random, isZero: true });
        // Compressible and incompressible chunks, of another content for each compressor.
        await volume.write({ offset: 100_000, length: 200_000 });
        await volume.write({ offset: 2 * MiB, length: MiB });
        snapshots.push(await volume.backUp([`--compression=${name}`]));
      }
      const kopia = await expectSound(repository);
      const used = new Set((await listContents(kopia, ["--non-prefixed"])).map((content) => content.compression ?? 0));
      expect(used.size, "compressors in the index").to.equal(writableCompressionNames.length);
      for (const snapshot of snapshots) await expectRestoredByKopia(repository, kopia, snapshot);
    });

    for (const [position, hash] of supportedHashNames.entries()) {
      const encryption = supportedEncryptionNames[position % supportedEncryptionNames.length]!;
      it(`opens with ${hash} and ${encryption}`, async () => {
        await repository.createByUs([`--hash=${hash}`, `--encryption=${encryption}`]);
        const volume = await TestVolume.create({ repository, name: "hashed", sizeBytes: 2 * MiB + 512, random });
        await volume.backUp();
        await volume.writeSomewhere(1);
        const increment = await volume.backUp();
        const kopia = await repository.kopia();
        await expectSoundToKopia(kopia);
        await expectRestoredByKopia(repository, kopia, increment);
      });
    }

    it("opens with other key derivations, splitters and pack sizes", async () => {
      await repository.createByUs([
        "--key-derivation=pbkdf2-sha256-600000",
        "--splitter=FIXED-128K",
        "--max-pack-size-mib=10",
      ]);
      const volume = await TestVolume.create({ repository, name: "packs", sizeBytes: 21 * MiB + 512, random });
      const snapshots = [await volume.backUp()];
      expect(await repository.blobs("p")).to.have.length(3);
      const kopia = await expectSound(repository);
      const status = await kopia.runJson(["repository", "status", "--json"]);
      expect(status).to.have.nested.property("contentFormat.maxPackSize", 10 * MiB);
      expect(status).to.have.nested.property("objectFormat.splitter", "FIXED-128K");
      await expectVolumes(repository, kopia, snapshots);
    });

    it("takes Kopia's own snapshots, maintenance and deletions, and both restore what is left", async () => {
      await repository.createByUs();
      const snapshots = await backUpVolumes();
      const kopia = await repository.kopia();
      const trees = [await snapshotTree(kopia, await writeTree(repository, random))];
      trees.push(await snapshotTree(kopia, await writeTree(repository, random)));
      await kopia.runOrThrow(["maintenance", "run", "--full"]);
      await expectSound(repository);

      // Of each kind one, deleted by either program; those deleted share chunks with those that stay.
      const before = (await listContents(kopia)).length;
      const [largeFull, , secondIrregular] = snapshots;
      await kopia.runOrThrow(["snapshot", "delete", "--delete", secondIrregular!.id]);
      await kopia.runOrThrow(["snapshot", "delete", "--delete", trees[0]!.id]);
      await repository.blockmover(["snapshot", "delete", largeFull!.id]);
      await collectGarbage(kopia);
      expect((await listContents(kopia)).length, "contents left").to.be.below(before - 26);

      const left = snapshots.filter((snapshot) => snapshot !== largeFull && snapshot !== secondIrregular);
      const fresh = await expectSound(repository);
      const listed = (await fresh.runJson(["snapshot", "list", "--all", "--json"])) as { id: string }[];
      const known = [...left, trees[1]!].map(({ id }) => id);
      expect(listed.map(({ id }) => id)).to.have.members(known);
      expect((await repository.listByUs(["--all"])).map(({ snapshotId }) => snapshotId)).to.have.members(known);
      await expectVolumes(repository, fresh, left);
      await expectTrees(repository, fresh, [trees[1]!]);
    });

    it("takes back what was deleted and collected", async () => {
      await repository.createByUs();
      const volume = await TestVolume.create({ repository, name: "again", sizeBytes: 4 * MiB + 512, random });
      const first = await volume.backUp();
      const kopia = await repository.kopia();
      await repository.blockmover(["snapshot", "delete", first.id]);

      // Marked as deleted, but still there: not good enough to refer to.
      await markAllDeleted(kopia);
      const second = await repository.backUp(first.image, ["--source=interop/again"]);
      expect(second.newContentBytes, "bytes written again").to.equal(5 * MiB);
      await expectSound(repository);

      // Gone.
      await repository.blockmover(["snapshot", "delete", second.snapshotId]);
      await collectGarbage(kopia);
      expect((await listContents(kopia, ["--non-prefixed"])).length, "data left").to.equal(0);
      const third = await repository.backUp(first.image, ["--source=interop/again"]);
      const fresh = await expectSound(repository);
      await expectVolumes(repository, fresh, [{ ...first, id: third.snapshotId }]);
    });

    it("is whole again after its index is lost and recovered from the packs", async () => {
      await repository.createByUs();
      const snapshots = await backUpVolumes();
      const copy = await repository.copy();
      await rm(path.join(copy.path, "x"), { recursive: true });
      expect(await copy.blobs("x")).to.deep.equal([]);
      const kopia = await copy.kopia();
      await kopia.runOrThrow(["index", "recover", "--commit", "--dangerous-commands=enabled"]);

      const before = await listContents(await repository.kopia());
      const after = await listContents(await copy.kopia());
      expect(after.map(({ contentID }) => contentID)).to.deep.equal(before.map(({ contentID }) => contentID));
      const fresh = await expectSound(copy);
      for (const snapshot of snapshots) await expectRestoredByKopia(copy, fresh, snapshot);
    });

    it("shows Kopia a session while we write, and none afterwards", async () => {
      await repository.createByUs();
      const kopia = await repository.kopia();
      await repository.withOpen(async (opened) => {
        const writer = opened.newObjectWriter({ volumeSizeBytes: MiB });
        await writer.writeAt([{ offsetBytes: 0, bytes: random.bytes(MiB) }]);
        expect(await kopia.runOrThrow(["session", "list"])).to.match(/^s[0-9a-f]{19,} default@default .+\n$/);
        await writer.result();
        await opened.flush();
        expect(await kopia.runOrThrow(["session", "list"])).to.equal("");
      });
    });

    describe("when damaged", () => {
      // The tests above believe Kopia when it finds nothing. Here it has something to find.
      async function oneVolume(): Promise<KnownSnapshot> {
        await repository.createByUs();
        const volume = await TestVolume.create({ repository, name: "damaged", sizeBytes: 3 * MiB + 512, random });
        return volume.backUp();
      }

      it("fails both verifications for a flipped bit in a pack", async () => {
        const snapshot = await oneVolume();
        const [pack] = await repository.blobs("p");
        await flipBit(repository.blobFile(pack!), 2 * MiB);
        const kopia = await repository.kopia();
        expect(await expectSoundToKopia(kopia).catch(String)).to.match(/exit 1/);
        expect(await expectSound(repository).catch(String)).to.match(/exit 1/);
        expect((await repository.tryBlockmover(["snapshot", "verify"])).code).to.equal(1);
        expect(await expectRestoredByUs(repository, snapshot).catch(String)).to.contain(pack);
      });

      it("fails both verifications for a missing pack", async () => {
        const snapshot = await oneVolume();
        const [pack] = await repository.blobs("p");
        await rm(repository.blobFile(pack!));
        expect(await expectSoundToKopia(await repository.kopia()).catch(String)).to.match(/exit 1/);
        expect((await repository.tryBlockmover(["snapshot", "verify"])).stderr).to.contain(pack);
        expect(await expectRestoredByUs(repository, snapshot).catch(String)).to.contain(pack);
      });

      it("fails the comparison for an image that differs in its last byte", async () => {
        const snapshot = await oneVolume();
        await flipBit(snapshot.image, snapshot.sizeBytes - 1);
        expect(await expectRestoredByUs(repository, snapshot).catch(String)).to.contain("differ");
        const kopia = await repository.kopia();
        expect(await expectRestoredByKopia(repository, kopia, snapshot).catch(String)).to.contain("differ");
        await truncate(snapshot.image, snapshot.sizeBytes - 512);
        expect((await stat(snapshot.image)).size).to.equal(3 * MiB);
        const shorter = { ...snapshot, sizeBytes: 3 * MiB };
        expect(await expectRestoredByKopia(repository, kopia, shorter).catch(String)).to.contain(
          "size of the restored",
        );
      });
    });
  });
}
