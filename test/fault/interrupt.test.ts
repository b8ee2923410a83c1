/**
 * Work that is cancelled or killed, wherever it is: no snapshot appears that is not whole, nothing is left that hinders
 * anybody, and the next backup succeeds.
 */
import { existsSync, readdirSync } from "node:fs";
import { readdir, rm, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { expect } from "chai";

import { BlockmoverError } from "../../services/common/errors.js";
import { runBackup, runRestore } from "../../services/datapath/data-mover.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { faulty } from "../../services/datapath/repository/storage/faulty.js";
import { MemoryStorage } from "../../services/datapath/repository/storage/memory.js";
import { retrying } from "../../services/datapath/repository/storage/retrying.js";
import { startCli, type CliResult, type CliRun } from "../support/cli.js";
import { assertSameBytes } from "../support/compare.js";
import { Kopia, kopiaVersions, skipUnlessKopia } from "../support/kopia.js";
import { sparseFile } from "../support/loop-device.js";
import { blobIds, newMemoryRepository, reopen } from "../support/memory-repository.js";
import { Random, testSeed, writeRandom } from "../support/random-data.js";
import {
  backUp,
  blobFiles,
  createRepository,
  PASSWORD,
  restoreTo,
  sessionMarkers,
  SOURCE,
  temporaryFiles,
  withRepository,
} from "../support/repositories.js";
import { MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait-for.js";
import { intercept, type StorageRequest } from "../support/intercepted-storage.js";

const RUNS = 20;

/** A cancel takes effect within this. */
const CANCEL_LIMIT_MS = 2_000;

const cli = { env: { BLOCKMOVER_PASSWORD: PASSWORD } };

/** What the signal waits for, and how long it then waits at most. */
const moments = [
  { title: "its start", prefix: undefined, delayMs: 500 },
  { title: "its session marker", prefix: "s", delayMs: 120 },
  { title: "its first pack of data", prefix: "p", delayMs: 120 },
  { title: "its pack of metadata", prefix: "q", delayMs: 10 },
  { title: "its index", prefix: "xn", delayMs: 3 },
] as const;

describe("interrupting", () => {
  const seed = testSeed();
  const temp = useTempDir();
  let random: Random;
  let repository: string;
  let image: string;

  beforeEach(async () => {
    random = new Random(seed);
    repository = await createRepository(temp.file("repository"));
    image = temp.file("image");
  });

  const snapshotIds = (): Promise<string[]> =>
    withRepository(repository, async (opened) => (await opened.listSnapshots()).map(({ id }) => id));

  const expectSnapshotToBe = async (id: string, file: string): Promise<void> => {
    await withRepository(repository, (opened) => restoreTo(opened, id, temp.file("restored"), { force: true }));
    await assertSameBytes(file, temp.file("restored"));
  };

  /** Sends `signal` at a moment of the backup; tells how long it then took to end. */
  async function interrupt(
    started: CliRun,
    signal: NodeJS.Signals,
  ): Promise<CliResult & { readonly tookMs: number; readonly at: string }> {
    const moment = random.pick(moments);
    const before = new Set((await blobFiles(repository)).map(({ id }) => id));
    const state = { isRunning: true };
    const done = started.done.finally(() => (state.isRunning = false));
    const { prefix } = moment;
    while (state.isRunning && prefix !== undefined) {
      if ((await blobFiles(repository, prefix)).some(({ id }) => !before.has(id))) break;
      await sleep(1);
    }
    await sleep(random.below(moment.delayMs));
    const sentMs = performance.now();
    try {
      started.kill(signal);
    } catch {
      // it has not even been spawned, or has ended
    }
    const result = await done;
    return { ...result, tookMs: performance.now() - sentMs, at: moment.title };
  }

  async function verifyWithKopia(): Promise<void> {
    const kopia = new Kopia({ version: kopiaVersions.at(-1)!, directory: temp.file("kopia"), password: PASSWORD });
    await kopia.connect({ path: repository });
    await kopia.runOrThrow(["snapshot", "verify", "--verify-files-percent=100"]);
    await kopia.runOrThrow(["content", "verify", "--full"]);
  }

  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    it(`a backup by ${signal} at ${RUNS} random moments or more harms nothing (seed ${seed})`, async function () {
      this.timeout(300_000);
      skipUnlessKopia(this);
      await writeRandom(image, random, { lengthBytes: 48 * MiB });
      let known = await snapshotIds();
      let interrupted = 0;
      // On a fast machine many moments come too late: more runs, until enough of them were interrupted.
      for (let run = 0; run < RUNS || (interrupted <= RUNS / 3 && run < 3 * RUNS); run++) {
        const changed = random.between(4, 40) * MiB;
        await writeRandom(image, random, { offsetBytes: random.below(48 * MiB - changed), lengthBytes: changed });
        const started = startCli(["backup", image, "--repo", repository, "--json"], cli);
        await sleep(5); // until there is a process
        const ended = await interrupt(started, signal);
        const where = `run ${run}, after ${ended.at}: ${ended.stdout}${ended.stderr}`;
        const now = await snapshotIds();
        const appeared = now.filter((id) => !known.includes(id));
        known = now;

        if (ended.code === 0 || appeared.length > 0) {
          // It was through: with its snapshot, which is whole.
          expect(appeared, where).to.have.length(1);
          // While the process ends, Node gives signals back to the system, and one may still be what ends it.
          if (signal === "SIGINT") expect(ended.jsonResult(), where).to.include({ snapshotId: appeared[0] });
          await expectSnapshotToBe(appeared[0]!, image);
        } else {
          interrupted++;
          if (signal === "SIGKILL") {
            expect(ended.signal, where).to.equal("SIGKILL");
          } else if (ended.signal === null) {
            expect(ended.code, where).to.equal(130);
            expect(ended.jsonLines().at(-1), where).to.deep.include({ type: "error", code: "CANCELLED" });
          } else {
            // Node had not come as far as the program, which would have changed nothing anyway.
            expect([ended.signal, ended.at], where).to.deep.equal(["SIGINT", "its start"]);
          }
        }
        if (signal === "SIGINT") {
          expect(ended.tookMs, where).to.be.lessThan(CANCEL_LIMIT_MS);
          expect(await sessionMarkers(repository), where).to.deep.equal([]);
          expect(await temporaryFiles(repository), where).to.deep.equal([]);
        }
        if (run % 5 === 4) {
          const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
          await expectSnapshotToBe(snapshotId, image);
          known.push(snapshotId);
        }
      }
      expect(interrupted, "most of the runs were interrupted").to.be.greaterThan(RUNS / 3);
      const last = await startCli(["backup", image, "--repo", repository, "--json"], cli).done;
      await expectSnapshotToBe(String(last.jsonResult().snapshotId), image);
      await verifyWithKopia();
    });
  }

  it(`a restore by SIGINT at 10 random moments takes the file with it (seed ${seed})`, async function () {
    this.timeout(120_000);
    await writeRandom(image, random, { lengthBytes: 96 * MiB });
    const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
    const target = temp.file("target");
    let interrupted = 0;
    for (let run = 0; run < 10; run++) {
      const started = startCli(["restore", snapshotId, target, "--repo", repository, "--json"], cli);
      const state = { isRunning: true };
      const done = started.done.finally(() => (state.isRunning = false));
      while (state.isRunning && !existsSync(target)) await sleep(1);
      await sleep(random.below(150));
      const sentMs = performance.now();
      started.kill("SIGINT");
      const result = await done;
      if (result.code === 0) {
        await assertSameBytes(image, target);
      } else {
        interrupted++;
        expect([result.code, result.signal]).to.deep.equal([130, null]);
        expect(performance.now() - sentMs).to.be.lessThan(CANCEL_LIMIT_MS);
        expect(result.jsonLines().at(-1)).to.deep.include({ type: "error", code: "CANCELLED" });
        expect(existsSync(target), "the half-restored file").to.equal(false);
      }
      if (existsSync(target)) await rm(target);
    }
    expect(interrupted).to.be.greaterThan(2);
  });

  it(`a restore leaves a file that was there, in its size (seed ${seed})`, async () => {
    await writeRandom(image, random, { lengthBytes: 32 * MiB });
    await sparseFile(temp.file("target"), 33 * MiB);
    await withRepository(repository, async (opened) => {
      const { snapshotId } = await backUp(opened, image);
      const cancel = new AbortController();
      const restoring = restoreTo(opened, snapshotId, temp.file("target"), { force: true, signal: cancel.signal });
      setTimeout(() => cancel.abort(), 20);
      expect(await restoring.catch((error: unknown) => error)).to.equal(cancel.signal.reason);
      expect((await stat(temp.file("target"))).size).to.equal(33 * MiB);
    });
  });

  it(`leaves no file open, no temporary file and no marker, 24 times (seed ${seed})`, async function () {
    this.timeout(60_000);
    await writeRandom(image, random, { lengthBytes: 48 * MiB });
    const location = { url: repository, password: PASSWORD };
    const { snapshotId } = await withRepository(repository, (opened) => backUp(opened, image));
    const openFiles = (): number => readdirSync("/proc/self/fd").length;
    const before = openFiles();
    let cancelled = 0;
    for (let run = 0; run < 24; run++) {
      const cancel = new AbortController();
      const reason = new Error("enough");
      setTimeout(() => cancel.abort(reason), random.between(1, 450));
      await writeRandom(image, random, { offsetBytes: random.below(24) * MiB, lengthBytes: 24 * MiB });
      const request = { repository: location, parent: { kind: "auto" }, source: SOURCE, description: "" } as const;
      const work =
        run % 2 === 0
          ? runBackup({ ...request, devicePath: image }, {}, cancel.signal)
          : runRestore(
              { repository: location, snapshotId, targetPath: temp.file("target"), force: true },
              {},
              cancel.signal,
            );
      const outcome = await work.then(
        () => "done",
        (error: unknown) => error,
      );
      if (outcome !== "done") {
        expect(outcome).to.equal(reason);
        cancelled++;
        expect(existsSync(temp.file("target"))).to.equal(false);
      }
      expect(openFiles(), `run ${run}`).to.equal(before);
      expect(await sessionMarkers(repository)).to.deep.equal([]);
      expect(await temporaryFiles(repository)).to.deep.equal([]);
      if (existsSync(temp.file("target"))) await rm(temp.file("target"));
    }
    expect(cancelled).to.be.greaterThan(6);
    expect(await readdir(temp.path)).to.have.members(["image", "repository"]);
  });

  describe("between requests to the store", () => {
    const PREVIOUS = "previous";

    /** One increment on a parent, over a store that says when each request begins and ends. */
    async function increment(
      base: BlobStorage,
      onRequest: (request: StorageRequest) => void,
      signal: AbortSignal,
    ): Promise<void> {
      const store = await copyOf(base);
      const repository = await reopen(intercept(store, onRequest));
      let outcome: unknown = "done";
      try {
        await backUp(repository, image, {
          signal,
          changes: { baseChangeId: PREVIOUS, ranges: oneChunk },
          changeTracking: { changeId: "next", volumeId: "v" },
        });
      } catch (error) {
        outcome = error;
      } finally {
        await repository.close();
      }
      if (outcome !== "done") expect(outcome).to.equal(signal.reason);
      const reader = await reopen(store);
      const ids = (await reader.listSnapshots()).map(({ changeTracking: tracking }) => tracking?.changeId);
      expect(ids).to.deep.equal(outcome === "done" ? [PREVIOUS, "next"] : [PREVIOUS]);
      expect(await blobIds(store, "s")).to.deep.equal([]);
      await backUp(reader, image);
      await reader.close();
    }

    async function copyOf(store: BlobStorage): Promise<MemoryStorage> {
      const copy = new MemoryStorage();
      for (const id of await blobIds(store, "")) await copy.put(id, [await store.get(id)]);
      return copy;
    }

    async function* oneChunk(): AsyncGenerator<{ offsetBytes: number; lengthBytes: number }> {
      yield { offsetBytes: MiB, lengthBytes: MiB };
    }

    it("a cancel gives no snapshot, or comes too late and gives a whole one", async function () {
      this.timeout(120_000);
      await writeRandom(image, random, { lengthBytes: 3 * MiB });
      const { storage: base, repository: first } = await newMemoryRepository();
      await backUp(first, image, { changeTracking: { changeId: PREVIOUS, volumeId: "v" } });
      await first.close();
      const requests: StorageRequest[] = [];
      // Between two reads there is one moment, not two.
      const isMoment = ({ operation, phase }: StorageRequest): boolean =>
        phase === "before" || operation === "put" || operation === "delete";
      const note = (request: StorageRequest): void => {
        if (isMoment(request)) requests.push(request);
      };
      await increment(base, note, new AbortController().signal);
      expect(requests.length).to.be.within(10, 100);
      let cancelled = 0;
      for (const moment of requests.keys()) {
        const cancel = new AbortController();
        let seen = 0;
        try {
          await increment(
            base,
            (request) => {
              if (isMoment(request) && seen++ === moment) cancel.abort(new Error(`cancelled at moment ${moment}`));
            },
            cancel.signal,
          );
        } catch (error) {
          const { operation, id, phase } = requests[moment]!;
          throw new Error(`cancelled ${phase} ${operation} ${id}: ${String(error)}`, { cause: error });
        }
        if (cancel.signal.aborted) cancelled++;
      }
      expect(cancelled).to.equal(requests.length);
    });
  });

  for (const [title, fault] of [
    ["that is out of order and tried again and again", "fail-before"],
    ["that does not answer", "stall"],
  ] as const) {
    it(`a backup to a store ${title} ends within 2 s`, async function () {
      this.timeout(30_000);
      await writeRandom(image, random, { lengthBytes: 30 * MiB });
      const { storage } = await newMemoryRepository();
      const broken = faulty(storage, { seed });
      const opened = await reopen(retrying(broken));
      broken.inject(fault, { operation: "put", idPrefix: "p", times: 1_000_000 });
      const cancel = new AbortController();
      const backup = backUp(opened, image, { signal: cancel.signal }).finally(() => opened.close());
      const outcome = backup.catch((error: unknown) => error);
      await waitFor(() => (broken.counts.get(fault) ?? 0) > 0, { what: "the first fault" });
      const cancelledMs = performance.now();
      cancel.abort(new BlockmoverError("UNAVAILABLE", "the user has had enough"));
      expect(await outcome).to.equal(cancel.signal.reason);
      expect(performance.now() - cancelledMs).to.be.lessThan(CANCEL_LIMIT_MS);
    });
  }
});
