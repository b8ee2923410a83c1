import { open, readFile } from "node:fs/promises";

import { expect } from "chai";

import { assertSameBytes } from "../../support/compare.js";
import { FailingFile, skipUnlessFuse } from "../../support/failing-file/failing-file.js";
import { allocatedBytes, LoopDevice, skipUnlessLoopDevices, sparseFile } from "../../support/loop-device.js";
import { isMounted, makeFileSystem, Mount } from "../../support/mounts.js";
import { Random, writeRandom } from "../../support/random-data.js";
import { run, runOrThrow } from "../../support/run.js";
import { MiB } from "../../support/sizes.js";
import { useTempDir } from "../../support/temp-dir.js";
import { mountTmpfs } from "../../support/tmpfs.js";

describe("block devices for tests", () => {
  before(function () {
    skipUnlessLoopDevices(this);
  });

  describe("LoopDevice", () => {
    const temp = useTempDir();

    for (const sectorBytes of [512, 4096]) {
      it(`is a block device with sectors of ${sectorBytes} bytes over a sparse file, with direct I/O`, async () => {
        const device = await LoopDevice.create(temp.file("image"), 64 * MiB, { sectorBytes });
        temp.defer(() => device.detach());
        const columns = await runOrThrow("losetup", ["--noheadings", "--output=LOG-SEC,DIO", device.path]);
        expect(columns.trim().split(/\s+/)).to.deep.equal([String(sectorBytes), "1"]);
        expect(await runOrThrow("blockdev", ["--getsize64", device.path])).to.equal(`${64 * MiB}\n`);
        expect(await allocatedBytes(temp.file("image"))).to.equal(0);
        await writeRandom(device.path, new Random(1), { offsetBytes: 3 * MiB, lengthBytes: MiB });
        expect(await allocatedBytes(temp.file("image"))).to.equal(MiB);
        await assertSameBytes(device.path, temp.file("image"));
      });
    }

    it("detaches once, and never a device that someone else got since", async () => {
      const device = await LoopDevice.create(temp.file("image"), MiB);
      await device.detach();
      const other = await LoopDevice.create(temp.file("other"), MiB);
      temp.defer(() => other.detach());
      await device.detach();
      expect(await runOrThrow("losetup", ["--associated", temp.file("other")])).to.contain(other.path);
    });
  });

  describe("Mount", () => {
    const temp = useTempDir();

    for (const kind of ["ext4", "xfs", "btrfs"] as const) {
      it(`mounts ${kind} on a loop device and unmounts it`, async () => {
        const device = await LoopDevice.create(temp.file("image"), 320 * MiB);
        temp.defer(() => device.detach());
        await makeFileSystem(device.path, kind);
        const mount = await Mount.mount({ source: device.path, target: temp.file("mounted here") });
        temp.defer(() => mount.unmount());
        expect(await isMounted(mount.path)).to.equal(true);
        await mount.unmount();
        expect(await isMounted(mount.path)).to.equal(false);
      });
    }

    it("bounds a tmpfs", async () => {
      const mount = await mountTmpfs(temp.file("small"), 2 * MiB);
      temp.defer(() => mount.unmount());
      const error = await writeRandom(temp.file("small", "data"), new Random(1), { lengthBytes: 3 * MiB }).catch(
        String,
      );
      expect(error).to.contain("ENOSPC");
    });
  });

  describe("FailingFile", () => {
    const temp = useTempDir();
    let file: FailingFile;

    beforeEach(async function () {
      await skipUnlessFuse(this);
      await writeRandom(temp.file("backing"), new Random(1), { lengthBytes: 8 * MiB });
      file = await FailingFile.mount({ backingFile: temp.file("backing"), directory: temp.file("failing") });
      temp.defer(() => file.unmount());
    });

    /** The errno of reading `lengthBytes` at `offsetBytes`, or the count of bytes. */
    async function readAt(
      path: string,
      offsetBytes: number,
      lengthBytes: number,
    ): Promise<number | string | undefined> {
      const handle = await open(path, "r");
      try {
        return (await handle.read(Buffer.alloc(lengthBytes), 0, lengthBytes, offsetBytes)).bytesRead;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code;
      } finally {
        await handle.close();
      }
    }

    it("shows the backing file's bytes", async () => {
      await assertSameBytes(file.imagePath, temp.file("backing"));
    });

    it("fails reads of the given range only, until cleared", async () => {
      await file.failReads({ offsetBytes: 5 * MiB, lengthBytes: 4096 });
      expect(await readAt(file.imagePath, 5 * MiB - 4096, 4096)).to.equal(4096);
      expect(await readAt(file.imagePath, 5 * MiB + 1, 1)).to.equal("EIO");
      expect(await readAt(file.imagePath, 5 * MiB + 4096, 4096)).to.equal(4096);
      await file.clear();
      expect(await readAt(file.imagePath, 5 * MiB, 4096)).to.equal(4096);
    });

    it("fails writes of the given range only", async () => {
      await file.failWrites({ offsetBytes: MiB, lengthBytes: 1 });
      const write = (offsetBytes: number) =>
        writeRandom(file.imagePath, new Random(2), { offsetBytes, lengthBytes: 4096 }).catch(String);
      expect(await write(MiB)).to.contain("EIO");
      expect(await write(2 * MiB)).to.equal(undefined);
      expect((await readFile(temp.file("backing"))).subarray(2 * MiB, 2 * MiB + 4096)).to.deep.equal(
        new Random(2).bytes(4096),
      );
    });

    it("punches holes in the backing file, and fails to where writes fail", async () => {
      const punch = (offset: number) =>
        run("fallocate", ["-p", "-o", String(offset), "-l", String(MiB), file.imagePath]);
      await file.failWrites({ offsetBytes: MiB, lengthBytes: 1 });
      expect((await punch(MiB)).stderr).to.contain("Input/output error");
      expect((await punch(2 * MiB)).code).to.equal(0);
      expect(await allocatedBytes(temp.file("backing"))).to.equal(7 * MiB);
    });

    for (const directIo of [true, false]) {
      it(`makes a bad sector of a loop device, direct I/O ${directIo ? "on" : "off"}`, async () => {
        const device = await LoopDevice.attach(file.imagePath, { directIo });
        temp.defer(() => device.detach());
        await file.failReads({ offsetBytes: 5 * MiB, lengthBytes: 4096 });
        const dd = (skip: number) =>
          run("dd", [`if=${device.path}`, "of=/dev/null", "iflag=direct", "bs=1M", `skip=${skip}`, "count=1"]);
        expect((await dd(4)).code).to.equal(0);
        expect((await dd(5)).stderr).to.contain("Input/output error");
      });
    }

    it("says why when it cannot start", async () => {
      const options = { backingFile: temp.file("missing"), directory: temp.file("other") };
      expect(await FailingFile.mount(options).catch(String)).to.contain("No such file or directory");
    });
  });

  describe("sparseFile", () => {
    const temp = useTempDir();

    it("refuses to touch what exists", async () => {
      await sparseFile(temp.file("image"), MiB);
      expect(await sparseFile(temp.file("image"), MiB).catch(String)).to.contain("EEXIST");
    });
  });
});
