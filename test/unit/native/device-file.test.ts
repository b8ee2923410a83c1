import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { expect } from "chai";
import { describe, it } from "mocha";

import { DeviceFile, NativeError, allocateAligned, type OpenOptions } from "../../../native/index.js";
import { allocatedBytes, sparseFile } from "../../support/loop-device.js";
import { Random, testSeed } from "../../support/random-data.js";
import { KiB, MiB } from "../../support/sizes.js";
import { useTempDir, type TempDir } from "../../support/temp-dir.js";
import { waitFor } from "../../support/wait-for.js";
import { checkAgainstModel, descriptorsOf, rejectionOf } from "./device-model.js";

const seed = testSeed();

describe("DeviceFile on files", () => {
  const temp = useTempDir();

  async function openFile(options: Partial<OpenOptions> = {}, path = temp.file("image")): Promise<DeviceFile> {
    const file = await DeviceFile.open(path, { access: "read-write", ...options });
    temp.defer(() => file.close());
    return file;
  }

  describe("keeps what is written", () => {
    const memory = useTempDir({ parent: "/dev/shm" });
    const places: [string, TempDir, Partial<OpenOptions>][] = [
      ["directly", temp, {}],
      ["buffered", temp, { direct: false }],
      ["on tmpfs", memory, {}],
    ];
    for (const [how, place, options] of places) {
      for (const sizeBytes of [MiB, MiB + 1, 3 * MiB - 513, 4095, 512, 1, 0]) {
        it(`${how}, in ${sizeBytes} bytes [seed ${seed}]`, async () => {
          const random = new Random(seed).fork(`${how} ${sizeBytes}`);
          const file = await openFile({ createSizeBytes: sizeBytes, ...options }, place.file("image"));
          await checkAgainstModel(file, random, 60);
          await file.close();
          expect(statSync(place.file("image")).size).to.equal(sizeBytes);
          const whole = Buffer.alloc(sizeBytes);
          const again = await openFile({ access: "read", ...options }, place.file("image"));
          expect(await again.read(whole, 0)).to.equal(sizeBytes);
          expect(readFileSync(place.file("image")).equals(whole)).to.equal(true);
        }).timeout(60_000);
      }
    }
  });

  it("tells kind, size and sectors", async () => {
    writeFileSync(temp.file("image"), Buffer.alloc(12_345));
    const { info, path } = await openFile({ access: "read" });
    expect(info).to.include({ kind: "file", sizeBytes: 12_345, logicalSectorBytes: 512 });
    expect(info.physicalSectorBytes).to.be.at.least(512);
    expect(path).to.equal(temp.file("image"));
  });

  it("really uses O_DIRECT where the file system has it", async () => {
    const file = await openFile({ createSizeBytes: MiB });
    const flags = readFileSync("/proc/self/mounts", "utf8").includes(" / overlay") ? [] : openFlags(file.path);
    const direct = 0o40000;
    if (process.arch === "x64" && flags.length > 0) expect(flags.filter((each) => each & direct)).to.have.lengthOf(1);
  });

  it("reads short at the end and nothing behind it", async () => {
    const data = new Random(seed).bytes(10_000);
    writeFileSync(temp.file("image"), data);
    const file = await openFile({ access: "read" });
    const target = allocateAligned(16 * KiB).fill(7);
    expect(await file.read(target, 4096)).to.equal(10_000 - 4096);
    expect(target.subarray(0, 10_000 - 4096).equals(data.subarray(4096))).to.equal(true);
    expect(target.subarray(10_000 - 4096).every((byte) => byte === 7)).to.equal(true);
    expect(await file.read(target, 10_000)).to.equal(0);
    expect(await file.read(target, 2 ** 50)).to.equal(0);
    expect(await file.read(Buffer.alloc(0), 0)).to.equal(0);
  });

  it("reads short when the file has become smaller meanwhile", async () => {
    writeFileSync(temp.file("image"), Buffer.alloc(3 * MiB, 1));
    const file = await openFile({ access: "read" });
    writeFileSync(temp.file("image"), Buffer.alloc(MiB + 5000, 1));
    expect(await file.read(allocateAligned(3 * MiB), 0)).to.equal(MiB + 5000);
  });

  it("finds zero chunks, and fills what is behind the end with zeros", async () => {
    const chunk = 64 * KiB;
    const data = Buffer.alloc(4 * chunk + 100);
    data[chunk] = 1; // first byte of chunk 1
    data[3 * chunk - 1] = 1; // last byte of chunk 2
    writeFileSync(temp.file("image"), data);
    const file = await openFile({ access: "read" });
    const target = allocateAligned(31 * chunk).fill(0xff);
    const result = await file.readChunks(target, 0, chunk);
    expect(result).to.deep.equal({ bytesRead: data.length, zeroChunks: 0x7fffffff & ~0b110 });
    expect(target.subarray(0, data.length).equals(data)).to.equal(true);
    expect(target.subarray(data.length).every((byte) => byte === 0)).to.equal(true);
    expect(await file.readChunks(target.subarray(0, 10), data.length, 10)).to.deep.equal({
      bytesRead: 0,
      zeroChunks: 1,
    });
    expect(await file.readChunks(target.subarray(0, 0), 0, chunk)).to.deep.equal({ bytesRead: 0, zeroChunks: 0 });
    expect(() => file.readChunks(target, 0, chunk - 1)).to.throw(RangeError, "31 chunks");
    expect(() => file.readChunks(target, 0, 0)).to.throw(RangeError, "chunkSizeBytes");
  });

  it("does not write past the end, not even in part", async () => {
    const file = await openFile({ createSizeBytes: 8192 });
    for (const [length, offset] of [
      [1, 8192],
      [4097, 4096],
      [1, 2 ** 52],
    ] as const) {
      const error = await rejectionOf(file.write(Buffer.alloc(length, 1), offset));
      expect(error).to.be.instanceOf(NativeError).with.property("errno", "EINVAL");
      expect(await rejectionOf(file.zeroRange(offset, length))).to.have.property("errno", "EINVAL");
    }
    expect(readFileSync(temp.file("image")).equals(Buffer.alloc(8192))).to.equal(true);
  });

  it("changes two halves of one sector at the same time without losing either", async () => {
    const file = await openFile({ createSizeBytes: MiB });
    for (let round = 1; round <= 50; round++) {
      const writes = Array.from({ length: 16 }, (_, i) =>
        file.write(Buffer.alloc(1000, (i + round) & 0xff), 100 + i * 1000),
      );
      await Promise.all(writes);
      const target = Buffer.alloc(16_000);
      await file.read(target, 100);
      for (let i = 0; i < 16; i++) expect(target.readUInt8(i * 1000 + 500), `part ${i}`).to.equal((i + round) & 0xff);
    }
  });

  describe("zeroRange", () => {
    it("gives the space back, and says that it punched a hole", async () => {
      const sizeBytes = 4 * MiB + 1234;
      const file = await openFile({ createSizeBytes: sizeBytes });
      await file.write(Buffer.alloc(sizeBytes, 1), 0);
      await file.flush();
      expect(await file.zeroRange(0, sizeBytes)).to.equal("punch-hole");
      await file.flush();
      expect(await allocatedBytes(temp.file("image"))).to.equal(0);
      expect(statSync(temp.file("image")).size).to.equal(sizeBytes);
    });

    it("leaves a hole a hole", async () => {
      const file = await openFile({ createSizeBytes: 64 * MiB });
      expect(await file.zeroRange(MiB, 32 * MiB)).to.equal("punch-hole");
      expect(await allocatedBytes(temp.file("image"))).to.equal(0);
    });

    it("writes what is smaller than a block", async () => {
      const file = await openFile({ createSizeBytes: 8192 });
      await file.write(Buffer.alloc(8192, 1), 0);
      expect(await file.zeroRange(100, 50)).to.equal("written");
      const expected = Buffer.alloc(8192, 1).fill(0, 100, 150);
      expect(readFileSync(temp.file("image")).equals(expected)).to.equal(true);
    });
  });

  describe("open", () => {
    it("creates a sparse file that only its owner may read", async () => {
      await openFile({ createSizeBytes: 10 * MiB + 1 });
      const status = statSync(temp.file("image"));
      expect(status.size).to.equal(10 * MiB + 1);
      expect(status.mode & 0o777).to.equal(0o600);
      expect(status.blocks).to.equal(0);
    });

    it("does not create over a file, and leaves nothing behind when it cannot size it", async () => {
      await sparseFile(temp.file("image"), 100);
      const exists = await rejectionOf(openFile({ createSizeBytes: 100 }));
      expect(exists).to.include({ errno: "EEXIST", operation: "open", path: temp.file("image") });
      const tooBig = await rejectionOf(openFile({ createSizeBytes: Number.MAX_SAFE_INTEGER }, temp.file("big")));
      expect(tooBig).to.include({ errno: "EFBIG", operation: "ftruncate" });
      expect(() => statSync(temp.file("big"))).to.throw("ENOENT");
      expect(descriptorsOf(temp.file("big"))).to.equal(0);
    });

    it("says what it does not open", async () => {
      mkdirSync(temp.file("directory"));
      for (const [path, errno] of [
        [temp.file("missing"), "ENOENT"],
        [temp.file("directory"), "EISDIR"],
        ["/dev/null", "ENOTBLK"],
        ["", "ENOENT"],
      ] as const) {
        const error = await rejectionOf(openFile({ access: "read" }, path));
        expect(error).to.be.instanceOf(NativeError).and.include({ errno, operation: "open", name: "NativeError" });
      }
      expect(() => descriptorsOf("/dev/null")).not.to.throw();
      expect(await rejectionOf(DeviceFile.open("a\0b", { access: "read" }))).to.be.instanceOf(TypeError);
    });

    it("gives a file to one exclusive user at a time", async () => {
      const first = await openFile({ createSizeBytes: 100, exclusive: true });
      expect(await rejectionOf(openFile({ exclusive: true }))).to.include({ errno: "EAGAIN", operation: "flock" });
      await openFile({ access: "read" });
      await first.close();
      await openFile({ exclusive: true });
    });

    it("refuses to write through a handle for reading, and says where", async () => {
      await sparseFile(temp.file("image"), MiB);
      const file = await openFile({ access: "read" });
      const error = await rejectionOf(file.write(Buffer.alloc(MiB), 0));
      expect(error).to.have.property(
        "message",
        `pwrite ${file.path} at offset 0, ${MiB} bytes: EBADF (Bad file descriptor)`,
      );
    });
  });

  describe("close", () => {
    it("lets running calls end and refuses later ones", async () => {
      const file = await openFile({ createSizeBytes: 64 * MiB });
      const data = Buffer.alloc(8 * MiB, 3);
      let written = 0;
      const writes = Array.from({ length: 8 }, (_, i) => file.write(data, i * data.length).then(() => written++));
      const closed = file.close().then(() => written);
      const late = await rejectionOf(file.read(data, 0));
      expect(late).to.include({ errno: "EBADF", path: file.path });
      expect(await closed, "writes that had ended when close resolved").to.equal(8);
      await Promise.all(writes);
      expect(file.close(), "the same promise").to.equal(file.close());
      await file.close();
      for (const call of [file.write(data, 0), file.zeroRange(0, 1), file.flush(), file.readChunks(data, 0, MiB * 8)]) {
        expect(await rejectionOf(call)).to.have.property("errno", "EBADF");
      }
    });

    it("leaves no descriptor open, whatever happened before", async () => {
      for (let round = 0; round < 20; round++) {
        const path = temp.file(`image ${round}`);
        const file = await DeviceFile.open(path, { access: "read-write", createSizeBytes: MiB + 1, exclusive: true });
        expect(descriptorsOf(path)).to.be.within(1, 2);
        await rejectionOf(file.write(Buffer.alloc(10), MiB));
        await rejectionOf(DeviceFile.open(path, { access: "read-write", exclusive: true }));
        await file.close();
        expect(descriptorsOf(path)).to.equal(0);
      }
    });

    it("happens at last when a handle is forgotten", async () => {
      setFlagsFromString("--expose-gc");
      const collect = runInNewContext("gc") as () => void;
      const path = temp.file("forgotten");
      await (async () => {
        const file = await DeviceFile.open(path, { access: "read-write", createSizeBytes: MiB });
        await file.read(Buffer.alloc(100), 0);
      })();
      await waitFor(
        () => {
          collect();
          return descriptorsOf(path) === 0;
        },
        { what: "the descriptor to be closed" },
      );
    });
  });

  it("throws at once for wrong arguments", async () => {
    const file = await openFile({ createSizeBytes: 100 });
    for (const offset of [-1, 0.5, NaN, 2 ** 53]) {
      expect(() => file.read(Buffer.alloc(1), offset)).to.throw(RangeError, "offsetBytes");
    }
    expect(() => file.read(new ArrayBuffer(1) as unknown as Uint8Array, 0)).to.throw(TypeError, "Uint8Array");
    expect(() => file.zeroRange(0, -1)).to.throw(RangeError, "lengthBytes");
  });
});

/** Open flags of every descriptor on `path`. */
function openFlags(path: string): number[] {
  return Array.from({ length: 200 }, (_, descriptor) => descriptor).flatMap((descriptor) => {
    try {
      if (descriptorsOf(path) === 0) return [];
      const target = readFileSync(`/proc/self/fdinfo/${descriptor}`, "utf8");
      const inode = /^ino:\s+(\d+)$/m.exec(target)?.[1];
      if (inode !== String(statSync(path).ino)) return [];
      return [parseInt(/^flags:\s+(\d+)$/m.exec(target)?.[1] ?? "0", 8)];
    } catch {
      return [];
    }
  });
}
