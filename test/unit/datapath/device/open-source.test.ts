import { mkdirSync } from "node:fs";

import { expect } from "chai";
import { describe, it } from "mocha";

import { BlockmoverError } from "../../../../services/common/errors.js";
import { openSource } from "../../../../services/datapath/device/open-source.js";
import { sparseFile } from "../../../support/loop-device.js";
import { useTempDir } from "../../../support/temp-dir.js";
import { rejectionOf } from "../../native/device-model.js";

describe("openSource", () => {
  const temp = useTempDir();

  it("opens a file for several readers at a time", async () => {
    await sparseFile(temp.file("image"), 10_000);
    const sources = [await openSource(temp.file("image")), await openSource(temp.file("image"))];
    for (const source of sources) {
      expect(source.info).to.include({ kind: "file", sizeBytes: 10_000 });
      expect(await source.read(Buffer.alloc(20_000), 0)).to.equal(10_000);
      await source.close();
    }
  });

  it("says what is wrong with a path, and what to do", async () => {
    mkdirSync(temp.file("directory"));
    for (const [path, code, message] of [
      ["", "INVALID_ARGUMENT", "empty"],
      [temp.file("missing"), "NOT_FOUND", temp.file("missing")],
      [temp.file("directory"), "INVALID_ARGUMENT", "Is a directory"],
      ["/dev/null", "INVALID_ARGUMENT", "neither a block device nor a regular file"],
      [temp.file("x".repeat(300)), "INVALID_ARGUMENT", "ENAMETOOLONG"],
    ] as const) {
      const error = await rejectionOf(openSource(path));
      expect(error, path).to.be.instanceOf(BlockmoverError).with.property("code", code);
      expect((error as BlockmoverError).message).to.contain(message);
      expect((error as BlockmoverError).hint).to.be.a("string");
    }
  });

  it("does not write", async () => {
    await sparseFile(temp.file("image"), 10_000);
    const source = await openSource(temp.file("image"));
    expect(await rejectionOf(source.write(Buffer.alloc(1), 0))).to.have.property("code", "INTERNAL");
    await source.close();
  });
});
