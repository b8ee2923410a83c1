import { expect } from "chai";
import { faulty, type Fault, type FaultyStorage } from "../../../../../services/datapath/repository/storage/faulty.js";
import { MemoryStorage } from "../../../../../services/datapath/repository/storage/memory.js";
import { bytesOf, describeBlobStorage, failure, listed, rejection, seed, textOf } from "./conformance.js";

describeBlobStorage("faulty without faults", async () => ({ store: faulty(new MemoryStorage(), { seed }) }));

describe("faulty", () => {
  let below: MemoryStorage;
  let store: FaultyStorage;
  let nowMs: number;

  beforeEach(async () => {
    nowMs = 0;
    below = new MemoryStorage({ nowMs: () => ++nowMs });
    store = faulty(below, { seed });
    await below.put("blob", [bytesOf("0123456789")]);
  });

  it("fails before anything has happened", async () => {
    store.inject("fail-before", { operation: "put" });
    await failure(store.put("other", []), "UNAVAILABLE");
    await failure(below.get("other"), "NOT_FOUND");
    await store.put("other", []);
  });

  it("fails after it has happened", async () => {
    store.inject("fail-after", { times: 2 });
    await failure(store.put("other", []), "UNAVAILABLE");
    await below.get("other");
    await failure(store.delete("other"), "UNAVAILABLE");
    await failure(below.get("other"), "NOT_FOUND");
  });

  it("stalls until it is aborted, and tells who could not be", async () => {
    const controller = new AbortController();
    store.inject("stall", { times: 2 });
    const get = store.get("blob", { signal: controller.signal });
    const reason = new Error("stop");
    setTimeout(() => controller.abort(reason), 5);
    expect(await rejection(get)).to.equal(reason);
    expect((await failure(store.get("blob"), "INTERNAL")).message).to.contain("gave no signal");
  });

  it(`cuts a blob short: fewer bytes of the whole, data loss of a range (seed ${seed})`, async () => {
    store.inject("cut", { times: 2 });
    const short = textOf(await store.get("blob"));
    expect(short.length).to.be.lessThan(10);
    expect("0123456789").to.contain(short);
    await failure(store.get("blob", { range: { offsetBytes: 2, lengthBytes: 3 } }), "DATA_LOSS");
  });

  it(`flips one bit of what is read, and none of what is stored (seed ${seed})`, async () => {
    store.inject("flip-bit");
    const read = await store.get("blob");
    const stored = await below.get("blob");
    const flipped = read.reduce((bits, byte, index) => bits + popCount(byte ^ stored[index]!), 0);
    expect(flipped).to.equal(1);
    expect(textOf(stored)).to.equal("0123456789");
  });

  it("loses a delete", async () => {
    store.inject("lose-delete");
    await store.delete("blob");
    await below.get("blob");
  });

  it("hides the newest blob from a list, wherever it is in it", async () => {
    for (const newest of ["blob", "b", "c"]) {
      await below.put("b", []);
      await below.put("c", []);
      await below.put(newest, []);
      store.inject("hide-newest");
      const expected = ["b", "blob", "c"].filter((id) => id !== newest);
      expect((await listed(store, "")).map(({ id }) => id)).to.deep.equal(expected);
      expect(await listed(store, "")).to.have.length(3);
    }
  });

  it("breaks a list off on its way", async () => {
    await below.put("c", []);
    store.inject("fail-after");
    const seen: string[] = [];
    const walk = async (): Promise<void> => {
      for await (const { id } of store.list("")) {
        seen.push(id);
      }
    };
    await failure(walk(), "UNAVAILABLE");
    expect(seen).to.deep.equal(["blob"]);
  });

  it("injects only where it was told to", async () => {
    store.inject("fail-before", { operation: "get", idPrefix: "p" });
    await store.get("blob");
    await store.stat("blob");
    await failure(store.get("p1"), "UNAVAILABLE");
    expect(() => store.inject("cut", { operation: "put" })).to.throw(/never happens/);
  });

  it(`draws the same faults from the same seed, about as often as asked (seed ${seed})`, async () => {
    const run = async (): Promise<{ outcomes: boolean[]; counts: Map<Fault, number> }> => {
      const drawn = faulty(below, { seed, rates: { "fail-before": 0.1, "fail-after": 0.2 } });
      const outcomes: boolean[] = [];
      for (let round = 0; round < 2000; round++) {
        outcomes.push((await rejection(drawn.stat("blob"))) === undefined);
      }
      return { outcomes, counts: drawn.counts };
    };
    const first = await run();
    expect((await run()).outcomes).to.deep.equal(first.outcomes);
    expect(first.counts.get("fail-before")).to.be.within(120, 280);
    expect(first.counts.get("fail-after")).to.be.within(300, 500);
  });
});

function popCount(byte: number): number {
  return byte.toString(2).replaceAll("0", "").length;
}
