/** A DeviceFile against a model in memory: random reads, writes and zero ranges, aligned and not. */
import { readdirSync, readlinkSync } from "node:fs";

import { expect } from "chai";

import { allocateAligned, isZero, type DeviceFile } from "../../../native/index.js";
import type { Random } from "../../support/random-data.js";
import { KiB } from "../../support/sizes.js";

/**
 * Runs `steps` random operations on `device` and on a buffer, comparing what reads return, and the whole at the end.
 *
 * Up to four operations run at the same time, on ranges that do not overlap but may meet inside one sector.
 */
export async function checkAgainstModel(device: DeviceFile, random: Random, steps: number): Promise<void> {
  const { sizeBytes } = device.info;
  const model = Buffer.alloc(sizeBytes);
  await device.write(model, 0);
  for (let step = 0; step < steps; step++) {
    const cuts = Array.from({ length: random.between(1, 4) }, () => randomRange(random, sizeBytes))
      .sort((a, b) => a.start - b.start)
      .reduce<{ start: number; end: number }[]>((ranges, next) => {
        const start = Math.max(next.start, ranges.at(-1)?.end ?? 0);
        return start < next.end ? [...ranges, { start, end: next.end }] : ranges;
      }, []);
    await Promise.all(cuts.map((range) => oneOperation(device, model, random, range)));
  }
  await device.flush();
  const whole = Buffer.alloc(sizeBytes);
  expect(await device.read(whole, 0)).to.equal(sizeBytes);
  expect(whole.equals(model), "the whole device").to.equal(true);
}

async function oneOperation(
  device: DeviceFile,
  model: Buffer,
  random: Random,
  { start, end }: { start: number; end: number },
): Promise<void> {
  const length = end - start;
  const at = `${length} bytes at ${start}`;
  switch (random.below(4)) {
    case 0: {
      const target = randomMemory(random, length).fill(0xa5);
      expect(await device.read(target, start), at).to.equal(length);
      expect(target.equals(model.subarray(start, end)), `read ${at}`).to.equal(true);
      return;
    }
    case 1: {
      const chunkSizeBytes = Math.max(Math.ceil(length / 31), random.pick([512, 4 * KiB, 64 * KiB]));
      const target = randomMemory(random, length).fill(0xa5);
      const { bytesRead, zeroChunks } = await device.readChunks(target, start, chunkSizeBytes);
      expect(bytesRead).to.equal(length);
      expect(target.equals(model.subarray(start, end)), `readChunks ${at}`).to.equal(true);
      for (let chunk = 0; chunk * chunkSizeBytes < length; chunk++) {
        const bytes = target.subarray(chunk * chunkSizeBytes, (chunk + 1) * chunkSizeBytes);
        expect((zeroChunks >>> chunk) & 1, `chunk ${chunk} of ${at}`).to.equal(isZero(bytes) ? 1 : 0);
      }
      return;
    }
    case 2: {
      const source = random.fill(randomMemory(random, length));
      source.copy(model, start);
      return device.write(source, start);
    }
    default: {
      model.fill(0, start, end);
      await device.zeroRange(start, length);
    }
  }
}

/** Often aligned to something, often at the end, sometimes empty. */
function randomRange(random: Random, sizeBytes: number): { start: number; end: number } {
  const unit = random.pick([1, 1, 512, 4 * KiB, 64 * KiB]);
  const start = Math.min(sizeBytes, random.below(Math.ceil(sizeBytes / unit)) * unit);
  const length = random.pick([random.below(600), random.below(20 * KiB), random.below(sizeBytes / 2)]);
  const end = random.chance(0.2) ? sizeBytes : Math.min(sizeBytes, start + Math.ceil(length / unit) * unit);
  return { start, end: Math.max(start, end) };
}

/** Memory that suits O_DIRECT, or does not. */
function randomMemory(random: Random, length: number): Buffer {
  const skip = random.pick([0, 0, 512, random.below(5000)]);
  return allocateAligned(skip + length).subarray(skip);
}

/** How many descriptors of this process lead to `path`. */
export function descriptorsOf(path: string): number {
  return readdirSync("/proc/self/fd").filter((descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`).startsWith(path);
    } catch {
      return false; // the one that lists the directory
    }
  }).length;
}

/** The rejection of a promise that must reject. */
export async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}
