/** Beside a maintenance that does its worst at the worst moment: the rules of kopia-format.md §10.4, one by one. */
import { expect } from "chai";

import { BlockmoverError } from "../../services/common/errors.js";
import type { ContentId } from "../../services/datapath/repository/kopia/content-id.js";
import { epochMarkerName } from "../../services/datapath/repository/kopia/epoch.js";
import type { KopiaRepository } from "../../services/datapath/repository/kopia/kopia-repository.js";
import { volumeSource } from "../../services/datapath/repository/kopia/velero-block-layout.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { MemoryStorage } from "../../services/datapath/repository/storage/memory.js";
import { backup, type BackupOptions, type BackupResult } from "../../services/datapath/uploader/backup.js";
import { restore } from "../../services/datapath/uploader/restore.js";
import { intercept } from "../support/intercepted-storage.js";
import { MemoryDevice } from "../support/memory-device.js";
import { blobIds, newMemoryRepository, reopen } from "../support/memory-repository.js";
import { OtherClient } from "../support/other-client.js";
import { Random, testSeed } from "../support/random-data.js";
import { MiB } from "../support/sizes.js";

/** A store in which a test acts just before a get or after a put, and that remembers what it was asked. */
class Watched {
  onGet: (id: string) => Promise<void> | void = () => undefined;
  afterPut: (id: string) => Promise<void> | void = () => undefined;
  readonly puts: string[] = [];
  readonly lists: string[] = [];
  readonly storage: BlobStorage;

  constructor(readonly inner: BlobStorage) {
    this.storage = intercept(inner, async ({ operation, id, phase }) => {
      if (operation === "get" && phase === "before") {
        await this.onGet(id);
      } else if (operation === "list" && phase === "before") {
        this.lists.push(id);
      } else if (operation === "put" && phase === "after") {
        this.puts.push(id);
        await this.afterPut(id);
      }
    });
  }
}

describe("a backup beside maintenance", () => {
  const seed = testSeed();
  const random = new Random(seed).fork("maintenance");
  let watched: Watched;
  let repository: KopiaRepository;

  beforeEach(async () => {
    watched = new Watched(new MemoryStorage());
    ({ repository } = await newMemoryRepository({ storage: watched.storage }));
  });
  afterEach(() => repository.close());

  const backUp = (bytes: Buffer, options: Partial<BackupOptions> & { before?: MemoryDevice["before"] } = {}) => {
    const device = new MemoryDevice(bytes);
    if (options.before) device.before = options.before;
    return backup({
      device,
      repository,
      source: volumeSource("snapshot-data-upload-download/velero-block/shop/db"),
      description: "test",
      parent: { kind: "auto" },
      signal: new AbortController().signal,
      ...options,
    });
  };
  const contentsOf = async (result: BackupResult): Promise<ContentId[]> => {
    const ids: ContentId[] = [];
    const object = await repository.openObject(result.objectId);
    for await (const batch of object.entries()) ids.push(...batch.map((entry) => entry.contentId as ContentId));
    return ids;
  };
  const expectRestores = async (snapshotId: string, bytes: Buffer): Promise<void> => {
    const fresh = await reopen(watched.inner);
    const device = new MemoryDevice(Buffer.alloc(bytes.length, 1));
    const snapshot = await fresh.getSnapshot(snapshotId);
    const { signal } = new AbortController();
    await restore({ repository: fresh, snapshot, device, isTargetZero: false, signal });
    expect(device.bytes.equals(bytes)).to.equal(true);
  };

  it(`writes contents again that were marked deleted after it had relied on them (seed ${seed})`, async () => {
    const bytes = random.bytes(20 * MiB);
    const first = await backUp(bytes);
    const relied = (await contentsOf(first)).slice(0, 3);
    const other = await OtherClient.open(watched.inner);
    let done = false;
    const second = await backUp(bytes, {
      before: async (_call, offsetBytes) => {
        if (offsetBytes === 16 * MiB && !done) {
          done = true;
          await other.markDeleted(relied);
        }
      },
    });
    await other.index.load();
    expect(relied.map((id) => other.index.isLive(id))).to.deep.equal([true, true, true]);
    await expectRestores(second.snapshotId, bytes);
  });

  it("fails, and makes no snapshot, when contents that it had relied on are gone", async () => {
    const bytes = random.bytes(20 * MiB);
    const first = await backUp(bytes);
    const relied = (await contentsOf(first)).slice(0, 1);
    const other = await OtherClient.open(watched.inner);
    let done = false;
    const outcome: unknown = await backUp(bytes, {
      before: async (_call, offsetBytes) => {
        if (offsetBytes === 16 * MiB && !done) {
          done = true;
          await other.drop(relied);
        }
      },
    }).catch((error: unknown) => error);
    expect(outcome).to.be.instanceOf(BlockmoverError);
    expect((outcome as BlockmoverError).message).to.contain(relied[0]);
    expect((outcome as BlockmoverError).hint).to.match(/again/);
    const after = await reopen(watched.inner);
    expect((await after.listSnapshots()).map(({ id }) => id)).to.deep.equal([first.snapshotId]);
    // … and the next backup stores what is missing.
    repository = after;
    await expectRestores((await backUp(bytes)).snapshotId, bytes);
  });

  it("does not rely on a content that is marked deleted when it starts", async () => {
    const bytes = random.bytes(3 * MiB);
    const first = await backUp(bytes);
    const other = await OtherClient.open(watched.inner);
    await other.markDeleted(await contentsOf(first));
    repository = await reopen(watched.storage);
    const second = await backUp(bytes);
    expect(second.newContentBytes).to.equal(3 * MiB);
    await other.index.load();
    expect((await contentsOf(second)).every((id) => other.index.isLive(id))).to.equal(true);
    await expectRestores(second.snapshotId, bytes);
  });

  it("reads a chunk again whose content in the parent is marked deleted", async () => {
    const bytes = random.bytes(6 * MiB);
    const tracked = (changeId: string): Partial<BackupOptions> => ({ changeTracking: { changeId, volumeId: "v" } });
    const first = await backUp(bytes, tracked("c1"));
    const other = await OtherClient.open(watched.inner);
    await other.markDeleted((await contentsOf(first)).slice(2, 3));
    repository = await reopen(watched.storage);
    const second = await backUp(bytes, {
      ...tracked("c2"),
      changes: { baseChangeId: "c1", ranges: async function* () {} },
    });
    expect(second).to.include({ type: "incremental", incrementalBytes: MiB, newContentBytes: MiB });
    await other.index.load();
    expect((await contentsOf(second)).every((id) => other.index.isLive(id))).to.equal(true);
    await expectRestores(second.snapshotId, bytes);
  });

  it("writes its index again when two epochs began while it was being stored", async () => {
    let advanced = false;
    watched.afterPut = async (id) => {
      if (id.startsWith("xn0_") && !advanced) {
        advanced = true;
        await watched.inner.put(epochMarkerName(1), [Buffer.from("epoch-marker")]);
        await watched.inner.put(epochMarkerName(2), [Buffer.from("epoch-marker")]);
      }
    };
    const bytes = random.bytes(2 * MiB);
    const indexesBefore = await blobIds(watched.inner, "xn0_");
    const { snapshotId } = await backUp(bytes);
    expect(advanced).to.equal(true);
    expect(await blobIds(watched.inner, "xn0_")).to.deep.equal(indexesBefore);
    expect(await blobIds(watched.inner, "xn2_")).to.have.length(1);
    await expectRestores(snapshotId, bytes);
  });

  it("leaves an index where it is when one epoch began: writers may be one behind", async () => {
    watched.afterPut = async (id) => {
      if (id.startsWith("xn0_")) await watched.inner.put(epochMarkerName(1), [Buffer.from("epoch-marker")]);
    };
    const bytes = random.bytes(MiB);
    const { snapshotId } = await backUp(bytes);
    expect(await blobIds(watched.inner, "xn1_")).to.have.length(0);
    await expectRestores(snapshotId, bytes);
  });

  it("gives up when epochs keep running away, instead of committing what nobody would read", async () => {
    let epoch = 0;
    watched.afterPut = async (id) => {
      if (id.startsWith("xn")) {
        epoch += 2;
        await watched.inner.put(epochMarkerName(epoch), [Buffer.from("epoch-marker")]);
      }
    };
    const outcome: unknown = await backUp(random.bytes(MiB)).catch((error: unknown) => error);
    expect((outcome as BlockmoverError).code).to.equal("FAILED_PRECONDITION");
    expect((outcome as BlockmoverError).message).to.contain("epochs");
  });

  it("reads the state again when an index blob vanishes between listing and reading", async () => {
    const { snapshotId } = await backUp(random.bytes(MiB));
    let vanished = 0;
    watched.onGet = (id) => {
      if (id.startsWith("xn") && vanished++ === 0) {
        throw new BlockmoverError("NOT_FOUND", `blob ${id}`);
      }
    };
    const listsBefore = watched.lists.filter((prefix) => prefix === "xe").length;
    const opened = await reopen(watched.storage);
    expect((await opened.getSnapshot(snapshotId)).id).to.equal(snapshotId);
    expect(watched.lists.filter((prefix) => prefix === "xe").length - listsBefore).to.equal(2);
  });

  it("keeps a session marker while packs are not indexed, and none afterwards", async () => {
    const markersAtPack: number[] = [];
    watched.afterPut = async (id) => {
      if (/^[pq]/.test(id)) markersAtPack.push((await blobIds(watched.inner, "s")).length);
    };
    await backUp(random.bytes(24 * MiB));
    expect(markersAtPack.length).to.be.at.least(3);
    expect(markersAtPack).to.deep.equal(markersAtPack.map(() => 1));
    const firstMarker = watched.puts.findIndex((id) => id.startsWith("s"));
    const firstPack = watched.puts.findIndex((id) => id.startsWith("p"));
    expect(firstMarker).to.be.below(firstPack);
    expect(await blobIds(watched.inner, "s")).to.have.length(0);
  });

  it("refuses to write when the clocks differ by more than five minutes", async () => {
    const skewed = new MemoryStorage({ nowMs: () => Date.now() - 10 * 60_000 });
    const outcome: unknown = await newMemoryRepository({ storage: skewed }).catch((error: unknown) => error);
    expect((outcome as BlockmoverError).code).to.equal("FAILED_PRECONDITION");
    expect((outcome as BlockmoverError).message).to.contain("clock");
    expect(await blobIds(skewed, "s")).to.have.length(0);
  });

  it("flushes its index every ten minutes and reads the index anew every fifteen", async () => {
    let elapsedMs = 0;
    const nowMs = (): number => Date.now() + elapsedMs;
    watched = new Watched(new MemoryStorage({ nowMs }));
    ({ repository } = await newMemoryRepository({ storage: watched.storage, nowMs }));
    const indexesBefore = watched.puts.filter((id) => id.startsWith("xn")).length;
    const loadsBefore = watched.lists.filter((prefix) => prefix === "xw").length;
    const bytes = random.bytes(200 * MiB);
    const { snapshotId } = await backUp(bytes, {
      before: () => {
        elapsedMs += 4 * 60_000; // 25 reads: 100 minutes
      },
    });
    const indexes = watched.puts.filter((id) => id.startsWith("xn")).length - indexesBefore;
    const loads = watched.lists.filter((prefix) => prefix === "xw").length - loadsBefore;
    expect(indexes, "index blobs").to.be.within(3, 12);
    expect(loads, "loads of the index").to.be.within(2, 10);
    await expectRestores(snapshotId, bytes);
  });
});
