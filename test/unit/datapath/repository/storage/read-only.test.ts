import { expect } from "chai";
import type { BlobStorage } from "../../../../../services/datapath/repository/storage/blob-storage.js";
import { MemoryStorage } from "../../../../../services/datapath/repository/storage/memory.js";
import { readOnly } from "../../../../../services/datapath/repository/storage/read-only.js";
import { bytesOf, describeBlobStorage, failure, textOf } from "./conformance.js";

describeBlobStorage("readOnly, with changes made below it,", async () => {
  const below = new MemoryStorage();
  const above = readOnly(below);
  const store: BlobStorage = {
    description: above.description,
    get: (id, options) => above.get(id, options),
    list: (prefix, signal) => above.list(prefix, signal),
    stat: (id, signal) => above.stat(id, signal),
    close: () => above.close(),
    put: (id, parts, options) => below.put(id, parts, options),
    delete: (id, signal) => below.delete(id, signal),
  };
  return { store };
});

describe("readOnly", () => {
  it("refuses puts and deletes, and says where", async () => {
    const below = new MemoryStorage({ description: "/srv/backup" });
    await below.put("blob", [bytesOf("kept")]);
    const store = readOnly(below);
    expect((await failure(store.put("blob", [bytesOf("new")]), "FAILED_PRECONDITION")).message).to.contain(
      "/srv/backup",
    );
    await failure(store.delete("blob"), "FAILED_PRECONDITION");
    expect(textOf(await store.get("blob"))).to.equal("kept");
  });
});
