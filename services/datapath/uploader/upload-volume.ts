/**
 * The data path of a backup: reads the chunks that the bitmap names and writes them into an object.
 *
 *     BlockReader ──▶ ring of slots, 8 chunks each ──▶ ObjectWriter.writeAt
 *     reads ahead, finds zeros                         hash, dedup, seal: several slots at once
 *
 * A slot holds up to 8 chunks, neighbours or not: changed chunks of an increment are hashed side by side as well.
 * What lies past the end of the volume in its last chunk is zero. Memory: the slots, whatever the volume's size.
 */
import { allocateAligned } from "../../../native/index.js";
import { BlockmoverError } from "../../common/errors.js";
import type { Bitmap } from "../cbt/bitmap.js";
import type { BlockDevice } from "../device/block-device.js";
import { CHUNK_SIZE_BYTES, MAX_GROUP_CHUNKS } from "../../common/chunk.js";
import type { ObjectWriter, VolumeChunk } from "../repository/repository.js";
import { runPipeline, WorkInFlight } from "./pipeline.js";
import type { Progress } from "./progress.js";
import type { RingBuffer } from "./ring-buffer.js";

const SLOT_COUNT = 6;

/** Reads under way at once: more gain nothing on a disk, and take the threads that hash and encrypt. */
const READ_DEPTH = 3;

interface UploadSlot {
  readonly memory: Buffer;
  /** Where each chunk of the slot lies in the volume. */
  readonly offsetsBytes: number[];
  /** Bit i: chunk i of the slot is all zero. */
  zeroChunks: number;
  /** Settles when the slot has been read. */
  filled: Promise<void>;
}

export async function uploadVolume(options: {
  readonly device: BlockDevice;
  readonly bitmap: Bitmap;
  readonly writer: ObjectWriter;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { device, bitmap, writer, progress, signal } = options;
  const slots = Array.from({ length: SLOT_COUNT }, (): UploadSlot => ({
    memory: allocateAligned(MAX_GROUP_CHUNKS * CHUNK_SIZE_BYTES),
    offsetsBytes: [],
    zeroChunks: 0,
    filled: Promise.resolve(),
  }));
  await runPipeline({
    slots,
    signal,
    read: (ring) => readChunks({ device, bitmap, ring }),
    write: (ring) => writeChunks({ volumeSizeBytes: bitmap.volumeSizeBytes, writer, progress, ring, signal }),
  });
}

async function readChunks(options: {
  readonly device: BlockDevice;
  readonly bitmap: Bitmap;
  readonly ring: RingBuffer<UploadSlot>;
}): Promise<void> {
  const { device, bitmap, ring } = options;
  const reads = new WorkInFlight(READ_DEPTH, (error) => ring.fail(error));
  try {
    for (const runs of slotFuls(bitmap)) {
      const slot = await ring.acquire();
      slot.offsetsBytes.length = 0;
      for (const { firstChunk, chunkCount } of runs) {
        for (let chunk = firstChunk; chunk < firstChunk + chunkCount; chunk++) {
          slot.offsetsBytes.push(chunk * CHUNK_SIZE_BYTES);
        }
      }
      await reads.add(() => {
        slot.filled = fillSlot(device, slot, runs);
        return slot.filled;
      });
      ring.push(slot);
    }
    ring.end();
  } finally {
    await reads.settle();
  }
}

/** Runs of chunks to read, in portions that fill one slot. */
function* slotFuls(bitmap: Bitmap): Generator<{ readonly firstChunk: number; readonly chunkCount: number }[]> {
  let runs: { firstChunk: number; chunkCount: number }[] = [];
  let used = 0;
  for (const run of bitmap.setRuns(MAX_GROUP_CHUNKS)) {
    let { firstChunk, chunkCount } = run;
    while (chunkCount > 0) {
      const taken = Math.min(chunkCount, MAX_GROUP_CHUNKS - used);
      runs.push({ firstChunk, chunkCount: taken });
      used += taken;
      firstChunk += taken;
      chunkCount -= taken;
      if (used === MAX_GROUP_CHUNKS) {
        yield runs;
        runs = [];
        used = 0;
      }
    }
  }
  if (runs.length > 0) {
    yield runs;
  }
}

async function fillSlot(
  device: BlockDevice,
  slot: UploadSlot,
  runs: readonly { readonly firstChunk: number; readonly chunkCount: number }[],
): Promise<void> {
  slot.zeroChunks = 0;
  let position = 0;
  // One read after the other: a slot is one piece of work, and slots are what runs in parallel.
  for (const { firstChunk, chunkCount } of runs) {
    const memory = slot.memory.subarray(position * CHUNK_SIZE_BYTES, (position + chunkCount) * CHUNK_SIZE_BYTES);
    const offsetBytes = firstChunk * CHUNK_SIZE_BYTES;
    const { bytesRead, zeroChunks } = await device.readChunks(memory, offsetBytes, CHUNK_SIZE_BYTES);
    const expectedBytes = Math.min(memory.length, device.info.sizeBytes - offsetBytes);
    if (bytesRead !== expectedBytes) {
      throw new BlockmoverError(
        "FAILED_PRECONDITION",
        `${device.path} ended at ${offsetBytes + bytesRead} bytes while it was read; it had ${device.info.sizeBytes}`,
        { hint: "Back up a snapshot of the volume, which nobody shrinks." },
      );
    }
    slot.zeroChunks |= zeroChunks << position;
    position += chunkCount;
  }
}

async function writeChunks(options: {
  readonly volumeSizeBytes: number;
  readonly writer: ObjectWriter;
  readonly progress: Progress;
  readonly ring: RingBuffer<UploadSlot>;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { volumeSizeBytes, writer, progress, ring, signal } = options;
  const writes = new WorkInFlight(SLOT_COUNT, (error) => ring.fail(error));
  try {
    for (let slot = await ring.shift(); slot; slot = await ring.shift()) {
      const current = slot;
      await current.filled;
      await writes.add(async () => {
        await writer.writeAt(chunksOf(current), signal);
        const zeroCount = populationCount8(current.zeroChunks);
        const lastOffset = current.offsetsBytes[current.offsetsBytes.length - 1] ?? 0;
        const padding = Math.max(0, lastOffset + CHUNK_SIZE_BYTES - volumeSizeBytes);
        progress.incrementalBytes = writer.stats.newContentBytes;
        progress.zeroBytes += zeroCount * CHUNK_SIZE_BYTES;
        progress.advance(current.offsetsBytes.length * CHUNK_SIZE_BYTES - padding);
        ring.release(current);
      });
    }
    await writes.finish();
  } finally {
    await writes.settle();
  }
}

function chunksOf(slot: UploadSlot): VolumeChunk[] {
  return slot.offsetsBytes.map((offsetBytes, position) => ({
    offsetBytes,
    bytes:
      ((slot.zeroChunks >>> position) & 1) === 1
        ? "zero"
        : slot.memory.subarray(position * CHUNK_SIZE_BYTES, (position + 1) * CHUNK_SIZE_BYTES),
  }));
}

function populationCount8(bits: number): number {
  let count = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) {
    count++;
  }
  return count;
}
