/**
 * Proves that a snapshot can be restored: reads, authenticates, decompresses and re-hashes its contents.
 *
 * Goes on after damage, so that one run tells all that is wrong. The chunk of zeros is read once. Memory: a few
 * groups of chunks.
 */
import { allocateAligned } from "../../../native/index.js";
import { BlockmoverError, isBlockmoverError, messageOf } from "../../common/errors.js";
import { CHUNK_SIZE_BYTES, MAX_GROUP_CHUNKS } from "../../common/chunk.js";
import type { BackupRepository, ObjectEntry, ObjectReader, VolumeSnapshot } from "../repository/repository.js";
import { WorkInFlight } from "./pipeline.js";
import { Progress } from "./progress.js";

const READ_DEPTH = 3;
const GROUP_BYTES = MAX_GROUP_CHUNKS * CHUNK_SIZE_BYTES;

/** More damage than this is counted but not listed. */
const MAX_LISTED_PROBLEMS = 100;

export interface VerifyOptions {
  readonly repository: BackupRepository;
  readonly snapshot: VolumeSnapshot;
  /** Share of the entries to read, over 0 and up to 100; the table is always read whole. */
  readonly samplePercent: number;
  /** 0 ≤ value < 1, one call an entry; decides the sample. */
  readonly random: () => number;
  readonly signal: AbortSignal;
  readonly onStart?: (progress: Progress) => void;
}

export interface VerifyResult {
  readonly snapshotId: string;
  readonly entryCount: number;
  readonly verifiedBytes: number;
  readonly problemCount: number;
  /** What is wrong, the first 100 of them. */
  readonly problems: readonly string[];
}

export async function verifySnapshot(options: VerifyOptions): Promise<VerifyResult> {
  const { repository, snapshot, samplePercent, random, signal } = options;
  const progress = new Progress({ volumeSizeBytes: snapshot.volumeSizeBytes, totalBytes: snapshot.objectSizeBytes });
  options.onStart?.(progress);
  progress.phase = "transferring";
  const problems: string[] = [];
  let problemCount = 0;
  let entryCount = 0;
  let verifiedBytes = 0;
  let endBytes = 0;
  let zeroSeen = false;
  const report = (error: unknown): void => {
    signal.throwIfAborted();
    if (!isBlockmoverError(error)) {
      throw error;
    }
    problemCount++;
    if (problems.length < MAX_LISTED_PROBLEMS) {
      problems.push(messageOf(error));
    }
  };

  const stop = new AbortController();
  const reads = new WorkInFlight(READ_DEPTH, (error) => stop.abort(error));
  const free = Array.from({ length: READ_DEPTH }, () => allocateAligned(GROUP_BYTES));
  let group: ObjectEntry[] = [];
  let groupBytes = 0;
  const readGroup = async (object: ObjectReader): Promise<void> => {
    const entries = group;
    const lengthBytes = groupBytes;
    group = [];
    groupBytes = 0;
    if (entries.length === 0) {
      return;
    }
    await reads.add(async () => {
      const memory = lengthBytes > GROUP_BYTES ? undefined : free.pop();
      try {
        await readEntries(object, entries, memory ?? Buffer.allocUnsafeSlow(lengthBytes), report, signal);
      } finally {
        if (memory) {
          free.push(memory);
        }
      }
      verifiedBytes += lengthBytes;
      progress.advance(lengthBytes);
    });
  };
  try {
    const object = await repository.openObject(await repository.volumeObjectId(snapshot, signal), signal);
    for await (const batch of object.entries(signal)) {
      for (const entry of batch) {
        entryCount++;
        endBytes = entry.offsetBytes + entry.lengthBytes;
        const isKnownZero = entry.isZero && zeroSeen;
        zeroSeen ||= entry.isZero;
        if (isKnownZero || (samplePercent < 100 && random() * 100 >= samplePercent)) {
          progress.advance(entry.lengthBytes);
          continue;
        }
        if (groupBytes + entry.lengthBytes > GROUP_BYTES) {
          await readGroup(object);
        }
        group.push(entry);
        groupBytes += entry.lengthBytes;
      }
    }
    await readGroup(object);
    await reads.finish();
    if (endBytes < snapshot.volumeSizeBytes) {
      throw new BlockmoverError(
        "DATA_LOSS",
        `object ${object.objectId} ends at ${endBytes} bytes, before the volume's ${snapshot.volumeSizeBytes}`,
      );
    }
  } catch (error) {
    report(error);
  } finally {
    await reads.settle();
  }
  progress.phase = "done";
  return { snapshotId: snapshot.id, entryCount, verifiedBytes, problemCount, problems };
}

/** Reads entries together; when that fails, one by one, to tell which of them are damaged. */
async function readEntries(
  object: ObjectReader,
  entries: readonly ObjectEntry[],
  memory: Buffer,
  report: (error: unknown) => void,
  signal: AbortSignal,
): Promise<void> {
  let used = 0;
  const reads = entries.map((entry) => {
    const target = memory.subarray(used, used + entry.lengthBytes);
    used += entry.lengthBytes;
    return { entry, target };
  });
  try {
    await object.read(reads, signal);
  } catch {
    for (const read of reads) {
      try {
        await object.read([read], signal);
      } catch (error) {
        report(error);
      }
    }
  }
}
