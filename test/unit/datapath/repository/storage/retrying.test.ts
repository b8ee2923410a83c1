import { expect } from "chai";
import { throwIfAborted } from "../../../../../services/common/cancellation.js";
import type { BlobMetadata } from "../../../../../services/datapath/repository/storage/blob-storage.js";
import {
  faulty,
  seededRandom,
  type FaultyStorage,
} from "../../../../../services/datapath/repository/storage/faulty.js";
import { MemoryStorage } from "../../../../../services/datapath/repository/storage/memory.js";
import { retrying, type RetryClock } from "../../../../../services/datapath/repository/storage/retrying.js";
import { bytesOf, describeBlobStorage, failure, listed, rejection, seed, textOf } from "./conformance.js";

describeBlobStorage("retrying", async () => ({ store: retrying(new MemoryStorage(), {}, new FakeClock()) }));

describeBlobStorage(`retrying over a store that fails half of the time (seed ${seed})`, async () => {
  const rates = { "fail-before": 0.25, "fail-after": 0.25 };
  // Many writers at once share this clock, so that each one's pauses use up the budget of all: it is made large.
  const policy = { budgetMs: 24 * 3600 * 1000 };
  return { store: retrying(faulty(new MemoryStorage(), { seed, rates }), policy, new FakeClock()) };
});

/** Time that passes only in sleep. */
class FakeClock implements RetryClock {
  readonly sleeps: number[] = [];
  #nowMs = 1000;
  readonly #random: () => number;

  constructor(random: () => number = seededRandom(seed)) {
    this.#random = random;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    this.sleeps.push(ms);
    this.#nowMs += ms;
    await Promise.resolve();
    throwIfAborted(signal);
  }

  random(): number {
    return this.#random();
  }
}

describe("retrying", () => {
  let below: FaultyStorage;

  beforeEach(async () => {
    below = faulty(new MemoryStorage(), { seed });
    await below.put("blob", [bytesOf("data")]);
  });

  it("pauses longer each time, up to the limit", async () => {
    const clock = new FakeClock(() => 0);
    const store = retrying(below, { firstDelayMs: 100, factor: 2, maxDelayMs: 500, budgetMs: 10_000 }, clock);
    below.inject("fail-before", { times: 5 });
    expect(textOf(await store.get("blob"))).to.equal("data");
    expect(clock.sleeps).to.deep.equal([100, 200, 400, 500, 500]);
  });

  it(`shortens each pause by chance, to a half at most (seed ${seed})`, async () => {
    const clock = new FakeClock();
    const store = retrying(below, { firstDelayMs: 100, factor: 1, maxDelayMs: 100, budgetMs: 10_000 }, clock);
    below.inject("fail-before", { times: 50 });
    await store.stat("blob");
    expect(Math.min(...clock.sleeps)).to.be.within(50, 70);
    expect(Math.max(...clock.sleeps)).to.be.within(80, 100);
  });

  it("gives up when the budget is used up, with the last cause and the number of tries", async () => {
    const clock = new FakeClock(() => 0);
    const store = retrying(below, { firstDelayMs: 1000, factor: 1, maxDelayMs: 1000, budgetMs: 3500 }, clock);
    below.inject("fail-before", { times: 100 });
    const error = await failure(store.delete("blob"), "UNAVAILABLE");
    expect(error.message).to.contain("injected fault: delete blob").and.to.contain("gave up after 4 tries in 3.0 s");
    expect(error.cause).to.have.property("code", "UNAVAILABLE");
  });

  it("tries once with no budget", async () => {
    const clock = new FakeClock();
    below.inject("fail-before");
    await failure(retrying(below, { budgetMs: 0 }, clock).get("blob"), "UNAVAILABLE");
    expect(clock.sleeps).to.deep.equal([]);
  });

  it("does not try again what would fail again", async () => {
    const clock = new FakeClock();
    const broken = faulty(new MemoryStorage(), { seed, code: "DATA_LOSS" });
    const store = retrying(broken, {}, clock);
    broken.inject("fail-before");
    await failure(store.get("blob"), "DATA_LOSS");
    await failure(store.get("blob"), "NOT_FOUND");
    expect(clock.sleeps).to.deep.equal([]);
  });

  it("stops at once when it is aborted in a pause, with real time", async () => {
    const store = retrying(below, { firstDelayMs: 60_000, maxDelayMs: 60_000 });
    const controller = new AbortController();
    const reason = new Error("stop");
    below.inject("fail-before");
    setTimeout(() => controller.abort(reason), 5);
    const startedMs = performance.now();
    expect(await rejection(store.get("blob", { signal: controller.signal }))).to.equal(reason);
    expect(performance.now() - startedMs).to.be.lessThan(5000);
  });

  it("does not start to pause after an abort", async () => {
    const controller = new AbortController();
    const reason = new Error("stop");
    const clock = new FakeClock();
    below.inject("fail-after");
    const get = retrying(below, {}, clock).get("blob", { signal: controller.signal });
    queueMicrotask(() => controller.abort(reason));
    expect(await rejection(get)).to.equal(reason);
    expect(clock.sleeps).to.deep.equal([]);
  });

  describe("an exclusive put that failed after taking effect", () => {
    it("succeeds when the blob there has its bytes", async () => {
      below.inject("fail-after", { operation: "put" });
      const store = retrying(below, {}, new FakeClock());
      await store.put("new", [bytesOf("ab"), bytesOf("c")], { onlyIfAbsent: true });
      expect(textOf(await store.get("new"))).to.equal("abc");
    });

    for (const other of ["abd", "abcd", "ab"]) {
      it(`fails when the blob there is another's (${other} for abc)`, async () => {
        below.inject("fail-before", { operation: "put" });
        const clock = new FakeClock();
        const store = retrying(
          below,
          {},
          {
            nowMs: () => clock.nowMs(),
            random: () => clock.random(),
            sleep: () => below.put("new", [bytesOf(other)]), // somebody else, meanwhile
          },
        );
        await failure(store.put("new", [bytesOf("abc")], { onlyIfAbsent: true }), "ALREADY_EXISTS");
      });
    }

    it("fails at once when the blob was there before, whatever its bytes", async () => {
      const store = retrying(below, {}, new FakeClock());
      await failure(store.put("blob", [bytesOf("data")], { onlyIfAbsent: true }), "ALREADY_EXISTS");
    });
  });

  it("goes on with a list that broke off, and gives no blob twice", async () => {
    const ids = Array.from({ length: 20 }, (_, index) => `p${index.toString().padStart(2, "0")}`);
    for (const id of ids) {
      await below.put(id, []);
    }
    below.inject("fail-before", { operation: "list" });
    below.inject("fail-after", { operation: "list", times: 3 });
    const clock = new FakeClock();
    expect((await listed(retrying(below, {}, clock), "p")).map(({ id }) => id)).to.deep.equal(ids);
    expect(clock.sleeps).to.have.length(4);
  });

  it("counts the budget of a list from the last blob it gave", async () => {
    class SlowListing extends MemoryStorage {
      #given = 0;
      override async *list(): AsyncGenerator<BlobMetadata> {
        for (let index = 0; index <= this.#given; index++) {
          yield { id: `p${index}`, lengthBytes: 0, modifiedMs: 0 };
        }
        this.#given++;
        if (this.#given < 10) {
          await failAlways();
        }
      }
    }
    const failAlways = async (): Promise<void> => {
      const broken = faulty(new MemoryStorage(), { seed });
      broken.inject("fail-before");
      await broken.stat("listing");
    };
    const store = retrying(new SlowListing(), { firstDelayMs: 1000, budgetMs: 1500 }, new FakeClock(() => 0));
    expect(await listed(store, "p")).to.have.length(10);
  });
});
