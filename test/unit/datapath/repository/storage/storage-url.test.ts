import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect } from "chai";
import { openStorage } from "../../../../../services/datapath/repository/storage/storage-url.js";
import { bytesOf, describeBlobStorage, failure, textOf } from "./conformance.js";

describeBlobStorage("openStorage", async () => {
  const root = await mkdtemp(join(tmpdir(), "blockmover-storage-"));
  return { store: await openStorage(root, { create: true }), dispose: () => rm(root, { recursive: true }) };
});

describe("openStorage", () => {
  let root: string;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "blockmover-storage-"));
  });

  afterEach(() => rm(root, { recursive: true }));

  it("takes paths and file URLs for the same", async () => {
    const path = join(root, "with space and 100%");
    const store = await openStorage(pathToFileURL(path).href, { create: true });
    await store.put("blob", [bytesOf("x")]);
    expect(textOf(await (await openStorage(path)).get("blob"))).to.equal("x");
    expect(store.description).to.equal(path);
    await stat(join(path, "blob.f"));
  });

  it("resolves a relative path", async () => {
    const before = process.cwd();
    process.chdir(root);
    try {
      expect((await openStorage("here", { create: true })).description).to.equal(join(root, "here"));
    } finally {
      process.chdir(before);
    }
  });

  it("says that object stores come later", async () => {
    for (const url of ["s3://bucket/prefix", "azblob://container", "gs://bucket", "S3://bucket"]) {
      const error = await failure(openStorage(url), "UNIMPLEMENTED");
      expect(error.message).to.contain("object stores come in a later version");
      expect(error.hint).to.contain("directory");
    }
  });

  it("refuses what it does not know, without repeating secrets", async () => {
    for (const url of ["ftp://user:secret@host/x", "file://host/secret", "file://secret", "", "a\0b"]) {
      expect((await failure(openStorage(url), "INVALID_ARGUMENT")).message).to.not.contain("secret");
    }
  });

  it("does not create what it was not asked to", async () => {
    await failure(openStorage(join(root, "missing")), "NOT_FOUND");
  });
});
