import { expect } from "chai";
import type { BlobStorage } from "../../../../../services/datapath/repository/storage/blob-storage.js";
import { limited } from "../../../../../services/datapath/repository/storage/limited.js";
import { MemoryStorage } from "../../../../../services/datapath/repository/storage/memory.js";
import { describeBlobStorage, failure, rejection } from "./conformance.js";

describeBlobStorage("limited (1 at a time)", async () => ({ store: limited(new MemoryStorage(), { maxRunning: 1 }) }));
describeBlobStorage("limited (3 at a time)", async () => ({ store: limited(new MemoryStorage(), { maxRunning: 3 }) }));

/** A store whose gets wait until the test lets them go. */
class GatedStorage extends MemoryStorage {
  readonly started: string[] = [];
  readonly #gates = new Map<string, () => void>();

  override async get(id: string): Promise<Uint8Array> {
    this.started.push(id);
    await new Promise<void>((resolve) => this.#gates.set(id, resolve));
    return new Uint8Array(0);
  }

  async finish(id: string): Promise<void> {
    this.#gates.get(id)?.();
    await settle();
  }
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("limited", () => {
  let gated: GatedStorage;
  let store: BlobStorage;

  beforeEach(() => {
    gated = new GatedStorage();
    store = limited(gated, { maxRunning: 2, maxWaiting: 3 });
  });

  it("runs no more than it may, and starts those that wait in their order", async () => {
    const gets = ["a", "b", "c", "d", "e"].map((id) => store.get(id));
    await settle();
    expect(gated.started).to.deep.equal(["a", "b"]);
    await gated.finish("b");
    expect(gated.started).to.deep.equal(["a", "b", "c"]);
    await gated.finish("a");
    expect(gated.started).to.deep.equal(["a", "b", "c", "d"]);
    for (const id of ["c", "d", "e"]) {
      await gated.finish(id);
    }
    await Promise.all(gets);
  });

  it("lets nobody slip in when a slot is handed on", async () => {
    const gets = ["a", "b", "c"].map((id) => store.get(id));
    await settle();
    await gated.finish("a"); // its slot goes to c
    gets.push(store.get("d"));
    await settle();
    expect(gated.started).to.deep.equal(["a", "b", "c"]);
    for (const id of ["b", "c", "d"]) {
      await gated.finish(id);
    }
    await Promise.all(gets);
  });

  it("refuses more than may wait, and takes requests again later", async () => {
    const gets = ["a", "b", "c", "d", "e"].map((id) => store.get(id));
    await failure(store.get("f"), "RESOURCE_EXHAUSTED");
    for (const id of ["a", "b", "c", "d", "e"]) {
      await gated.finish(id);
    }
    await Promise.all(gets);
    const late = store.get("g");
    await settle();
    await gated.finish("g");
    await late;
  });

  it("forgets a request that is aborted while it waits, and keeps no slot for it", async () => {
    const controller = new AbortController();
    const reason = new Error("stop");
    const running = [store.get("a"), store.get("b")];
    const waiting = store.get("c", { signal: controller.signal });
    const next = store.get("d");
    controller.abort(reason);
    expect(await rejection(waiting)).to.equal(reason);
    await gated.finish("a");
    expect(gated.started).to.deep.equal(["a", "b", "d"]);
    await gated.finish("b");
    await gated.finish("d");
    await Promise.all([...running, next]);
  });

  it("gives its slot back after a failure", async () => {
    const one = limited(new MemoryStorage(), { maxRunning: 1 });
    for (let round = 0; round < 3; round++) {
      await failure(one.get("missing"), "NOT_FOUND");
    }
  });

  it("lets the consumer of a listing read, with a single slot", async () => {
    const one = limited(new MemoryStorage(), { maxRunning: 1 });
    await one.put("a", []);
    await one.put("b", []);
    const read: string[] = [];
    for await (const { id } of one.list("")) {
      await one.get(id);
      read.push(id);
    }
    expect(read).to.deep.equal(["a", "b"]);
  });
});
