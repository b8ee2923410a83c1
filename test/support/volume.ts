/**
 * A volume that a test changes: an image file, or a loop device over one. What it holds is always in `file` too.
 */
import { open } from "node:fs/promises";

import { dataExtents, type Extent } from "./data-extents.js";
import { LoopDevice, sparseFile } from "./loop-device.js";
import type { Random } from "./random-data.js";
import { runOrThrow } from "./run.js";
import type { TempDir } from "./temp-dir.js";

export interface VolumeKind {
  readonly title: string;
  /** Sizes are multiples of this. */
  readonly unitBytes: number;
  /** Undefined: an image file. */
  readonly sectorBytes: number | undefined;
}

export const imageFile: VolumeKind = { title: "image file", unitBytes: 1, sectorBytes: undefined };
export const loop512: VolumeKind = { title: "loop device, sectors of 512", unitBytes: 512, sectorBytes: 512 };
export const loop4096: VolumeKind = { title: "loop device, sectors of 4096", unitBytes: 4096, sectorBytes: 4096 };

export class Volume {
  private constructor(
    /** What to back up or restore to. */
    readonly path: string,
    /** The image file, or the loop device's backing file. */
    readonly file: string,
    private size: number,
    private readonly loop: LoopDevice | undefined,
  ) {}

  /** Makes one that is all zero; it goes with the test's directory. */
  static async create(temp: TempDir, name: string, kind: VolumeKind, sizeBytes: number): Promise<Volume> {
    const file = await sparseFile(temp.file(name), sizeBytes);
    if (kind.sectorBytes === undefined) return new Volume(file, file, sizeBytes, undefined);
    const loop = await LoopDevice.attach(file, { sectorBytes: kind.sectorBytes });
    temp.defer(() => loop.detach());
    return new Volume(loop.path, file, sizeBytes, loop);
  }

  get sizeBytes(): number {
    return this.size;
  }

  /** Cuts it, or grows it by zeros. */
  async resize(sizeBytes: number): Promise<void> {
    await this.loop?.dropCache();
    const handle = await open(this.file, "r+");
    try {
      await handle.truncate(sizeBytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await this.loop?.refreshSize();
    await this.loop?.dropCache();
    this.size = sizeBytes;
  }

  /** Overwrites a range with random bytes, or with zeros that are allocated. */
  async write(extent: Extent, random: Random | "zeros"): Promise<void> {
    const block = Buffer.alloc(Math.min(extent.lengthBytes, 1024 * 1024));
    const handle = await open(this.path, "r+");
    try {
      for (let done = 0; done < extent.lengthBytes;) {
        const part = block.subarray(0, Math.min(block.length, extent.lengthBytes - done));
        if (random !== "zeros") random.fill(part);
        done += (await handle.write(part, 0, part.length, extent.offsetBytes + done)).bytesWritten;
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await this.loop?.dropCache();
  }

  /** Where it may hold something else than zeros. */
  dataExtents(): Promise<Extent[]> {
    return dataExtents(this.file);
  }

  /** Keeps what it holds now as a sparse file. */
  async copyTo(file: string): Promise<string> {
    await runOrThrow("cp", ["--sparse=always", "--reflink=auto", this.file, file]);
    return file;
  }
}
