import { expect } from "chai";
import { faulty } from "../../../../../services/datapath/repository/storage/faulty.js";
import { logged, type StorageEvent } from "../../../../../services/datapath/repository/storage/logged.js";
import { MemoryStorage } from "../../../../../services/datapath/repository/storage/memory.js";
import { describeBlobStorage, failure, listed, rejection } from "./conformance.js";

describeBlobStorage("logged", async () => ({ store: logged(new MemoryStorage(), () => undefined) }));

describe("logged", () => {
  it("reports what was done to which blob, with bytes, time and outcome", async () => {
    const events: StorageEvent[] = [];
    let nowMs = 0;
    const below = faulty(new MemoryStorage(), { seed: 1 });
    const store = logged(
      below,
      (event) => events.push(event),
      () => (nowMs += 5),
    );
    await store.put("blob", [new Uint8Array(3), new Uint8Array(4)]);
    await store.get("blob", { range: { offsetBytes: 1, lengthBytes: 2 } });
    await store.stat("blob");
    await listed(store, "b");
    for await (const blob of store.list("")) {
      expect(blob.id).to.equal("blob");
      break;
    }
    await store.delete("blob");
    await failure(store.get("blob"), "NOT_FOUND");
    below.inject("fail-before", { operation: "list" });
    await failure(listed(store, "x"), "UNAVAILABLE");
    const signal = AbortSignal.abort(new Error("stop"));
    await rejection(store.delete("blob", signal));
    await rejection(listed(store, "", signal));

    const durationMs = 5;
    expect(events).to.deep.equal([
      { operation: "put", id: "blob", bytes: 7, durationMs, outcome: "ok" },
      { operation: "get", id: "blob", bytes: 2, durationMs, outcome: "ok" },
      { operation: "stat", id: "blob", bytes: 0, durationMs, outcome: "ok" },
      { operation: "list", id: "b", bytes: 0, blobs: 1, durationMs, outcome: "ok" },
      { operation: "list", id: "", bytes: 0, blobs: 1, durationMs, outcome: "stopped" },
      { operation: "delete", id: "blob", bytes: 0, durationMs, outcome: "ok" },
      { operation: "get", id: "blob", bytes: 0, durationMs, outcome: "NOT_FOUND" },
      { operation: "list", id: "x", bytes: 0, blobs: 0, durationMs, outcome: "UNAVAILABLE" },
      { operation: "delete", id: "blob", bytes: 0, durationMs, outcome: "aborted" },
      { operation: "list", id: "", bytes: 0, blobs: 0, durationMs, outcome: "aborted" },
    ]);
  });
});
