/**
 * Backs up one volume: decides full or incremental, moves the data, commits the snapshot.
 *
 * Whatever goes wrong, or is cancelled, before the manifest is durable leaves no snapshot. The change id is stored
 * in the same manifest as the object it belongs to.
 */
import { BlockmoverError, messageOf } from "../../common/errors.js";
import { sleep } from "../../common/cancellation.js";
import { Bitmap } from "../cbt/bitmap.js";
import type { ChangedRanges } from "../cbt/changed-ranges.js";
import type { BlockDevice } from "../device/block-device.js";
import { CHUNK_SIZE_BYTES } from "../../common/chunk.js";
import type {
  BackupRepository,
  ChangeTracking,
  NewSnapshot,
  ObjectWriter,
  SnapshotSource,
  VolumeSnapshot,
} from "../repository/repository.js";
import { chooseParent, type ParentWish } from "./parent.js";
import { Progress } from "./progress.js";
import { uploadVolume } from "./upload-volume.js";

/** As Kopia: what has been uploaded must be reachable from a manifest well before maintenance calls it garbage. */
const CHECKPOINT_INTERVAL_MS = 45 * 60 * 1000;

export interface BackupOptions {
  readonly device: BlockDevice;
  readonly repository: BackupRepository;
  readonly source: SnapshotSource;
  readonly description: string;
  readonly parent: ParentWish;
  /** Id of the operation that this backup belongs to; kept as a tag. */
  readonly operationId?: string;
  /** What changed since a base; without it the whole device is read. */
  readonly changes?: ChangedRanges;
  /** The storage's id of the volume, which the parent must have; by default the one in `changeTracking`. */
  readonly volumeId?: string;
  /** What the next increment needs to know of this backup. */
  readonly changeTracking?: ChangeTracking;
  readonly compression?: string;
  readonly signal: AbortSignal;
  /** Called once, as soon as there is progress to look at. */
  readonly onStart?: (progress: Progress, type: BackupType) => void;
  readonly checkpointIntervalMs?: number;
  readonly nowNs?: () => bigint;
}

export type BackupType = "full" | "incremental";

export interface BackupResult {
  readonly snapshotId: string;
  readonly objectId: string;
  readonly type: BackupType;
  /** Why an increment was asked for and a full backup made. */
  readonly fallbackReason: string | undefined;
  readonly parentSnapshotId: string | undefined;
  readonly changeId: string | undefined;
  readonly volumeSizeBytes: number;
  /** Size of the object: the volume rounded up to 1 MiB. */
  readonly totalBytes: number;
  /** Bytes of the volume that were read: all of it for a full backup, the changed chunks for an increment. */
  readonly incrementalBytes: number;
  /** Of these, bytes that the repository did not have. */
  readonly newContentBytes: number;
  /** Bytes put into the store, packs and indexes, after compression. */
  readonly uploadedBytes: number;
  /** Of the bytes read, those in chunks that were all zero. */
  readonly zeroBytes: number;
  readonly durationMs: number;
}

interface Plan {
  readonly bitmap: Bitmap;
  readonly parent: { readonly snapshot: VolumeSnapshot; readonly objectId: string } | undefined;
  readonly fallbackReason: string | undefined;
}

export async function backup(options: BackupOptions): Promise<BackupResult> {
  const { device, repository, signal } = options;
  const startedMs = performance.now();
  const startTimeNs = (options.nowNs ?? systemTimeNs)();
  const volumeSizeBytes = device.info.sizeBytes;
  if (volumeSizeBytes === 0) {
    throw new BlockmoverError("INVALID_ARGUMENT", `${device.path} is empty: there is nothing to back up`);
  }
  const uploadedBefore = repository.stats.uploadedBytes;
  const plan = await planBackup(options, volumeSizeBytes);
  const type: BackupType = plan.parent ? "incremental" : "full";
  const incrementalBytes = plan.bitmap.setBytes;
  const progress = new Progress({ volumeSizeBytes, totalBytes: incrementalBytes });
  options.onStart?.(progress, type);

  const writer = repository.newObjectWriter({
    volumeSizeBytes,
    parentObjectId: plan.parent?.objectId,
    compression: options.compression,
  });
  const snapshotOf = (objectId: string): NewSnapshot => ({
    source: options.source,
    description: options.description,
    startTimeNs,
    objectId,
    volumeSizeBytes,
    changeTracking: options.changeTracking,
    operationId: options.operationId,
  });
  let snapshotId: string;
  let objectId: string;
  try {
    progress.phase = "transferring";
    await uploadWithCheckpoints({ ...options, bitmap: plan.bitmap, writer, progress, snapshotOf });
    progress.phase = "flushing";
    objectId = await writer.result(signal);
    snapshotId = await repository.saveSnapshot(snapshotOf(objectId), signal);
  } catch (error) {
    await writer.abort();
    throw error;
  }
  progress.phase = "done";
  return {
    snapshotId,
    objectId,
    type,
    fallbackReason: plan.fallbackReason,
    parentSnapshotId: plan.parent?.snapshot.id,
    changeId: options.changeTracking?.changeId,
    volumeSizeBytes,
    totalBytes: plan.bitmap.chunkCount * CHUNK_SIZE_BYTES,
    incrementalBytes,
    newContentBytes: writer.stats.newContentBytes,
    uploadedBytes: repository.stats.uploadedBytes - uploadedBefore,
    zeroBytes: progress.zeroBytes,
    durationMs: Math.round(performance.now() - startedMs),
  };
}

/** Which chunks to read, and whose entries stand for the rest. */
async function planBackup(options: BackupOptions, volumeSizeBytes: number): Promise<Plan> {
  const { repository, signal, changes } = options;
  const full = (fallbackReason: string | undefined): Plan => {
    const bitmap = new Bitmap(volumeSizeBytes, CHUNK_SIZE_BYTES);
    bitmap.setAll();
    return { bitmap, parent: undefined, fallbackReason };
  };
  const choice = await chooseParent({
    repository,
    source: options.source,
    wish: options.parent,
    baseChangeId: changes?.baseChangeId,
    volumeId: options.volumeId ?? options.changeTracking?.volumeId,
    signal,
  });
  if (choice.kind === "none" || changes === undefined) {
    return full(choice.kind === "none" ? choice.reason : undefined);
  }
  const { snapshot } = choice;
  const bitmap = new Bitmap(volumeSizeBytes, CHUNK_SIZE_BYTES);
  let objectId: string;
  try {
    objectId = await repository.volumeObjectId(snapshot, signal);
    const unusable = await repository.inspectParent(
      objectId,
      (offsetBytes, lengthBytes) => bitmap.setRange(offsetBytes, lengthBytes),
      signal,
    );
    if (unusable !== undefined) {
      return full(`snapshot ${snapshot.id} cannot be a parent: ${unusable}`);
    }
  } catch (error) {
    signal.throwIfAborted();
    return full(`snapshot ${snapshot.id} cannot be read: ${messageOf(error)}`);
  }
  for await (const { offsetBytes, lengthBytes } of changes.ranges(signal)) {
    bitmap.setRange(offsetBytes, lengthBytes);
  }
  markResizedTail(bitmap, snapshot.volumeSizeBytes);
  return { bitmap, parent: { snapshot, objectId }, fallbackReason: undefined };
}

/**
 * After a change of size, the chunks at both ends are read whatever the tracker says: a chunk that a size cuts in
 * two has padding on one side, and bytes of the volume or of its past on the other. What a volume grew by is read
 * too: trackers differ in whether they report it.
 */
function markResizedTail(bitmap: Bitmap, parentSizeBytes: number): void {
  const sizeBytes = bitmap.volumeSizeBytes;
  if (sizeBytes === parentSizeBytes) {
    return;
  }
  if (sizeBytes > parentSizeBytes) {
    const from = Math.max(0, parentSizeBytes - 1);
    bitmap.setRange(from, sizeBytes - from);
  } else {
    bitmap.setRange(sizeBytes - 1, 1);
  }
}

/** Uploads, and now and then commits a checkpoint beside it; the first failure of either ends both. */
async function uploadWithCheckpoints(
  options: BackupOptions & {
    readonly bitmap: Bitmap;
    readonly writer: ObjectWriter;
    readonly progress: Progress;
    readonly snapshotOf: (objectId: string) => NewSnapshot;
  },
): Promise<void> {
  const { device, bitmap, writer, progress, repository, snapshotOf } = options;
  const intervalMs = options.checkpointIntervalMs ?? CHECKPOINT_INTERVAL_MS;
  const uploaded = new AbortController();
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const waiting = AbortSignal.any([signal, uploaded.signal]);
  const checkpoints = (async () => {
    for (;;) {
      try {
        await sleep(intervalMs, waiting);
      } catch {
        return; // the upload has ended, one way or another
      }
      const objectId = await writer.checkpoint(signal);
      if (objectId !== undefined) {
        await repository.saveCheckpoint(snapshotOf(objectId), signal);
      }
    }
  })();
  checkpoints.catch((error: unknown) => stop.abort(error));
  try {
    await uploadVolume({ device, bitmap, writer, progress, signal });
  } finally {
    uploaded.abort();
    await checkpoints.catch(() => undefined); // its failure has stopped the upload and is what that one threw
  }
  await checkpoints;
}

function systemTimeNs(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}
