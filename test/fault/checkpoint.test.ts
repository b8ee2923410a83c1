/**
 * The checkpoints of a long backup: they keep from maintenance what has been stored so far, and nobody takes one for a
 * snapshot, neither here nor in Kopia, neither while the backup runs nor after it has died.
 */
import { setTimeout as sleep } from "node:timers/promises";

import { expect } from "chai";

import type { BlockDevice } from "../../services/datapath/device/block-device.js";
import type { ManifestItem } from "../../services/datapath/repository/kopia/manifest.js";
import { decodeSnapshotManifest } from "../../services/datapath/repository/kopia/snapshot-manifest.js";
import { checkpointSourcePath } from "../../services/datapath/repository/kopia/velero-block-layout.js";
import { openKopiaRepository } from "../../services/datapath/repository/kopia/kopia-repository.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { openStorage } from "../../services/datapath/repository/storage/storage-url.js";
import { assertSameBytes } from "../support/compare.js";
import { Kopia, kopiaVersions, skipUnlessKopia } from "../support/kopia.js";
import { Random, testSeed, writeRandom } from "../support/random-data.js";
import { backUp, createRepository, PASSWORD, restoreTo, SOURCE, withRepository } from "../support/repositories.js";
import { MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait-for.js";

const HOUR_MS = 3_600_000;

describe("checkpoints", () => {
  const seed = testSeed();
  const temp = useTempDir();
  let repository: string;
  let image: string;

  beforeEach(async () => {
    repository = await createRepository(temp.file("repository"));
    image = temp.file("image");
    await writeRandom(image, new Random(seed).fork("checkpoint"), { lengthBytes: 40 * MiB });
  });

  const checkpoints = (): Promise<ManifestItem[]> =>
    withRepository(repository, (opened) =>
      opened.findManifests({ type: "snapshot", path: checkpointSourcePath(SOURCE.path) }),
    );

  /** A backup that reads the last chunks only when it is told to. */
  function slowBackup(options: { readonly signal?: AbortSignal } = {}) {
    let goOn = (): void => undefined;
    const told = new Promise<void>((resolve) => (goOn = resolve));
    const done = withRepository(repository, (opened) =>
      backUp(opened, image, {
        ...options,
        changeTracking: { changeId: "c1", volumeId: "v" },
        checkpointIntervalMs: 50,
        wrapSource: (device) => pausedAt(device, 32 * MiB, told),
      }),
    );
    done.catch(() => undefined);
    return { done, goOn };
  }

  for (const version of kopiaVersions) {
    it(`are incomplete snapshots without the mover's tags, which Kopia ${version} verifies and does not list`, async function () {
      this.timeout(60_000);
      skipUnlessKopia(this, version);
      const { done, goOn } = slowBackup();
      try {
        const [item] = await waitFor(async () => (await checkpoints()).length > 0 && checkpoints(), {
          what: "a checkpoint",
        });
        const manifest = decodeSnapshotManifest(item!.labels, item!.data);
        expect(manifest.incomplete).to.equal("checkpoint");
        expect(Object.keys(manifest.tags)).to.have.members(["bdev-source-size", "snapshot-requester"]);
        expect(await withRepository(repository, (opened) => opened.listSnapshots())).to.deep.equal([]);

        const kopia = new Kopia({ version, directory: temp.file("kopia"), password: PASSWORD });
        await kopia.connect({ path: repository });
        // Its snapshots are the indented lines below each source.
        expect(await kopia.runOrThrow(["snapshot", "list", "--all"])).not.to.match(/^ /m);
        expect(await kopia.runOrThrow(["snapshot", "list", "--all", "--incomplete"])).to.match(/^ .*\(incomplete\)/m);
        await kopia.runOrThrow(["snapshot", "verify", "--verify-files-percent=100"]);
        await kopia.runOrThrow(["content", "verify", "--full"]);
      } finally {
        goOn();
      }
      const { snapshotId } = await done;
      expect(await checkpoints()).to.deep.equal([]);
      await withRepository(repository, (opened) => restoreTo(opened, snapshotId, temp.file("restored")));
      await assertSameBytes(image, temp.file("restored"));
    });
  }

  it("replace each other, so that there is never more than one", async () => {
    const { done, goOn } = slowBackup();
    const seen = new Set<string>();
    try {
      await waitFor(
        async () => {
          const found = await checkpoints();
          expect(found.length).to.be.at.most(1);
          for (const { id } of found) seen.add(id);
          return seen.size >= 3;
        },
        { what: "three checkpoints" },
      );
    } finally {
      goOn();
    }
    await done;
    expect(await checkpoints()).to.deep.equal([]);
  });

  it("of a backup that died stay hidden, are no parent, and go with a backup of the same volume hours later", async function () {
    this.timeout(60_000);
    const cancel = new AbortController();
    const { done, goOn } = slowBackup({ signal: cancel.signal });
    await waitFor(async () => (await checkpoints()).length > 0, { what: "a checkpoint" });
    cancel.abort(new Error("died"));
    goOn();
    await done.catch(() => undefined);
    await sleep(10);
    const left = await checkpoints();
    expect(left.length).to.be.at.most(1);

    const next = await withRepository(repository, (opened) =>
      backUp(opened, image, { changes: { baseChangeId: "c1", async *ranges() {} }, volumeId: "v" }),
    );
    expect(next).to.include({ type: "full", fallbackReason: "there is no earlier snapshot of this source" });
    expect(await checkpoints(), "it could be a backup under way").to.have.length(left.length);

    const storage = await openStorage(repository);
    const later = (): number => Date.now() + 7 * HOUR_MS;
    const opened = await openKopiaRepository({
      // The store's clock has to agree.
      storage: withClock(storage, later),
      password: PASSWORD,
      nowMs: later,
    });
    await backUp(opened, image);
    await opened.close();
    expect(await checkpoints()).to.deep.equal([]);
  });
});

/** `device`, which does not give what lies at `fromBytes` or behind until `told`. */
function pausedAt(device: BlockDevice, fromBytes: number, told: Promise<void>): BlockDevice {
  return {
    path: device.path,
    info: device.info,
    read: (target, offsetBytes) => device.read(target, offsetBytes),
    readChunks: async (target, offsetBytes, chunkSizeBytes) => {
      if (offsetBytes >= fromBytes) await told;
      return device.readChunks(target, offsetBytes, chunkSizeBytes);
    },
    write: (source, offsetBytes) => device.write(source, offsetBytes),
    zeroRange: (offsetBytes, lengthBytes) => device.zeroRange(offsetBytes, lengthBytes),
    flush: () => device.flush(),
    close: () => device.close(),
  };
}

/** `store`, whose blobs all seem to have been written just now by its clock. */
function withClock(store: BlobStorage, nowMs: () => number): BlobStorage {
  return {
    description: store.description,
    get: (id, options) => store.get(id, options),
    put: (id, parts, options) => store.put(id, parts, options),
    list: (prefix, signal) => store.list(prefix, signal),
    delete: (id, signal) => store.delete(id, signal),
    stat: async (id, signal) => ({ ...(await store.stat(id, signal)), modifiedMs: nowMs() }),
    close: () => store.close(),
  };
}
