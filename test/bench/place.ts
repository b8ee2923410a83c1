/**
 * Where measurements happen: a directory on disk or on a tmpfs, with the loop devices made in it.
 *
 * Everything is released in `close`, in reverse order, and by name: nothing of anybody else is touched.
 */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { LoopDevice, sparseFile } from "../support/loop-device.js";
import { Random, writeRandom } from "../support/random-data.js";
import { mountTmpfs } from "../support/tmpfs.js";
import { awaitQuiet, dropCaches } from "./measure.js";

export type PlaceName = "disk" | "tmpfs";

export class Place {
  readonly name: PlaceName;
  readonly directory: string;
  readonly #quietPatienceMs: number;
  readonly #releases: (() => Promise<unknown>)[];
  #nextName = 0;

  private constructor(options: {
    name: PlaceName;
    directory: string;
    quietPatienceMs: number;
    releases: (() => Promise<unknown>)[];
  }) {
    this.name = options.name;
    this.directory = options.directory;
    this.#quietPatienceMs = options.quietPatienceMs;
    this.#releases = options.releases;
  }

  /** @param diskDirectory where the place on disk is made; the system's temporary directory by default */
  static async open(
    name: PlaceName,
    options: { readonly diskDirectory?: string; readonly tmpfsBytes: number; readonly quietPatienceMs: number },
  ): Promise<Place> {
    const parent = name === "disk" ? (options.diskDirectory ?? tmpdir()) : tmpdir();
    const directory = await mkdtemp(path.join(parent, `blockmover-bench-${name}-`));
    const releases = [() => rm(directory, { recursive: true, force: true })];
    if (name === "tmpfs") {
      const mount = await mountTmpfs(directory, options.tmpfsBytes);
      releases.push(() => mount.unmount());
    }
    return new Place({ name, directory, quietPatienceMs: options.quietPatienceMs, releases });
  }

  /** A path that nothing uses yet. */
  path(name: string): string {
    return path.join(this.directory, `${this.#nextName++}-${name}`);
  }

  async newDirectory(name: string): Promise<string> {
    const made = this.path(name);
    await mkdir(made);
    return made;
  }

  /** A loop device over a new sparse file. */
  async sparseVolume(name: string, sizeBytes: number): Promise<LoopDevice> {
    return this.attach(await sparseFile(path.join(await this.newDirectory(name), "volume.img"), sizeBytes));
  }

  /** A loop device full of incompressible bytes; the seed makes them again. The image is alone in its directory. */
  async randomVolume(name: string, sizeBytes: number, seed: number): Promise<LoopDevice> {
    const file = path.join(await this.newDirectory(name), "volume.img");
    await writeRandom(file, new Random(seed), { lengthBytes: sizeBytes });
    return this.attach(file);
  }

  async attach(file: string): Promise<LoopDevice> {
    const device = await LoopDevice.attach(file);
    this.#releases.push(() => device.detach());
    return device;
  }

  async remove(directory: string): Promise<void> {
    await rm(directory, { recursive: true, force: true });
  }

  /** Detaches a volume and deletes its image. */
  async removeVolume(device: LoopDevice): Promise<void> {
    await device.detach();
    await rm(path.dirname(device.backingFile), { recursive: true, force: true });
  }

  /**
   * To be called before each measurement: nothing is dirty, nothing cached that the disk should give, others are quiet.
   *
   * @param warm runs what brings the measured program back into the cache: reading that is not to be measured
   */
  async settle(warm?: () => Promise<unknown>): Promise<void> {
    if (this.name === "disk") {
      await dropCaches();
      await warm?.();
    }
    if (this.#quietPatienceMs > 0) await awaitQuiet(this.#quietPatienceMs);
  }

  async close(): Promise<void> {
    const errors: unknown[] = [];
    for (const release of this.#releases.splice(0).reverse()) {
      try {
        await release();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, `not released: ${errors.map(String).join("; ")}`);
  }
}
