import { expect } from "chai";
import { MemoryStorage } from "../../../../../services/datapath/repository/storage/memory.js";
import { bytesOf, describeBlobStorage, textOf } from "./conformance.js";

describeBlobStorage("MemoryStorage", async () => ({ store: new MemoryStorage() }));

describe("MemoryStorage", () => {
  it("shares no memory with its callers", async () => {
    const store = new MemoryStorage();
    const data = bytesOf("abc");
    await store.put("blob", [data]);
    data.fill(0);
    (await store.get("blob")).fill(1);
    expect(textOf(await store.get("blob"))).to.equal("abc");
  });

  it("takes the time from the clock it is given", async () => {
    const store = new MemoryStorage({ nowMs: () => 1234.5 });
    await store.put("blob", []);
    expect((await store.stat("blob")).modifiedMs).to.equal(1234.5);
  });
});
