/**
 * The data path of a restore: reads an object's entries and writes them to a device.
 *
 *     ObjectReader ──▶ ring of slots, about 8 MiB each ──▶ BlockWriter
 *     fetch, authenticate, decompress, re-hash              O_DIRECT writes of whole runs
 *
 * Entries that are known to be zero are never fetched: neighbours are merged and the range is zeroed by the device
 * (or left alone where the target is new and already zero). Exactly the volume's size is written, not the padding.
 */
import { allocateAligned } from "../../../native/index.js";
import type { BlockDevice } from "../device/block-device.js";
import { CHUNK_SIZE_BYTES, MAX_GROUP_CHUNKS } from "../../common/chunk.js";
import type { EntryRead, ObjectReader } from "../repository/repository.js";
import { BlockmoverError } from "../../common/errors.js";
import { runPipeline, WorkInFlight } from "./pipeline.js";
import type { Progress } from "./progress.js";
import type { RingBuffer } from "./ring-buffer.js";

const SLOT_COUNT = 5;
const SLOT_BYTES = MAX_GROUP_CHUNKS * CHUNK_SIZE_BYTES;

/** Slots being fetched and opened at once. */
const READ_DEPTH = 3;

const WRITE_DEPTH = 2;

/** A zero range is handed to the device in steps of this size, so that a cancel never waits long for one. */
const ZERO_STEP_BYTES = 1024 ** 3;

interface DownloadSlot {
  readonly memory: Buffer;
  /** What is in the slot, from its beginning without gaps; `memory` of its own for an entry longer than a slot. */
  reads: EntryRead[];
  filled: Promise<void>;
}

export interface DownloadStats {
  writtenBytes: number;
  zeroedBytes: number;
  skippedBytes: number;
}

export interface DownloadOptions {
  readonly object: ObjectReader;
  readonly device: BlockDevice;
  readonly volumeSizeBytes: number;
  /** True when the target already reads as zeros everywhere: zero ranges are then left alone. */
  readonly isTargetZero: boolean;
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

/** What both sides work on. */
type SideOptions = DownloadOptions & { readonly ring: RingBuffer<DownloadSlot>; readonly stats: DownloadStats };

export async function downloadVolume(options: DownloadOptions): Promise<DownloadStats> {
  const stats: DownloadStats = { writtenBytes: 0, zeroedBytes: 0, skippedBytes: 0 };
  const slots = Array.from({ length: SLOT_COUNT }, (): DownloadSlot => ({
    memory: allocateAligned(SLOT_BYTES),
    reads: [],
    filled: Promise.resolve(),
  }));
  await runPipeline({
    slots,
    signal: options.signal,
    read: (ring) => readEntries({ ...options, ring, stats }),
    write: (ring) => writeEntries({ ...options, ring, stats }),
  });
  return stats;
}

async function readEntries(options: SideOptions): Promise<void> {
  const { object, device, volumeSizeBytes, isTargetZero, progress, signal, ring, stats } = options;
  const reads = new WorkInFlight(READ_DEPTH, (error) => ring.fail(error));
  const zeroing = new WorkInFlight(1, (error) => ring.fail(error));
  let slot: DownloadSlot | undefined;
  let slotUsed = 0;
  let zeroStart = 0;
  let zeroEnd = 0;
  let objectEnd = 0;

  const sendSlot = async (): Promise<void> => {
    const full = slot;
    slot = undefined;
    slotUsed = 0;
    if (full) {
      await reads.add(() => {
        full.filled = object.read(full.reads, signal);
        return full.filled;
      });
      ring.push(full);
    }
  };
  const zeroPending = async (): Promise<void> => {
    const end = zeroEnd;
    for (let start = zeroStart; start < end; start += ZERO_STEP_BYTES) {
      const from = start;
      const lengthBytes = Math.min(ZERO_STEP_BYTES, end - start);
      signal.throwIfAborted();
      await zeroing.add(async () => {
        if (isTargetZero) {
          stats.skippedBytes += lengthBytes;
        } else {
          await device.zeroRange(from, lengthBytes);
          stats.zeroedBytes += lengthBytes;
        }
        progress.zeroBytes += lengthBytes;
        progress.advance(lengthBytes);
      });
    }
    zeroStart = zeroEnd = 0;
  };

  try {
    for await (const batch of object.entries(signal)) {
      for (const entry of batch) {
        objectEnd = entry.offsetBytes + entry.lengthBytes;
        if (entry.offsetBytes >= volumeSizeBytes) {
          continue; // padding beyond the volume
        }
        if (entry.isZero) {
          if (zeroEnd !== entry.offsetBytes) {
            await zeroPending();
            zeroStart = entry.offsetBytes;
          }
          zeroEnd = Math.min(objectEnd, volumeSizeBytes);
          continue;
        }
        if (entry.lengthBytes > SLOT_BYTES) {
          await sendSlot(); // longer than a slot: only foreign layouts have such entries; memory of its own
          slot = await ring.acquire();
          slot.reads = [{ entry, target: allocateAligned(entry.lengthBytes) }];
          await sendSlot();
          continue;
        }
        if (slot && slotUsed + entry.lengthBytes > SLOT_BYTES) {
          await sendSlot();
        }
        if (!slot) {
          slot = await ring.acquire();
          slot.reads = [];
        }
        slot.reads.push({ entry, target: slot.memory.subarray(slotUsed, slotUsed + entry.lengthBytes) });
        slotUsed += entry.lengthBytes;
        if (slotUsed === SLOT_BYTES) {
          await sendSlot();
        }
      }
    }
    if (objectEnd < volumeSizeBytes) {
      throw new BlockmoverError(
        "DATA_LOSS",
        `object ${object.objectId} ends at ${objectEnd} bytes, before the volume's ${volumeSizeBytes}`,
        { hint: "The snapshot is damaged; restore another one." },
      );
    }
    await sendSlot();
    await zeroPending();
    await zeroing.finish();
    ring.end();
  } finally {
    await Promise.all([reads.settle(), zeroing.settle()]);
  }
}

async function writeEntries(options: SideOptions): Promise<void> {
  const { device, volumeSizeBytes, progress, ring, stats } = options;
  const writes = new WorkInFlight(WRITE_DEPTH, (error) => ring.fail(error));
  try {
    for (let slot = await ring.shift(); slot; slot = await ring.shift()) {
      const current = slot;
      await current.filled;
      await writes.add(async () => {
        for (const { offsetBytes, bytes } of writeRuns(current, volumeSizeBytes)) {
          await device.write(bytes, offsetBytes);
          stats.writtenBytes += bytes.length;
          progress.incrementalBytes += bytes.length;
          progress.advance(bytes.length);
        }
        current.reads = [];
        ring.release(current);
      });
    }
    await writes.finish();
  } finally {
    await writes.settle();
  }
}

/** Entries that are neighbours in the volume and in memory become one write; what lies past the volume's end is cut. */
function* writeRuns(
  slot: DownloadSlot,
  volumeSizeBytes: number,
): Generator<{ readonly offsetBytes: number; readonly bytes: Uint8Array }> {
  let first = 0;
  while (first < slot.reads.length) {
    const start = slot.reads[first] as EntryRead;
    let end = start.entry.offsetBytes + start.entry.lengthBytes;
    let next = first + 1;
    while (next < slot.reads.length && (slot.reads[next] as EntryRead).entry.offsetBytes === end) {
      end += (slot.reads[next] as EntryRead).entry.lengthBytes;
      next++;
    }
    const lengthBytes = Math.min(end, volumeSizeBytes) - start.entry.offsetBytes;
    const { target } = start;
    yield {
      offsetBytes: start.entry.offsetBytes,
      bytes: new Uint8Array(target.buffer, target.byteOffset, lengthBytes),
    };
    first = next;
  }
}
