import { expect } from "chai";
import type { ChangedRanges } from "../../../../services/datapath/cbt/changed-ranges.js";
import type { KopiaRepository } from "../../../../services/datapath/repository/kopia/kopia-repository.js";
import { volumeSource } from "../../../../services/datapath/repository/kopia/velero-block-layout.js";
import type { BlobStorage } from "../../../../services/datapath/repository/storage/blob-storage.js";
import { backup, type BackupOptions, type BackupResult } from "../../../../services/datapath/uploader/backup.js";
import { restore } from "../../../../services/datapath/uploader/restore.js";
import { verifySnapshot } from "../../../../services/datapath/uploader/verify.js";
import { MemoryDevice } from "../../../support/memory-device.js";
import { blobIds, newMemoryRepository } from "../../../support/memory-repository.js";
import { Random, testSeed } from "../../../support/random-data.js";

const MIB = 1024 * 1024;
const SOURCE = volumeSource("snapshot-data-upload-download/velero-block/shop/db");

function changes(baseChangeId: string, ranges: readonly (readonly [number, number])[]): ChangedRanges {
  return {
    baseChangeId,
    ranges: async function* () {
      await Promise.resolve();
      for (const [offsetBytes, lengthBytes] of ranges) yield { offsetBytes, lengthBytes };
    },
  };
}

describe("backup and restore", () => {
  const seed = testSeed();
  const random = new Random(seed);
  let storage: BlobStorage;
  let repository: KopiaRepository;

  beforeEach(async () => {
    ({ storage, repository } = await newMemoryRepository());
  });
  afterEach(() => repository.close());

  const backUp = (device: MemoryDevice, options: Partial<BackupOptions> = {}): Promise<BackupResult> =>
    backup({
      device,
      repository,
      source: SOURCE,
      description: "test",
      parent: { kind: "auto" },
      signal: new AbortController().signal,
      ...options,
    });
  const restored = async (snapshotId: string, target?: Buffer): Promise<Buffer> => {
    const snapshot = await repository.getSnapshot(snapshotId);
    const device = new MemoryDevice(target ?? Buffer.alloc(snapshot.volumeSizeBytes, 0xee));
    await restore({ repository, snapshot, device, isTargetZero: false, signal: new AbortController().signal });
    return device.bytes;
  };
  const volume = (sizeBytes: number, zeroFrom = sizeBytes): Buffer => random.bytes(sizeBytes).fill(0, zeroFrom);
  const tracked = (changeId: string): Partial<BackupOptions> => ({ changeTracking: { changeId, volumeId: "vol" } });

  for (const sizeBytes of [512, MIB - 512, MIB, MIB + 512, 9 * MIB + 4096, 17 * MIB]) {
    it(`restores a volume of ${sizeBytes} bytes exactly (seed ${seed})`, async () => {
      const bytes = volume(sizeBytes);
      const result = await backUp(new MemoryDevice(bytes));
      expect(result.type).to.equal("full");
      expect(result.volumeSizeBytes).to.equal(sizeBytes);
      expect((await restored(result.snapshotId)).equals(bytes)).to.equal(true);
    });
  }

  it("writes no byte beyond the volume's size to a larger target", async () => {
    const bytes = volume(MIB + 512);
    const { snapshotId } = await backUp(new MemoryDevice(bytes));
    const target = await restored(snapshotId, Buffer.alloc(3 * MIB, 0xee));
    expect(target.subarray(0, bytes.length).equals(bytes)).to.equal(true);
    expect(target.subarray(bytes.length).every((byte) => byte === 0xee)).to.equal(true);
  });

  it("reads only what changed, and keeps the rest of the parent", async () => {
    const before = volume(20 * MIB);
    const full = await backUp(new MemoryDevice(before), tracked("c1"));
    const after = Buffer.from(before);
    random.fill(after.subarray(5 * MIB + 100, 5 * MIB + 200));
    after.fill(0, 12 * MIB, 13 * MIB);
    const device = new MemoryDevice(after);
    const result = await backUp(device, {
      ...tracked("c2"),
      changes: changes("c1", [
        [5 * MIB + 100, 100],
        [12 * MIB, MIB],
      ]),
    });
    expect(result.type).to.equal("incremental");
    expect(result.parentSnapshotId).to.equal(full.snapshotId);
    expect(result.incrementalBytes).to.equal(2 * MIB);
    expect(result.newContentBytes).to.equal(MIB);
    expect(device.calls.map((call) => call.offsetBytes)).to.have.members([5 * MIB, 12 * MIB]);
    expect((await restored(result.snapshotId)).equals(after)).to.equal(true);
    expect((await restored(full.snapshotId)).equals(before)).to.equal(true);
  });

  describe("when the size changes", () => {
    for (const [what, from, to] of [
      ["grows from inside a chunk", 3 * MIB + 512, 5 * MIB + 1024],
      ["grows within one chunk", 3 * MIB + 512, 3 * MIB + 2048],
      ["grows from a chunk's end", 3 * MIB, 4 * MIB],
      ["shrinks into a chunk", 5 * MIB, 3 * MIB + 512],
      ["shrinks within one chunk", 3 * MIB + 2048, 3 * MIB + 512],
      ["shrinks to a chunk's end", 5 * MIB + 512, 3 * MIB],
    ] as const) {
      it(`is exact when it ${what}, though the tracker says nothing`, async () => {
        const before = volume(from);
        await backUp(new MemoryDevice(before), tracked("c1"));
        const after = Buffer.alloc(to);
        before.copy(after);
        if (to > from) random.fill(after.subarray(from)); // some trackers do not report what a volume grew by
        const result = await backUp(new MemoryDevice(after), { ...tracked("c2"), changes: changes("c1", []) });
        expect(result.type).to.equal("incremental");
        expect((await restored(result.snapshotId)).equals(after)).to.equal(true);
      });
    }

    it("shows zeros, not the past, after shrinking inside a chunk and growing again", async () => {
      const before = volume(3 * MIB);
      await backUp(new MemoryDevice(before), tracked("c1"));
      await backUp(new MemoryDevice(before.subarray(0, 2 * MIB + 512)), {
        ...tracked("c2"),
        changes: changes("c1", []),
      });
      const after = Buffer.alloc(3 * MIB);
      before.copy(after, 0, 0, 2 * MIB + 512);
      const result = await backUp(new MemoryDevice(after), { ...tracked("c3"), changes: changes("c2", []) });
      expect(result.type).to.equal("incremental");
      expect((await restored(result.snapshotId)).equals(after)).to.equal(true);
    });
  });

  describe("falls back to a full backup and says why", () => {
    const bytes = volume(2 * MIB);
    const increment = (options: Partial<BackupOptions>): Promise<BackupResult> =>
      backUp(new MemoryDevice(bytes), { ...tracked("c2"), changes: changes("c1", []), ...options });

    it("without an earlier snapshot", async () => {
      const result = await increment({});
      expect(result.type).to.equal("full");
      expect(result.fallbackReason).to.contain("no earlier snapshot");
    });

    it("when the parent has another change id, volume id or none", async () => {
      await backUp(new MemoryDevice(bytes), tracked("other"));
      expect((await increment({})).fallbackReason).to.contain("change id other");
      await backUp(new MemoryDevice(bytes), { changeTracking: { changeId: "c1", volumeId: "another" } });
      expect((await increment({})).fallbackReason).to.contain("of volume another");
      await backUp(new MemoryDevice(bytes));
      expect((await increment({})).fallbackReason).to.contain("has no change id");
    });

    it("when only an older snapshot has the right change id: the newest counts", async () => {
      await backUp(new MemoryDevice(bytes), tracked("c1"));
      await backUp(new MemoryDevice(bytes), tracked("c1b"));
      expect((await increment({})).type).to.equal("full");
    });

    it("when the parent that was named is gone or of another source", async () => {
      const missing = await increment({ parent: { kind: "snapshot", id: "0".repeat(32) } });
      expect(missing.fallbackReason).to.contain("does not exist");
      const other = await backUp(new MemoryDevice(bytes), { ...tracked("c1"), source: volumeSource("elsewhere") });
      const foreign = await increment({ parent: { kind: "snapshot", id: other.snapshotId } });
      expect(foreign.fallbackReason).to.contain("not a complete snapshot of this source");
    });

    it("but not when a full one was asked for", async () => {
      await backUp(new MemoryDevice(bytes), tracked("c1"));
      const result = await increment({ parent: { kind: "none" } });
      expect(result.type).to.equal("full");
      expect(result.fallbackReason).to.equal(undefined);
    });

    it("fails, rather than falls back, when the ranges end with an error", async () => {
      await backUp(new MemoryDevice(bytes), tracked("c1"));
      const failure = new Error("tracker gone");
      const broken: ChangedRanges = {
        baseChangeId: "c1",

        ranges: async function* () {
          yield { offsetBytes: 0, lengthBytes: 1 };
          throw failure;
        },
      };
      expect(await increment({ changes: broken }).catch((error: unknown) => error)).to.equal(failure);
      expect(await repository.listSnapshots()).to.have.length(1);
    });
  });

  describe("leaves no snapshot", () => {
    it("when the device fails, at any read", async () => {
      for (let failing = 0; failing < 3; failing++) {
        const device = new MemoryDevice(volume(20 * MIB));
        const failure = new Error("bad sector");
        let reads = 0;
        device.before = () => {
          if (reads++ === failing) throw failure;
        };
        expect(await backUp(device).catch((error: unknown) => error)).to.equal(failure);
        expect(await repository.listSnapshots()).to.have.length(0);
        ({ storage, repository } = await newMemoryRepository()); // a failed writer is not used again
      }
    });

    it("when the device becomes smaller while it is read", async () => {
      const device = new MemoryDevice(volume(20 * MIB));
      device.before = (_call, offsetBytes) => {
        if (offsetBytes === 16 * MIB) device.bytes = device.bytes.subarray(0, 18 * MIB);
      };
      const outcome: unknown = await backUp(device).catch((error: unknown) => error);
      expect(String(outcome)).to.contain("while it was read");
      expect(await repository.listSnapshots()).to.have.length(0);
    });

    it("when it is cancelled, at any read", async () => {
      for (let at = 0; at < 4; at++) {
        const cancel = new AbortController();
        const reason = new Error("cancelled");
        const device = new MemoryDevice(volume(28 * MIB));
        let reads = 0;
        device.before = () => {
          if (reads++ === at) cancel.abort(reason);
        };
        expect(await backUp(device, { signal: cancel.signal }).catch((error: unknown) => error)).to.equal(reason);
        expect(await repository.listSnapshots()).to.have.length(0);
        await repository.close();
        expect(await blobIds(storage, "s")).to.have.length(0);
        ({ storage, repository } = await newMemoryRepository());
      }
    });
  });

  it("stops a restore when it is cancelled or the target fails", async () => {
    const { snapshotId } = await backUp(new MemoryDevice(volume(20 * MIB, 10 * MIB)));
    const snapshot = await repository.getSnapshot(snapshotId);
    for (const call of ["write", "zero", "flush"] as const) {
      const device = new MemoryDevice(Buffer.alloc(20 * MIB));
      const failure = new Error(`${call} failed`);
      device.before = (made) => {
        if (made === call) throw failure;
      };
      const { signal } = new AbortController();
      const outcome = restore({ repository, snapshot, device, isTargetZero: false, signal });
      expect(await outcome.catch((error: unknown) => error)).to.equal(failure);
      const cancel = new AbortController();
      device.before = (made) => {
        if (made === call) cancel.abort(failure);
      };
      if (call !== "flush") {
        const cancelled = restore({ repository, snapshot, device, isTargetZero: false, signal: cancel.signal });
        expect(await cancelled.catch((error: unknown) => error)).to.equal(failure);
      }
    }
  });

  it("zeroes merged ranges, and leaves a target alone that is zero already", async () => {
    const bytes = Buffer.alloc(40 * MIB);
    random.fill(bytes.subarray(7 * MIB, 8 * MIB));
    const { snapshotId } = await backUp(new MemoryDevice(bytes));
    const snapshot = await repository.getSnapshot(snapshotId);
    const device = new MemoryDevice(Buffer.alloc(40 * MIB, 1));
    const { signal } = new AbortController();
    await restore({ repository, snapshot, device, isTargetZero: false, signal });
    expect(device.bytes.equals(bytes)).to.equal(true);
    expect(device.calls.filter(({ call }) => call === "zero")).to.deep.equal([
      { call: "zero", offsetBytes: 0, lengthBytes: 7 * MIB },
      { call: "zero", offsetBytes: 8 * MIB, lengthBytes: 32 * MIB },
    ]);
    const fresh = new MemoryDevice(Buffer.alloc(40 * MIB));
    const result = await restore({ repository, snapshot, device: fresh, isTargetZero: true, signal });
    expect(fresh.calls.map(({ call }) => call)).to.deep.equal(["write", "flush"]);
    expect(result).to.include({ writtenBytes: MIB, zeroedBytes: 0, skippedBytes: 39 * MIB });
  });

  it("commits checkpoints that nobody takes for snapshots, and removes them at the end", async () => {
    const device = new MemoryDevice(volume(64 * MIB));
    let labels = "";
    device.before = async (_call, offsetBytes) => {
      // The last read waits until a checkpoint has been committed: by then chunks have been written.
      while (offsetBytes === 56 * MIB && labels === "") {
        await new Promise((resolve) => setTimeout(resolve, 5));
        const found = await repository.findManifests({ type: "snapshot" });
        labels = found.map((item) => Object.keys(item.labels).join()).join();
      }
    };
    const result = await backUp(device, { ...tracked("c1"), checkpointIntervalMs: 20 });
    expect(labels)
      .to.contain("path")
      .and.not.match(/uploader|cbt/);
    expect((await repository.listSnapshots()).map(({ id }) => id)).to.deep.equal([result.snapshotId]);
    expect(await repository.findManifests({ type: "snapshot" })).to.have.length(1);
    expect((await restored(result.snapshotId)).equals(device.bytes)).to.equal(true);
  });

  it("verifies what it wrote, and tells every damaged content", async () => {
    const { snapshotId } = await backUp(new MemoryDevice(volume(20 * MIB)));
    const verify = async (): ReturnType<typeof verifySnapshot> =>
      verifySnapshot({
        repository,
        snapshot: await repository.getSnapshot(snapshotId),
        samplePercent: 100,
        random: () => 0,
        signal: new AbortController().signal,
      });
    expect(await verify()).to.include({ problemCount: 0, entryCount: 20, verifiedBytes: 20 * MIB });
    const [pack] = await blobIds(storage, "p");
    const bytes = Buffer.from(await storage.get(pack as string));
    for (const at of [MIB / 2, 5 * MIB]) bytes[at] = (bytes[at] as number) ^ 1;
    await storage.put(pack as string, [bytes]);
    const report = await verify();
    expect(report.problemCount).to.equal(2);
    expect(report.problems[0]).to.contain(pack);
  });
});
