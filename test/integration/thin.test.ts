/**
 * Thin stays thin: a restore allocates no more than the volume's data, whatever the target held before.
 */
import { expect } from "chai";

import { assertSameSparseBytes } from "../support/data-extents.js";
import { allocatedBytes, skipUnlessLoopDevices } from "../support/loop-device.js";
import { newMemoryRepository } from "../support/memory-repository.js";
import { Random, testSeed } from "../support/random-data.js";
import { backUp, restoreTo } from "../support/repositories.js";
import { KiB, MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import { imageFile, loop512, loop4096, Volume } from "../support/volume.js";

/** What a file system needs to describe a few extents. */
const SLACK_BYTES = 64 * KiB;

describe("a restore to a thin target", () => {
  const seed = testSeed();
  const temp = useTempDir();
  let random: Random;
  let source: Volume;
  let dataBytes: number;
  let restore: (target: Volume | string) => Promise<void>;

  beforeEach(async () => {
    random = new Random(seed).fork("thin");
    source = await Volume.create(temp, "source", imageFile, 512 * MiB + 512);
    // Whole chunks, as a file system's large files are: what is smaller costs a chunk.
    for (const [firstChunk, chunks] of [
      [0, 1],
      [5, 3],
      [random.between(10, 100), 8],
      [random.between(110, 400), 1],
      [511, 1],
    ] as const) {
      await source.write({ offsetBytes: firstChunk * MiB, lengthBytes: chunks * MiB }, random);
    }
    dataBytes = await allocatedBytes(source.file);
    // Zeros that are allocated in the source are not in the target.
    await source.write({ offsetBytes: 402 * MiB, lengthBytes: 10 * MiB }, "zeros");
    const { repository } = await newMemoryRepository();
    temp.defer(() => repository.close());
    const { snapshotId } = await backUp(repository, source.path);
    restore = async (target) => {
      const [path, file] = typeof target === "string" ? [target, target] : [target.path, target.file];
      await restoreTo(repository, snapshotId, path, { force: true });
      await assertSameSparseBytes(source.file, file, { lengthBytes: source.sizeBytes });
      expect(await allocatedBytes(file)).to.be.within(dataBytes - SLACK_BYTES, dataBytes + SLACK_BYTES);
    };
  });

  it(`allocates the data alone in a new file (seed ${seed})`, async () => {
    await restore(temp.file("target"));
  });

  it(`frees what is zero in a file that was full (seed ${seed})`, async () => {
    const target = await Volume.create(temp, "target", imageFile, source.sizeBytes);
    await target.write({ offsetBytes: 50 * MiB, lengthBytes: 200 * MiB }, random);
    await restore(target);
  });

  for (const kind of [loop512, loop4096]) {
    it(`allocates the data alone on a fresh ${kind.title} (seed ${seed})`, async function () {
      skipUnlessLoopDevices(this);
      await restore(await Volume.create(temp, "target", kind, 513 * MiB));
    });

    it(`frees what is zero on a used ${kind.title} (seed ${seed})`, async function () {
      skipUnlessLoopDevices(this);
      const target = await Volume.create(temp, "target", kind, 513 * MiB);
      await target.write({ offsetBytes: 0, lengthBytes: 50 * MiB }, random);
      await target.write({ offsetBytes: 300 * MiB, lengthBytes: 100 * MiB + 4096 }, random);
      await restore(target);
    });
  }
});
