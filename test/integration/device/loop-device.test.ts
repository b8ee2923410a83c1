import { readFileSync } from "node:fs";

import { expect } from "chai";
import { describe, it } from "mocha";

import { DeviceFile, NativeError, allocateAligned } from "../../../native/index.js";
import { BlockmoverError } from "../../../services/common/errors.js";
import { openSource } from "../../../services/datapath/device/open-source.js";
import { openTarget } from "../../../services/datapath/device/open-target.js";
import { FailingFile, skipUnlessFuse } from "../../support/failing-file/failing-file.js";
import { LoopDevice, allocatedBytes, skipUnlessLoopDevices, sparseFile } from "../../support/loop-device.js";
import { Mount, makeFileSystem } from "../../support/mounts.js";
import { Random, testSeed, writeRandom } from "../../support/random-data.js";
import { runOrThrow } from "../../support/run.js";
import { MiB, TiB } from "../../support/sizes.js";
import { useTempDir } from "../../support/temp-dir.js";
import { mountTmpfs } from "../../support/tmpfs.js";
import { checkAgainstModel, descriptorsOf, rejectionOf } from "../../unit/native/device-model.js";

const seed = testSeed();

describe("block devices", () => {
  const temp = useTempDir();

  before(function () {
    skipUnlessLoopDevices(this);
  });

  async function attach(sizeBytes: number, options: { sectorBytes?: number; readOnly?: boolean } = {}) {
    const device = await LoopDevice.create(temp.file("image"), sizeBytes, options);
    temp.defer(() => device.detach());
    return device;
  }
  async function openDevice(path: string, access: "read" | "read-write" = "read-write"): Promise<DeviceFile> {
    const file = await DeviceFile.open(path, { access, exclusive: access === "read-write" });
    temp.defer(() => file.close());
    return file;
  }

  for (const sectorBytes of [512, 4096]) {
    describe(`with sectors of ${sectorBytes} bytes`, () => {
      it("tells kind, size and sectors", async () => {
        const { path } = await attach(64 * MiB, { sectorBytes });
        const { info } = await openDevice(path, "read");
        expect(info).to.deep.equal({
          kind: "block",
          sizeBytes: 64 * MiB,
          logicalSectorBytes: sectorBytes,
          physicalSectorBytes: sectorBytes,
        });
      });

      it(`keeps what is written, aligned or not [seed ${seed}]`, async () => {
        const { path } = await attach(2 * MiB, { sectorBytes });
        const file = await openDevice(path);
        await checkAgainstModel(file, new Random(seed).fork(sectorBytes), 150);
        await file.close();
        const whole = Buffer.alloc(2 * MiB);
        await (await openDevice(path, "read")).read(whole, 0);
        expect(readFileSync(temp.file("image")).equals(whole), "the backing file").to.equal(true);
      }).timeout(120_000);

      it("stays thin: zeroing a hole takes no space, zeroing data gives it back", async () => {
        const { path } = await attach(256 * MiB, { sectorBytes });
        const file = await openDevice(path);
        expect(await file.zeroRange(0, 256 * MiB)).to.equal("punch-hole");
        expect(await allocatedBytes(temp.file("image"))).to.equal(0);
        await file.write(allocateAligned(8 * MiB).fill(1), 16 * MiB);
        await file.flush();
        expect(await allocatedBytes(temp.file("image"))).to.equal(8 * MiB);
        expect(await file.zeroRange(17 * MiB, 7 * MiB)).to.equal("punch-hole");
        expect(await allocatedBytes(temp.file("image"))).to.equal(MiB);
        expect((await file.readChunks(allocateAligned(8 * MiB), 16 * MiB, MiB)).zeroChunks).to.equal(0xfe);
      });

      it("writes the edges of a zero range that are no whole sector", async () => {
        const { path } = await attach(MiB, { sectorBytes });
        const file = await openDevice(path);
        const model = new Random(seed).bytes(MiB);
        await file.write(model, 0);
        for (const [start, end] of [
          [1, 3 * sectorBytes + 1],
          [5 * sectorBytes - 1, 5 * sectorBytes + 1],
          [7 * sectorBytes + 3, 7 * sectorBytes + 9],
          [MiB - sectorBytes - 1, MiB],
        ] as const) {
          await file.zeroRange(start, end - start);
          model.fill(0, start, end);
        }
        const whole = Buffer.alloc(MiB);
        await file.read(whole, 0);
        expect(whole.equals(model)).to.equal(true);
      });
    });
  }

  it("zeroes by other means where holes cannot be punched, and remembers", async () => {
    // tmpfs has no ZERO_RANGE: after a first BLKZEROOUT the kernel refuses PUNCH_HOLE on that loop device.
    const memory = await mountTmpfs(temp.file("memory"), 32 * MiB);
    temp.defer(() => memory.unmount());
    const device = await LoopDevice.create(temp.file("memory", "image"), 16 * MiB);
    temp.defer(() => device.detach());
    const file = await openDevice(device.path);
    await file.write(Buffer.alloc(16 * MiB, 1), 0);
    await runOrThrow("blkdiscard", ["--zeroout", "--force", "--offset", "0", "--length", String(MiB), device.path]);
    const methods = [await file.zeroRange(MiB, MiB), await file.zeroRange(3 * MiB, MiB)];
    expect(methods).to.satisfy((all: string[]) => all.every((each) => each !== "punch-hole" && each === all[0]));
    const { zeroChunks } = await file.readChunks(allocateAligned(8 * MiB), 0, MiB);
    expect(zeroChunks).to.equal(0b1011);
  });

  it("works at the end of a device of 8 TiB", async () => {
    const { path } = await attach(8 * TiB);
    const file = await openDevice(path);
    const data = new Random(seed).bytes(MiB + 700);
    await file.write(data, 8 * TiB - data.length);
    const back = Buffer.alloc(2 * MiB);
    expect(await file.read(back, 8 * TiB - data.length)).to.equal(data.length);
    expect(back.subarray(0, data.length).equals(data)).to.equal(true);
    expect(await file.zeroRange(0, 8 * TiB)).to.equal("punch-hole");
    expect(await allocatedBytes(temp.file("image"))).to.equal(0);
  });

  it("opens for one exclusive user and any number of readers", async () => {
    const { path } = await attach(MiB);
    const file = await openDevice(path);
    const error = await rejectionOf(DeviceFile.open(path, { access: "read-write", exclusive: true }));
    expect(error).to.be.instanceOf(NativeError).and.include({ errno: "EBUSY", operation: "open", path });
    await openDevice(path, "read");
    await file.close();
    await openDevice(path);
  });

  it("reports a bad sector with its place, and leaves no descriptor behind", async function () {
    await skipUnlessFuse(this);
    await writeRandom(temp.file("backing"), new Random(seed), { lengthBytes: 8 * MiB });
    const failing = await FailingFile.mount({ backingFile: temp.file("backing"), directory: temp.file("failing") });
    temp.defer(() => failing.unmount());
    const device = await LoopDevice.attach(failing.imagePath);
    temp.defer(() => device.detach());
    await failing.failReads({ offsetBytes: 5 * MiB, lengthBytes: 4096 });
    await failing.failWrites({ offsetBytes: 6 * MiB, lengthBytes: 4096 });
    const file = await openDevice(device.path);
    const buffer = allocateAligned(MiB);
    expect(await rejectionOf(file.read(buffer, 5 * MiB))).to.have.property(
      "message",
      `pread ${device.path} at offset ${5 * MiB}, ${MiB} bytes: EIO (Input/output error)`,
    );
    expect(await rejectionOf(file.write(buffer, 6 * MiB))).to.include({ errno: "EIO", operation: "pwrite" });
    expect(await rejectionOf(file.zeroRange(6 * MiB, MiB))).to.be.instanceOf(NativeError);
    expect(await file.read(buffer, 4 * MiB)).to.equal(MiB);
    await file.close();
    const source = await openSource(device.path);
    const error = await rejectionOf(source.readChunks(allocateAligned(8 * MiB), 0, MiB));
    expect(error).to.be.instanceOf(BlockmoverError).with.property("code", "DATA_LOSS");
    await source.close();
    expect(descriptorsOf(device.path)).to.equal(0);
  });

  describe("openTarget", () => {
    async function refusal(path: string, sizeBytes = MiB): Promise<BlockmoverError> {
      const error = await rejectionOf(openTarget(path, { sizeBytes, force: true }));
      expect(error).to.be.instanceOf(BlockmoverError);
      return error as BlockmoverError;
    }

    it("opens a device that nothing uses, and never deletes it", async () => {
      const { path } = await attach(MiB);
      const target = await openTarget(path, { sizeBytes: MiB - 512 });
      expect(target).to.include({ isNew: false });
      expect((await refusal(path)).code, "while it is open").to.equal("FAILED_PRECONDITION");
      await target.discard();
      await (await openSource(path)).close();
    });

    it("refuses a device that is too small", async () => {
      const { path } = await attach(MiB);
      const error = await refusal(path, MiB + 1);
      expect(error.code).to.equal("FAILED_PRECONDITION");
      expect(error.message).to.contain(`has ${MiB} bytes, the restore needs ${MiB + 1}`);
      expect(descriptorsOf(path)).to.equal(0);
    });

    it("refuses a mounted device and says where it is mounted", async () => {
      const { path } = await attach(64 * MiB);
      await makeFileSystem(path, "ext4");
      const mount = await Mount.mount({ source: path, target: temp.file("mounted here") });
      temp.defer(() => mount.unmount());
      const error = await refusal(path);
      expect(error.code).to.equal("FAILED_PRECONDITION");
      expect(error.message).to.equal(`target ${path} is mounted on ${mount.path}`);
    });

    it("refuses a file under a loop device", async () => {
      const device = await attach(MiB);
      const error = await refusal(temp.file("image"));
      expect(error.code).to.equal("FAILED_PRECONDITION");
      expect(error.message).to.contain(`is the backing file of ${device.path}`);
    });

    it("refuses a read-only device", async () => {
      const { path } = await attach(MiB, { readOnly: true });
      const error = await refusal(path);
      expect(error.code).to.equal("FAILED_PRECONDITION");
      expect(error.message).to.contain("EROFS");
      expect(descriptorsOf(path)).to.equal(0);
    });

    it("says that a file system is full", async () => {
      const memory = await mountTmpfs(temp.file("memory"), 2 * MiB);
      temp.defer(() => memory.unmount());
      const target = await openTarget(temp.file("memory", "image"), { sizeBytes: 8 * MiB });
      const error = await rejectionOf(target.device.write(Buffer.alloc(8 * MiB, 1), 0));
      expect(error).to.be.instanceOf(BlockmoverError).with.property("code", "RESOURCE_EXHAUSTED");
      await target.discard();
    });
  });

  it("reads a sparse file as a source while a loop device shows it", async () => {
    await sparseFile(temp.file("plain"), MiB);
    const source = await openSource(temp.file("plain"));
    expect((await source.readChunks(allocateAligned(MiB), 0, MiB)).zeroChunks).to.equal(1);
    await source.close();
  });
});
