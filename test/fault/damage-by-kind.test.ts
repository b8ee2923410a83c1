/**
 * Damage to each kind of thing that a repository is made of, and a store that fails at each request: what a snapshot
 * does not need does it no harm, what it needs is named, and no failure leaves half a snapshot.
 */
import { chmod, readFile, rm, truncate, writeFile } from "node:fs/promises";
import path from "node:path";

import { expect } from "chai";

import { BlockmoverError, messageOf } from "../../services/common/errors.js";
import { runBackup } from "../../services/datapath/data-mover.js";
import type { BlockDevice } from "../../services/datapath/device/block-device.js";
import { parseContentId, type ContentId } from "../../services/datapath/repository/kopia/content-id.js";
import { newContentCipher } from "../../services/datapath/repository/kopia/encryption.js";
import { newContentHash } from "../../services/datapath/repository/kopia/hashing.js";
import type { ContentEntry } from "../../services/datapath/repository/kopia/index-entry.js";
import { IndexStore } from "../../services/datapath/repository/kopia/index-store.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { MemoryStorage } from "../../services/datapath/repository/storage/memory.js";
import { retrying } from "../../services/datapath/repository/storage/retrying.js";
import { openStorage } from "../../services/datapath/repository/storage/storage-url.js";
import { runCli, type CliResult } from "../support/cli.js";
import { assertSameBytes } from "../support/compare.js";
import { flipBit } from "../support/flip-bit.js";
import { intercept, type StorageRequest } from "../support/intercepted-storage.js";
import { blobIds, newMemoryRepository, reopen } from "../support/memory-repository.js";
import { Random, testSeed, writeRandom } from "../support/random-data.js";
import {
  backUp,
  blobFiles,
  createRepository,
  openRepository,
  PASSWORD,
  restoreTo,
  sessionMarkers,
  SOURCE,
  temporaryFiles,
  withRepository,
  type BlobFile,
} from "../support/repositories.js";
import { run } from "../support/run.js";
import { MiB } from "../support/sizes.js";
import { skipBecause, skipUnlessRoot } from "../support/skip.js";
import { useTempDir } from "../support/temp-dir.js";

describe("damage", () => {
  const seed = testSeed();
  const temp = useTempDir();
  let random: Random;
  let image: string;
  let repository: string;

  beforeEach(async () => {
    random = new Random(seed).fork("kinds");
    image = temp.file("image");
    await writeRandom(image, random, { lengthBytes: 5 * MiB + 512 });
    repository = await createRepository(temp.file("repository"));
  });

  const cli = (...args: readonly string[]): Promise<CliResult> =>
    runCli([...args, "--repo", repository], { env: { BLOCKMOVER_PASSWORD: PASSWORD } });

  /** Restores the snapshot exactly, or says what the error was. */
  async function attemptRestore(snapshotId: string): Promise<unknown> {
    const target = temp.file("restored");
    try {
      await withRepository(repository, (opened) => restoreTo(opened, snapshotId, target));
    } catch (error) {
      return error;
    }
    try {
      await assertSameBytes(image, target);
      return undefined;
    } finally {
      await rm(target);
    }
  }

  /** Where the contents of a snapshot lie. */
  async function contentsOf(
    snapshotId: string,
  ): Promise<Record<"data" | "table" | "directory" | "manifest", ContentEntry>> {
    const storage = await openStorage(repository);
    return withRepository(repository, async (opened) => {
      const { format } = opened;
      const index = new IndexStore({
        storage,
        hash: newContentHash(format.hash, format.secret),
        cipher: newContentCipher(format.encryption, format.masterKey),
        epochRefreshFrequencyMs: format.epochParameters.epochRefreshFrequencyMs,
        nowMs: Date.now,
      });
      await index.load();
      const snapshot = await opened.getSnapshot(snapshotId);
      const objectId = await opened.volumeObjectId(snapshot);
      const data: ContentId[] = [];
      for await (const batch of (await opened.openObject(objectId)).entries()) {
        data.push(...batch.map(({ contentId }) => parseContentId(contentId)));
      }
      const entry = (id: ContentId): ContentEntry => index.find(id)!;
      const manifests = [...index.manifestContents()].map(entry);
      return {
        data: entry(random.pick(data)),
        table: entry(parseContentId(objectId.replace(/^I+/, ""))),
        directory: entry(parseContentId(snapshot.rootObjectId)),
        // The one of the maintenance owner is older.
        manifest: manifests
          .sort((a, b) => b.timestampSeconds - a.timestampSeconds || (a.packBlobId < b.packBlobId ? -1 : 1))
          .find(({ packBlobId }) => packBlobId === entry(parseContentId(snapshot.rootObjectId)).packBlobId)!,
      };
    });
  }

  for (const kind of ["data", "table", "directory", "manifest"] as const) {
    it(`of one bit of a ${kind} content is told with the content and its pack (seed ${seed})`, async () => {
      const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
      const entry = (await contentsOf(snapshotId))[kind];
      const pack = (await blobFiles(repository, entry.packBlobId))[0]!.path;
      for (const at of [0, random.below(entry.packedLength), entry.packedLength - 1]) {
        await flipBit(pack, entry.packOffset + at);
        for (const command of [
          ["restore", snapshotId, temp.file("restored")],
          ["snapshot", "verify", snapshotId],
        ]) {
          const result = await cli(...command);
          expect(result.code, result.stderr).to.equal(1);
          expect(result.stderr).to.contain(entry.contentId).and.to.contain(entry.packBlobId);
        }
        await flipBit(pack, entry.packOffset + at);
      }
      expect(await attemptRestore(snapshotId)).to.equal(undefined);
    });
  }

  it(`of what a snapshot does not need does it no harm (seed ${seed})`, async () => {
    const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
    // A pack begins with random bytes and ends with an index of its own, for those who have lost all others.
    for (const { path: file } of [...(await blobFiles(repository, "p")), ...(await blobFiles(repository, "q"))]) {
      await flipBit(file, 3);
      const { length } = await readFile(file);
      await flipBit(file, length - 1);
      await flipBit(file, length - 60);
    }
    expect(await attemptRestore(snapshotId)).to.equal(undefined);
    expect((await cli("snapshot", "verify")).code).to.equal(0);
  });

  it(`of kopia.blobcfg stops everything, its absence nothing (seed ${seed})`, async () => {
    const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
    const [{ path: file }] = (await blobFiles(repository, "kopia.blobcfg")) as [BlobFile];
    const good = await readFile(file);
    for (let at = 0; at < good.length; at += 5) {
      await flipBit(file, at);
      const error = await openRepository(repository).catch((reason: unknown) => reason);
      expect(error).to.be.instanceOf(BlockmoverError).and.to.have.property("code", "DATA_LOSS");
      expect((error as BlockmoverError).message).to.contain("kopia.blobcfg");
      await writeFile(file, good);
    }
    await truncate(file, 7);
    const result = await cli("snapshot", "list");
    expect([result.code, result.stderr]).to.satisfy(([code]: [number]) => code === 1);
    expect(result.stderr).to.contain("kopia.blobcfg");
    await rm(file);
    expect(await attemptRestore(snapshotId)).to.equal(undefined);
  });

  it(`of any one bit of kopia.repository is an error, or does not matter (seed ${seed})`, async function () {
    this.timeout(60_000);
    const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
    const [{ path: file }] = (await blobFiles(repository, "kopia.repository")) as [BlobFile];
    const good = await readFile(file);
    const codes = new Map<string, number>();
    for (let round = 0; round < 40; round++) {
      const at = random.below(good.length);
      await flipBit(file, at);
      const outcome = await attemptRestore(snapshotId);
      const code =
        outcome === undefined ? "exact" : outcome instanceof BlockmoverError ? outcome.code : messageOf(outcome);
      codes.set(code, (codes.get(code) ?? 0) + 1);
      expect(code, `byte ${at}: ${messageOf(outcome)}`).to.be.oneOf([
        "exact",
        "DATA_LOSS",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
      ]);
      await writeFile(file, good);
    }
    expect(codes.get("UNAUTHENTICATED"), "most of it is sealed").to.be.greaterThan(5);
  });

  for (const prefix of ["kopia.repository", "p", "q", "xn"]) {
    it(`by which a blob ${prefix}… ends early is an error, or does not matter (seed ${seed})`, async function () {
      this.timeout(60_000);
      const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
      let refusals = 0;
      for (let round = 0; round < 12; round++) {
        const { id, path: file } = random.pick(await blobFiles(repository, prefix));
        const good = await readFile(file);
        const lengthBytes = round === 0 ? 0 : random.below(good.length);
        await truncate(file, lengthBytes);
        const outcome = await attemptRestore(snapshotId);
        if (outcome !== undefined) {
          refusals++;
          expect(outcome, `${id} cut to ${lengthBytes}: ${messageOf(outcome)}`).to.be.instanceOf(BlockmoverError);
          expect((outcome as BlockmoverError).code, `${id} cut to ${lengthBytes}`).to.equal("DATA_LOSS");
          expect((outcome as BlockmoverError).message).to.contain(id);
        }
        await writeFile(file, good);
      }
      expect(refusals).to.be.greaterThan(0);
      expect(await attemptRestore(snapshotId)).to.equal(undefined);
    });
  }

  it(`of a parent makes the next backup a full one, and it says so (seed ${seed})`, async () => {
    const tracked = (changeId: string) => ({ changeTracking: { changeId, volumeId: "v" } });
    const first = await withRepository(repository, (opened) => backUp(opened, image, tracked("c1")));
    const { table } = await contentsOf(first.snapshotId);
    await flipBit((await blobFiles(repository, table.packBlobId))[0]!.path, table.packOffset + 20);
    await writeRandom(image, random, { lengthBytes: 5 * MiB });
    const second = await withRepository(repository, (opened) =>
      backUp(opened, image, {
        ...tracked("c2"),
        changes: {
          baseChangeId: "c1",
          async *ranges() {
            yield { offsetBytes: 0, lengthBytes: 5 * MiB };
          },
        },
      }),
    );
    expect(second.type).to.equal("full");
    expect(second.fallbackReason)
      .to.contain(`snapshot ${first.snapshotId} cannot be read`)
      .and.to.contain(table.contentId);
    expect(await attemptRestore(second.snapshotId)).to.equal(undefined);
  });

  it(`of the device, at any chunk, leaves no snapshot (seed ${seed})`, async () => {
    const first = await withRepository(repository, (opened) => backUp(opened, image));
    await writeRandom(image, random, { lengthBytes: 5 * MiB });
    for (const badChunk of [0, random.between(1, 4), 5]) {
      const failure = new BlockmoverError("DATA_LOSS", `pread ${image} at offset ${badChunk * MiB}: EIO`);
      const outcome = runBackup(
        {
          repository: { url: repository, password: PASSWORD },
          devicePath: image,
          source: SOURCE,
          description: "",
          parent: { kind: "auto" },
        },
        { wrapSource: (device) => failingAt(device, badChunk * MiB, failure) },
        new AbortController().signal,
      );
      expect(await outcome.catch((error: unknown) => error)).to.equal(failure);
      const ids = await withRepository(repository, (opened) => opened.listSnapshots());
      expect(ids.map(({ id }) => id)).to.deep.equal([first.snapshotId]);
      expect(await sessionMarkers(repository)).to.deep.equal([]);
      expect(await temporaryFiles(repository)).to.deep.equal([]);
    }
  });

  it("does not come of a user who may only read: he can list and restore, and not back up", async function () {
    skipUnlessRoot(this);
    const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
    await run("chmod", ["-R", "a+rX", repository, image]);
    await chmod(temp.path, 0o755);
    await run("install", ["-d", "-o", "65534", temp.file("theirs")]);
    const asNobody = (...args: readonly string[]) =>
      run(
        "setpriv",
        [
          "--reuid=65534",
          "--regid=65534",
          "--clear-groups",
          process.execPath,
          path.resolve("bin/blockmover.cjs"),
          ...args,
          "--repo",
          repository,
        ],
        { env: { ...process.env, HOME: "/nonexistent", BLOCKMOVER_PASSWORD: PASSWORD } },
      );
    const restored = await asNobody("restore", snapshotId, temp.file("theirs", "restored"));
    if (/Cannot find module|has not been built|EACCES.*blockmover\.cjs/.test(restored.stderr))
      skipBecause(this, "private-checkout");
    expect(restored.code, restored.stderr).to.equal(0);
    await assertSameBytes(image, temp.file("theirs", "restored"));
    const refused = await asNobody("backup", image);
    expect(refused.code, refused.stderr).to.equal(1);
    expect(refused.stderr)
      .to.match(/cannot write blob .* in .*EACCES/)
      .and.to.contain(repository);
    const ids = await withRepository(repository, (opened) => opened.listSnapshots());
    expect(ids.map(({ id }) => id)).to.deep.equal([snapshotId]);
  });
});

describe("a store that fails", () => {
  const seed = testSeed();
  const temp = useTempDir();
  let image: string;
  let base: BlobStorage;

  beforeEach(async () => {
    image = temp.file("image");
    await writeRandom(image, new Random(seed).fork("store"), { lengthBytes: 3 * MiB });
    const { storage, repository } = await newMemoryRepository();
    base = storage;
    await backUp(repository, image, { source: { ...SOURCE, path: "first" } });
    await repository.close();
    await writeRandom(image, new Random(seed).fork("changed"), { lengthBytes: 3 * MiB });
  });

  /** A backup during which `onRequest` may throw; returns what came of it, and the store. */
  async function attempt(
    onRequest: (request: StorageRequest) => void,
    wrap: (store: BlobStorage) => BlobStorage = (store) => store,
  ): Promise<{ readonly outcome: unknown; readonly store: MemoryStorage }> {
    const store = new MemoryStorage();
    for (const id of await blobIds(base, "")) await store.put(id, [await base.get(id)]);
    let outcome: unknown;
    try {
      const repository = await reopen(wrap(intercept(store, onRequest)));
      try {
        await backUp(repository, image);
      } finally {
        await repository.close();
      }
    } catch (error) {
      outcome = error;
    }
    return { outcome, store };
  }

  /** The requests of a backup, from opening to closing. */
  async function requestsOfBackup(): Promise<StorageRequest[]> {
    const requests: StorageRequest[] = [];
    const { outcome } = await attempt((request) => {
      if (matters(request)) requests.push(request);
    });
    expect(outcome).to.equal(undefined);
    return requests;
  }

  /** A read that fails before or after it was done is the same to whoever asked. */
  function matters({ operation, phase }: StorageRequest): boolean {
    return phase === "before" || operation === "put" || operation === "delete";
  }

  /** How many snapshots there are, all of which restore, as does the next one. */
  async function countWholeSnapshots(store: BlobStorage): Promise<number> {
    const repository = await reopen(store);
    const found = await repository.listSnapshots();
    const next = await backUp(repository, image);
    for (const { id } of [...found.filter(({ source }) => source.path !== "first"), { id: next.snapshotId }]) {
      await restoreTo(repository, id, temp.file("restored"));
      await assertSameBytes(image, temp.file("restored"));
      await rm(temp.file("restored"));
    }
    expect(await repository.listSnapshots()).to.have.length(found.length + 1);
    await repository.close();
    return found.length;
  }

  it("for good, at any request: no snapshot, or a whole one, and the next backup succeeds", async function () {
    this.timeout(120_000);
    const requests = await requestsOfBackup();
    let errors = 0;
    for (const [moment, { operation, id, phase }] of requests.entries()) {
      const failure = new BlockmoverError("PERMISSION_DENIED", `${phase} ${operation} ${id}: no more`);
      let seen = 0;
      const { outcome, store } = await attempt((request) => {
        if (matters(request) && seen++ === moment) throw failure;
      });
      const count = await countWholeSnapshots(store);
      if (outcome === undefined) {
        // Only what comes after the snapshot is durable may fail quietly.
        expect([operation, id.charAt(0)], failure.message).to.deep.equal(["delete", "s"]);
        expect(count).to.equal(2);
      } else {
        errors++;
        expect(outcome, failure.message).to.equal(failure);
        // What was stored before the answer got lost is there, and whole.
        const isLost = phase === "after" && operation === "put" && id.startsWith("x");
        const isAfterIndex = requests
          .slice(0, moment)
          .some((earlier) => earlier.operation === "put" && earlier.id.startsWith("xn"));
        expect(count, failure.message).to.equal(isLost || isAfterIndex ? 2 : 1);
      }
    }
    expect(errors).to.be.greaterThan(10);
  });

  it("once, at any request, is tried again, and the backup succeeds", async function () {
    this.timeout(120_000);
    const requests = await requestsOfBackup();
    const atOnce = { nowMs: () => 0, sleep: () => Promise.resolve(), random: () => 0 };
    for (const [moment, { operation, id, phase }] of requests.entries()) {
      let seen = 0;
      const { outcome, store } = await attempt(
        (request) => {
          if (matters(request) && seen++ === moment) throw new BlockmoverError("UNAVAILABLE", "just now");
        },
        (inner) => retrying(inner, {}, atOnce),
      );
      expect(outcome, `${phase} ${operation} ${id}`).to.equal(undefined);
      expect(await countWholeSnapshots(store)).to.equal(2);
      expect(await blobIds(store, "s")).to.deep.equal([]);
    }
  });
});

/** `device`, but with a chunk that cannot be read. */
function failingAt(device: BlockDevice, badBytes: number, failure: Error): BlockDevice {
  const check = (offsetBytes: number, lengthBytes: number): void => {
    if (offsetBytes <= badBytes && badBytes < offsetBytes + lengthBytes) throw failure;
  };
  return {
    path: device.path,
    info: device.info,
    read: async (target, offsetBytes) => {
      check(offsetBytes, target.length);
      return device.read(target, offsetBytes);
    },
    readChunks: async (target, offsetBytes, chunkSizeBytes) => {
      check(offsetBytes, target.length);
      return device.readChunks(target, offsetBytes, chunkSizeBytes);
    },
    write: (source, offsetBytes) => device.write(source, offsetBytes),
    zeroRange: (offsetBytes, lengthBytes) => device.zeroRange(offsetBytes, lengthBytes),
    flush: () => device.flush(),
    close: () => device.close(),
  };
}
