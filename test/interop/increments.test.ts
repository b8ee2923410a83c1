/** A chain of increments of which any member may go: the others stay whole, to both programs. */
import { expect } from "chai";

import { kopiaVersions, skipUnlessKopia, type Kopia } from "../support/kopia.js";
import { Random, testSeed } from "../support/random-data.js";
import { MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import { collectGarbage, expectSound, expectVolumes, listContents } from "./expectations.js";
import { SharedRepository } from "./shared-repository.js";
import { TestVolume, type KnownSnapshot } from "./test-volume.js";

const seed = testSeed();

for (const version of kopiaVersions) {
  describe(`a chain of increments under Kopia ${version}'s maintenance (SEED=${seed})`, function () {
    this.timeout(120_000);
    const temp = useTempDir();
    const random = new Random(seed).fork(version);

    before(function () {
      skipUnlessKopia(this, version);
    });

    /** Full, changed, shrunk inside a chunk, grown, changed. */
    async function makeChain(repository: SharedRepository): Promise<{ volume: TestVolume; chain: KnownSnapshot[] }> {
      const volume = await TestVolume.create({ repository, name: "chain", sizeBytes: 6 * MiB + 1024, random });
      const chain = [await volume.backUp()];
      await volume.writeSomewhere(2);
      chain.push(await volume.backUp());
      await volume.resize(4 * MiB + 512);
      chain.push(await volume.backUp());
      await volume.resize(8 * MiB + 2560);
      await volume.writeSomewhere(1);
      chain.push(await volume.backUp());
      await volume.writeSomewhere(2);
      chain.push(await volume.backUp());
      return { volume, chain };
    }

    async function remove(repository: SharedRepository, kopia: Kopia, id: string, by: string): Promise<void> {
      if (by === "us") await repository.blockmover(["snapshot", "delete", id]);
      else await kopia.runOrThrow(["snapshot", "delete", "--delete", id]);
    }

    it("keeps the others when any one is deleted and collected", async () => {
      const repository = new SharedRepository({ version, scratch: temp.path });
      await repository.createByUs();
      const { chain } = await makeChain(repository);
      for (const [position, victim] of chain.entries()) {
        const copy = await repository.copy();
        const kopia = await copy.kopia();
        const before = (await listContents(kopia)).length;
        await remove(copy, kopia, victim.id, position % 2 === 0 ? "us" : "Kopia");
        await collectGarbage(kopia);
        expect((await listContents(kopia)).length, "contents left").to.be.below(before);
        const fresh = await expectSound(copy);
        await expectVolumes(
          copy,
          fresh,
          chain.filter((snapshot) => snapshot !== victim),
        );
      }
    });

    it("goes on from what is left, until only the newest is", async () => {
      const repository = new SharedRepository({ version, scratch: temp.path });
      await repository.createByUs();
      const { volume, chain } = await makeChain(repository);
      const kopia = await repository.kopia();
      while (chain.length > 1) {
        const [victim] = chain.splice(random.below(chain.length - 1), 1);
        await remove(repository, kopia, victim!.id, random.pick(["us", "Kopia"]));
        await collectGarbage(kopia);
        await expectVolumes(repository, kopia, [random.pick(chain)]);
      }
      await volume.writeSomewhere(1);
      chain.push(await volume.backUp());
      expect(chain[1]!.report.parentSnapshotId).to.equal(chain[0]!.id);
      const fresh = await expectSound(repository);
      await expectVolumes(repository, fresh, chain);
    });

    it("makes a full backup when its parent is gone, and says why", async () => {
      const repository = new SharedRepository({ version, scratch: temp.path });
      await repository.createByUs();
      const { volume, chain } = await makeChain(repository);
      const kopia = await repository.kopia();
      for (const { id } of chain) await remove(repository, kopia, id, "Kopia");
      await collectGarbage(kopia);
      const ranges = ["--changed-ranges=-", "--base-change-id=change-5", "--volume-id=chain"];
      const report = await repository.backUp(volume.image, [`--source=${volume.source}`, ...ranges], "");
      expect(report).to.include({ backupType: "full", incrementalBytes: volume.sizeBytes });
      expect(report.fallbackReason).to.contain("no earlier snapshot");
      const fresh = await expectSound(repository);
      await expectVolumes(repository, fresh, [{ ...chain[4]!, id: report.snapshotId }]);
    });
  });
}
