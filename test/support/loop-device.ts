/**
 * Loop devices: real block devices over sparse files. Root only.
 *
 * A backing file on disk shows what storage does; one on tmpfs (`/dev/shm`) shows what the CPU does. Two traps: tmpfs
 * lacks ZERO_RANGE, so after a first BLKZEROOUT the kernel refuses PUNCH_HOLE too; ext4 holds no file of 16 TiB.
 */
import { existsSync } from "node:fs";
import { open, readFile, realpath, stat } from "node:fs/promises";
import path from "node:path";

import type { Context } from "mocha";

import { run, runOrThrow } from "./run.js";
import { skipBecause, skipUnlessRoot } from "./skip.js";
import { waitFor } from "./wait-for.js";

/** Whether this machine can attach loop devices at all. */
export function hasLoopDevices(): boolean {
  return process.getuid?.() === 0 && existsSync("/dev/loop-control");
}

/** Skips where loop devices cannot be attached. */
export function skipUnlessLoopDevices(context: Context): void {
  skipUnlessRoot(context);
  if (!hasLoopDevices()) skipBecause(context, "no-loop-devices");
}

/** Makes a sparse file of `sizeBytes` (it must not exist) and returns its path. */
export async function sparseFile(file: string, sizeBytes: number): Promise<string> {
  const handle = await open(file, "wx", 0o600);
  try {
    await handle.truncate(sizeBytes);
  } finally {
    await handle.close();
  }
  return file;
}

/** Bytes a file really takes on disk: tells thin from thick. */
export async function allocatedBytes(file: string): Promise<number> {
  return (await stat(file)).blocks * 512;
}

export interface LoopDeviceOptions {
  /** Logical and physical sector; test with 512 and 4096. Default 512. */
  readonly sectorBytes?: number;
  /** Bypass the page cache of the backing file. Default true. */
  readonly directIo?: boolean;
  readonly readOnly?: boolean;
}

/** One attached loop device. */
export class LoopDevice {
  private constructor(
    /** Such as `/dev/loop3`. */
    readonly path: string,
    readonly backingFile: string,
  ) {}

  /** Attaches a free loop device to `backingFile`. */
  static async attach(backingFile: string, options: LoopDeviceOptions = {}): Promise<LoopDevice> {
    const args = ["--find", "--show", `--sector-size=${options.sectorBytes ?? 512}`];
    args.push(`--direct-io=${options.directIo === false ? "off" : "on"}`);
    if (options.readOnly === true) args.push("--read-only");
    const device = (await runOrThrow("losetup", [...args, backingFile])).trim();
    await forgetWriteErrors(device);
    return new LoopDevice(device, await realpath(backingFile));
  }

  /** Makes a sparse file and attaches it. */
  static async create(file: string, sizeBytes: number, options: LoopDeviceOptions = {}): Promise<LoopDevice> {
    return LoopDevice.attach(await sparseFile(file, sizeBytes), options);
  }

  /** Tells the kernel that the backing file changed its size. */
  async refreshSize(): Promise<void> {
    await runOrThrow("losetup", ["--set-capacity", this.path]);
  }

  /** Drops what the page cache holds of the device, so that the next buffered read reaches the file. */
  async dropCache(): Promise<void> {
    await runOrThrow("blockdev", ["--flushbufs", this.path]);
  }

  /** Detaches this device and no other; idempotent. Fails while something holds it open. */
  async detach(): Promise<void> {
    if (!(await this.isOurs())) return;
    await run("losetup", ["--detach", this.path]);
    // The kernel detaches at the last close; udev may hold the device open for a moment.
    await waitFor(async () => !(await this.isOurs()), { what: `${this.path} to detach (still open or mounted?)` });
  }

  /** Another process may have got the same number since. */
  private async isOurs(): Promise<boolean> {
    try {
      const name = path.basename(this.path);
      const backing = (await readFile(`/sys/block/${name}/loop/backing_file`, "utf8")).trim();
      return backing.replace(/ \(deleted\)$/, "") === this.backingFile;
    } catch {
      return false; // no backing_file: detached
    }
  }
}

/** A failed write that nobody synced is kept with the device's number, for the next one to sync it. */
async function forgetWriteErrors(device: string): Promise<void> {
  const handle = await open(device, "r");
  try {
    await handle.sync().catch(() => undefined);
  } finally {
    await handle.close();
  }
}
