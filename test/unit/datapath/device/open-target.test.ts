import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";

import { expect } from "chai";
import { describe, it } from "mocha";

import { BlockmoverError } from "../../../../services/common/errors.js";
import { openTarget } from "../../../../services/datapath/device/open-target.js";
import { MiB } from "../../../support/sizes.js";
import { useTempDir } from "../../../support/temp-dir.js";
import { descriptorsOf, rejectionOf } from "../../native/device-model.js";

describe("openTarget", () => {
  const temp = useTempDir();

  it("creates a sparse file of the size that is needed", async () => {
    const target = await openTarget(temp.file("image"), { sizeBytes: 10 * MiB + 7 });
    expect(target.isNew).to.equal(true);
    expect(target.device.info).to.include({ kind: "file", sizeBytes: 10 * MiB + 7 });
    await target.device.write(Buffer.from("end"), 10 * MiB + 4);
    await target.device.flush();
    await target.device.close();
    const status = statSync(temp.file("image"));
    expect(status.size).to.equal(10 * MiB + 7);
    expect(status.blocks * 512).to.be.at.most(8192);
  });

  it("discards a file that it created, and only such a file", async () => {
    const created = await openTarget(temp.file("created"), { sizeBytes: 100 });
    await created.device.write(Buffer.from("half"), 0);
    await created.discard();
    expect(existsSync(temp.file("created"))).to.equal(false);

    writeFileSync(temp.file("older"), "something");
    const older = await openTarget(temp.file("older"), { sizeBytes: 9, force: true });
    expect(older.isNew).to.equal(false);
    await older.device.write(Buffer.from("SOME"), 0);
    await older.discard();
    expect(readFileSync(temp.file("older"), "utf8")).to.equal("SOMEthing");
    expect(descriptorsOf(temp.path)).to.equal(0);
  });

  it("discards after close, and when the file is gone already", async () => {
    const target = await openTarget(temp.file("image"), { sizeBytes: 100 });
    await target.device.close();
    unlinkSync(temp.file("image"));
    await target.discard();
    await target.discard();
  });

  it("overwrites a file with something in it only by force", async () => {
    writeFileSync(temp.file("image"), "precious");
    const error = await refusal(openTarget(temp.file("image"), { sizeBytes: 4 }));
    expect(error).to.include({ code: "FAILED_PRECONDITION" });
    expect(error.message).to.contain("not empty");
    expect(error.hint).to.contain("--force");
    const target = await openTarget(temp.file("image"), { sizeBytes: 4, force: true });
    await target.device.close();
    expect(readFileSync(temp.file("image"), "utf8"), "opening changes nothing").to.equal("precious");
  });

  it("refuses what is too small, saying both sizes, even by force", async () => {
    writeFileSync(temp.file("image"), "12345");
    const error = await refusal(openTarget(temp.file("image"), { sizeBytes: 6, force: true }));
    expect(error.code).to.equal("FAILED_PRECONDITION");
    expect(error.message).to.contain("has 5 bytes, the restore needs 6");
  });

  it("refuses a file that another transfer writes", async () => {
    const first = await openTarget(temp.file("image"), { sizeBytes: 100 });
    const error = await refusal(openTarget(temp.file("image"), { sizeBytes: 100, force: true }));
    expect(error.code).to.equal("FAILED_PRECONDITION");
    expect(error.message).to.contain("flock");
    await first.discard();
  });

  it("says what is wrong with a path", async () => {
    mkdirSync(temp.file("directory"));
    writeFileSync(temp.file("file"), "");
    symlinkSync(temp.file("nowhere"), temp.file("dangling"));
    for (const [path, code] of [
      ["", "INVALID_ARGUMENT"],
      [temp.file("directory"), "INVALID_ARGUMENT"],
      ["/dev/null", "INVALID_ARGUMENT"],
      [temp.file("missing", "image"), "NOT_FOUND"],
      [temp.file("file", "image"), "INVALID_ARGUMENT"],
      [temp.file("dangling"), "ALREADY_EXISTS"],
      ["/dev/blockmover-no-such-device", "NOT_FOUND"],
    ] as const) {
      expect((await refusal(openTarget(path, { sizeBytes: 100 }))).code, path).to.equal(code);
    }
    expect(existsSync("/dev/blockmover-no-such-device")).to.equal(false);
  });

  it("maps what the system says to a code: a file system that is full or too small", async () => {
    const error = await refusal(openTarget(temp.file("image"), { sizeBytes: Number.MAX_SAFE_INTEGER }));
    expect(error.code).to.equal("RESOURCE_EXHAUSTED");
    expect(existsSync(temp.file("image"))).to.equal(false);
  });

  it("takes a size that is none for our own mistake", async () => {
    expect((await refusal(openTarget(temp.file("image"), { sizeBytes: -1 }))).code).to.equal("INTERNAL");
  });
});

async function refusal(promise: Promise<unknown>): Promise<BlockmoverError> {
  const error = await rejectionOf(promise);
  expect(error).to.be.instanceOf(BlockmoverError);
  return error as BlockmoverError;
}
