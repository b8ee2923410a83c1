/**
 * What every BlobStorage promises, as one suite: a store or a wrapper passes it or does not exist.
 *
 * Random tests show their seed in the title; `SEED=<n>` replays it.
 */

import { expect } from "chai";
import { isCancelled } from "../../../../../services/common/cancellation.js";
import { isBlockmoverError, type ErrorCode } from "../../../../../services/common/errors.js";
import type { BlobMetadata, BlobStorage } from "../../../../../services/datapath/repository/storage/blob-storage.js";
import { testSeed } from "../../../../support/random-data.js";
import { seededRandom } from "../../../../../services/datapath/repository/storage/faulty.js";

export interface StoreUnderTest {
  readonly store: BlobStorage;
  /** Checks what only this kind of store can check (nothing left behind), and cleans up. */
  readonly dispose?: () => Promise<void>;
}

/** The seed of this run. */
export const seed = testSeed();

const hash = "0bb110664e8b5b7c31fd49c9e3ba469a";
const session = "s531bea9f2b3eaa72147";

/** Ids of every shape that a repository has, some of which share shard directories. */
const repositoryIds: readonly string[] = [
  "kopia.repository",
  "kopia.repository.backup.user@host.example",
  "kopia.blobcfg",
  "udmrepo.Repository",
  "xe1",
  "xe12",
  "xw1700000000",
  `xn1_${hash}-${session}-c1`,
  `xn1_${hash}-${session}-c2`,
  `xn10_${hash}-${session}-c1`,
  `xn100_${hash}-${session}-c1`,
  `xs1_${hash}-s0123456789abcdef-c1`,
  `xr0_9_${hash}-s0123456789abcdef-c1`,
  `p${hash}-${session}`,
  `p0bb2${hash.slice(4)}-${session}`,
  `p0bc1${hash.slice(4)}-${session}`,
  `q${hash}-${session}`,
  "_log_20261122070426_6403_1763795066_1763795068_1_8a3f",
  "a2345678901234567890", // 20 characters: in the root
  "a23456789012345678901", // 21: not
  "a2345678901234567890.f", // not to be taken for the file of the first one
];

/** Runs the suite against the stores that `makeStore` makes, one for each test. */
export function describeBlobStorage(name: string, makeStore: () => Promise<StoreUnderTest>): void {
  describe(`${name} is a blob store`, function () {
    this.timeout(60_000);
    let underTest: StoreUnderTest;
    let store: BlobStorage;

    beforeEach(async () => {
      underTest = await makeStore();
      store = underTest.store;
    });

    afterEach(async () => {
      await store.close();
      await underTest.dispose?.();
    });

    it("gives back what was put, whatever the id", async () => {
      for (const id of repositoryIds) {
        await store.put(id, [bytesOf(`content of ${id}`)]);
      }
      for (const id of repositoryIds) {
        expect(textOf(await store.get(id))).to.equal(`content of ${id}`);
        expect((await store.stat(id)).lengthBytes).to.equal(`content of ${id}`.length);
      }
    });

    it("keeps empty blobs, of no part and of an empty part", async () => {
      await store.put("empty1", []);
      await store.put("empty2", [new Uint8Array(0), new Uint8Array(0)]);
      for (const id of ["empty1", "empty2"]) {
        expect(await store.get(id)).to.have.length(0);
        expect(await store.get(id, { range: { offsetBytes: 0, lengthBytes: 0 } })).to.have.length(0);
        expect((await store.stat(id)).lengthBytes).to.equal(0);
      }
      expect((await listed(store, "empty")).map(({ lengthBytes }) => lengthBytes)).to.deep.equal([0, 0]);
    });

    it(`reads exact ranges, into new memory or the caller's (seed ${seed})`, async () => {
      const random = seededRandom(seed);
      const data = randomBytes(random, 100_003);
      await store.put("ranges", [data]);
      for (let round = 0; round < 60; round++) {
        const offsetBytes = Math.floor(random() * (data.length + 1));
        const lengthBytes = round < 5 ? 0 : Math.floor(random() * (data.length - offsetBytes + 1));
        const expected = data.subarray(offsetBytes, offsetBytes + lengthBytes);
        const what = `${lengthBytes} at ${offsetBytes}`;
        const own = await store.get("ranges", { range: { offsetBytes, lengthBytes } });
        expect(Buffer.compare(own, expected), what).to.equal(0);

        const memory = new Uint8Array(lengthBytes + 20).fill(0xee);
        const target = memory.subarray(10, 10 + lengthBytes + 5);
        const view = await store.get("ranges", { range: { offsetBytes, lengthBytes }, target });
        expect([view.buffer, view.byteOffset, view.length], what).to.deep.equal([memory.buffer, 10, lengthBytes]);
        expect(Buffer.compare(view, expected), what).to.equal(0);
        expect([...memory.subarray(0, 10), ...memory.subarray(10 + lengthBytes)], what).to.deep.equal(
          new Array(20).fill(0xee),
        );
      }
      const whole = new Uint8Array(data.length + 1);
      expect(Buffer.compare(await store.get("ranges", { target: whole }), data)).to.equal(0);
    });

    it("reports a range beyond the end as data loss, with both lengths", async () => {
      await store.put("short", [new Uint8Array(100)]);
      const ranges = [
        { offsetBytes: 0, lengthBytes: 101 },
        { offsetBytes: 99, lengthBytes: 2 },
        { offsetBytes: 100, lengthBytes: 1 },
        { offsetBytes: 5000, lengthBytes: 10 },
        { offsetBytes: 101, lengthBytes: 0 },
        { offsetBytes: 0, lengthBytes: 2 ** 45 },
      ];
      for (const range of ranges) {
        const wanted = range.offsetBytes + range.lengthBytes;
        const error = await failure(store.get("short", { range }), "DATA_LOSS");
        expect(error.message).to.contain("short").and.to.contain(`expected at least ${wanted} bytes`);
        expect(error.message).to.contain("found 100");
        if (range.lengthBytes < 1000) {
          const target = new Uint8Array(1000);
          await failure(store.get("short", { range, target }), "DATA_LOSS");
        }
      }
    });

    it("refuses ranges that are none, and memory that is too short", async () => {
      await store.put("blob", [new Uint8Array(100)]);
      for (const [offsetBytes, lengthBytes] of [
        [-1, 5],
        [0, -1],
        [0.5, 1],
        [0, NaN],
        [2 ** 53 - 2, 4],
      ] as const) {
        await failure(store.get("blob", { range: { offsetBytes, lengthBytes } }), "INVALID_ARGUMENT");
      }
      const target = new Uint8Array(9);
      await failure(store.get("blob", { target }), "INVALID_ARGUMENT");
      await failure(store.get("blob", { target, range: { offsetBytes: 0, lengthBytes: 10 } }), "INVALID_ARGUMENT");
    });

    it("refuses ids that no store could keep", async () => {
      for (const id of ["", "a/b", "/etc/passwd", "a\0b", "a b", "ü", "x".repeat(600)]) {
        await failure(store.put(id, []), "INVALID_ARGUMENT");
        await failure(store.get(id), "INVALID_ARGUMENT");
        await failure(store.stat(id), "INVALID_ARGUMENT");
        await failure(store.delete(id), "INVALID_ARGUMENT");
      }
    });

    it("says which blob is missing", async () => {
      for (const id of ["kopia.repository", `p${hash}-${session}`]) {
        expect((await failure(store.get(id), "NOT_FOUND")).message).to.contain(id);
        const range = { offsetBytes: 0, lengthBytes: 5 };
        await failure(store.get(id, { range, target: new Uint8Array(5) }), "NOT_FOUND");
        expect((await failure(store.stat(id), "NOT_FOUND")).message).to.contain(id);
      }
    });

    it("replaces a blob, also by a shorter one", async () => {
      await store.put("blob", [bytesOf("a long first version")]);
      await store.put("blob", [bytesOf("second")]);
      expect(textOf(await store.get("blob"))).to.equal("second");
      expect((await listed(store, "blob")).map(({ lengthBytes }) => lengthBytes)).to.deep.equal([6]);
    });

    it("never shows a mix of two versions to readers", async () => {
      // Version v is (v * 7919 % 50 000 + 50 000) bytes of value v.
      const lengthOf = (version: number): number => ((version * 7919) % 50_000) + 50_000;
      const put = (version: number): Promise<void> => {
        const half = Math.floor(lengthOf(version) / 2);
        const parts = [new Uint8Array(half), new Uint8Array(lengthOf(version) - half)];
        return store.put(
          "blob",
          parts.map((part) => part.fill(version)),
        );
      };
      await put(0);
      let writing = true;
      const read = async (): Promise<number> => {
        let reads = 0;
        for (; writing; reads++) {
          const data = await store.get("blob");
          const version = data[0]!;
          expect(data.length).to.equal(lengthOf(version));
          expect(data.every((byte) => byte === version)).to.equal(true);
          const range = { offsetBytes: 100, lengthBytes: 40_000 };
          const part = await store.get("blob", { range, target: new Uint8Array(40_000) });
          expect(part.every((byte) => byte === part[0])).to.equal(true);
        }
        return reads;
      };
      const write = async (): Promise<void> => {
        try {
          for (let version = 1; version < 60; version++) {
            await put(version);
            await new Promise((resolve) => setImmediate(resolve));
          }
        } finally {
          writing = false;
        }
      };
      const [, ...reads] = await Promise.all([write(), read(), read()]);
      expect(Math.min(...reads)).to.be.greaterThan(0);
    });

    it("lets one of many exclusive puts win, and keeps the winner's bytes", async () => {
      for (const id of ["kopia.repository", `xn1_${hash}-${session}-c1`]) {
        const writers = Array.from({ length: 16 }, (_, writer) => `from writer ${writer}`);
        const outcomes = await Promise.allSettled(
          writers.map((text) => store.put(id, [bytesOf(text)], { onlyIfAbsent: true })),
        );
        const winners = writers.filter((_, writer) => outcomes[writer]?.status === "fulfilled");
        expect(winners).to.have.length(1);
        expect(textOf(await store.get(id))).to.equal(winners[0]);
        for (const outcome of outcomes) {
          if (outcome.status === "rejected") {
            expect(isBlockmoverError(outcome.reason, "ALREADY_EXISTS"), String(outcome.reason)).to.equal(true);
          }
        }
        await store.delete(id);
        await store.put(id, [bytesOf("again")], { onlyIfAbsent: true });
      }
    });

    it("lists by prefix, wherever the prefix is cut", async () => {
      for (const id of repositoryIds) {
        await store.put(id, [bytesOf(id)]);
      }
      const prefixes = new Set(["", "xn1_", "xn10_", "z", "p0bb1zzz", "kopia.repository.f"]);
      for (const id of repositoryIds) {
        for (let length = 1; length <= id.length; length++) {
          prefixes.add(id.slice(0, length));
        }
      }
      for (const prefix of prefixes) {
        const expected = repositoryIds.filter((id) => id.startsWith(prefix)).sort();
        const found = await listed(store, prefix);
        expect(
          found.map(({ id }) => id),
          `prefix ${JSON.stringify(prefix)}`,
        ).to.deep.equal(expected);
        for (const { id, lengthBytes } of found) {
          expect(lengthBytes).to.equal(id.length);
        }
      }
    });

    it("lists and stats with the same time, the store's own of the last write", async () => {
      await store.put("kopia.repository", [bytesOf("one")]);
      const first = await store.stat("kopia.repository");
      expect(Math.abs(first.modifiedMs - Date.now())).to.be.lessThan(10_000);
      await new Promise((resolve) => setTimeout(resolve, 20));
      await store.put("kopia.repository", [bytesOf("two")]);
      const second = await store.stat("kopia.repository");
      expect(second.modifiedMs).to.be.greaterThan(first.modifiedMs);
      expect(await listed(store, "")).to.deep.equal([second]);
    });

    it("lists more blobs than it can have in hand, each once", async () => {
      const ids = Array.from(
        { length: 700 },
        (_, index) => `p${(index * 7).toString(16).padStart(32, "0")}-${session}`,
      );
      for (let begin = 0; begin < ids.length; begin += 20) {
        await Promise.all(ids.slice(begin, begin + 20).map((id) => store.put(id, [])));
      }
      expect((await listed(store, "p")).map(({ id }) => id)).to.deep.equal(ids);
    });

    it("lists all that stays while other blobs come and go", async () => {
      const idOf = (kind: string, index: number): string =>
        `p${(index % 8).toString(16).padStart(3, "0")}${index.toString().padStart(20, "0")}${kind}`;
      const staying = Array.from({ length: 40 }, (_, index) => idOf("s", index));
      for (const id of staying) {
        await store.put(id, []);
      }
      let changing = true;
      const change = async (): Promise<void> => {
        for (let index = 0; changing; index++) {
          await store.put(idOf("t", index % 50), []);
          await store.delete(idOf("t", (index + 25) % 50));
        }
      };
      const changes = change();
      try {
        for (let round = 0; round < 20; round++) {
          const found = await listed(store, "p");
          expect(found.map(({ id }) => id).filter((id) => id.endsWith("s"))).to.deep.equal(staying.sort());
        }
      } finally {
        changing = false;
        await changes;
      }
    });

    it("stops listing when the consumer does", async () => {
      for (const id of repositoryIds) {
        await store.put(id, []);
      }
      for await (const blob of store.list("")) {
        expect(repositoryIds).to.include(blob.id);
        break;
      }
      expect(await listed(store, "")).to.have.length(repositoryIds.length);
    });

    it("deletes, and does not mind deleting twice", async () => {
      for (const id of ["kopia.blobcfg", `s${hash}-${session}`]) {
        await store.put(id, [bytesOf("x")]);
        await store.delete(id);
        await store.delete(id);
        await failure(store.get(id), "NOT_FOUND");
        expect(await listed(store, id)).to.deep.equal([]);
      }
    });

    it(`puts thousands of parts in their order, with empty ones between (seed ${seed})`, async () => {
      const random = seededRandom(seed);
      const parts = Array.from({ length: 5000 }, () =>
        randomBytes(random, Math.max(0, Math.floor(random() * 50) - 10)),
      );
      await store.put("parts", parts);
      expect(Buffer.compare(await store.get("parts"), Buffer.concat(parts))).to.equal(0);
    });

    it(`puts and gets 25 MiB (seed ${seed})`, async () => {
      const random = seededRandom(seed);
      const pattern = Buffer.from(randomBytes(random, 1_000_003));
      const data = Buffer.alloc(25 * 1024 * 1024, pattern);
      const cuts = [0, 17, 9 * 1024 * 1024 + 1, 20 * 1024 * 1024, data.length];
      await store.put(
        "large",
        cuts.slice(1).map((end, index) => data.subarray(cuts[index], end)),
      );
      expect(Buffer.compare(await store.get("large"), data)).to.equal(0);
      const range = { offsetBytes: 1, lengthBytes: data.length - 1 };
      const target = new Uint8Array(data.length);
      expect(Buffer.compare(await store.get("large", { range, target }), data.subarray(1))).to.equal(0);
    });

    it("rejects with the signal's reason when it is aborted already", async () => {
      await store.put("blob", [bytesOf("x")]);
      const reason = new Error("enough");
      const signal = AbortSignal.abort(reason);
      const calls: (() => Promise<unknown>)[] = [
        () => store.get("blob", { signal }),
        () => store.put("other", [bytesOf("y")], { signal }),
        () => store.delete("blob", signal),
        () => store.stat("blob", signal),
        () => listed(store, "", signal),
      ];
      for (const call of calls) {
        expect(await rejection(call())).to.equal(reason);
      }
      expect((await listed(store, "")).map(({ id }) => id)).to.deep.equal(["blob"]);
    });

    it(`leaves the old blob or the new one when a put is aborted on its way (seed ${seed})`, async () => {
      const random = seededRandom(seed);
      const parts = Array.from({ length: 12 }, () => new Uint8Array(1024 * 1024).fill(2));
      for (let round = 0; round < 12; round++) {
        await store.put("blob", [new Uint8Array(10).fill(1)]);
        const controller = new AbortController();
        const put = store.put("blob", parts, { signal: controller.signal });
        const aborted = new Promise<void>((resolve) =>
          setTimeout(() => {
            controller.abort(new Error("stop"));
            resolve();
          }, random() * 30),
        );
        const error = await rejection(put);
        expect(error === undefined || isCancelled(error, controller.signal), String(error)).to.equal(true);
        await aborted;
        const lengths = error === undefined ? [12 * 1024 * 1024] : [10, 12 * 1024 * 1024];
        expect(lengths).to.include((await store.get("blob")).length);
      }
    });

    it("stops a listing when it is aborted on its way", async () => {
      for (const id of repositoryIds) {
        await store.put(id, []);
      }
      const controller = new AbortController();
      const reason = new Error("stop");
      const walk = async (): Promise<void> => {
        for await (const blob of store.list("", controller.signal)) {
          expect(blob.id).to.not.equal("");
          controller.abort(reason);
        }
      };
      expect(await rejection(walk())).to.equal(reason);
    });
  });
}

/** All blobs of a prefix, by id. */
export async function listed(store: BlobStorage, prefix: string, signal?: AbortSignal): Promise<BlobMetadata[]> {
  const blobs: BlobMetadata[] = [];
  for await (const blob of store.list(prefix, signal)) {
    blobs.push(blob);
  }
  return blobs.sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
}

/** The error of `promise`; fails unless it is a BlockmoverError of `code`. */
export async function failure(
  promise: Promise<unknown>,
  code: ErrorCode,
): Promise<Error & { hint?: string | undefined }> {
  const error = await rejection(promise);
  if (!isBlockmoverError(error)) {
    expect.fail(`expected ${code}, got ${String(error)}`);
  }
  expect(error.code, error.message).to.equal(code);
  return error;
}

/** What `promise` rejects with; undefined if it does not. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return error;
  }
}

export function bytesOf(text: string): Uint8Array {
  return Buffer.from(text);
}

export function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString();
}

export function randomBytes(random: () => number, lengthBytes: number): Uint8Array {
  return Uint8Array.from({ length: lengthBytes }, () => Math.floor(random() * 256));
}
