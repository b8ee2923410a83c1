/**
 * Restores one volume: writes exactly the recorded bytes to a device, and flushes before it says so.
 */
import type { BlockDevice } from "../device/block-device.js";
import type { BackupRepository, VolumeSnapshot } from "../repository/repository.js";
import { downloadVolume } from "./download-volume.js";
import { Progress } from "./progress.js";

export interface RestoreOptions {
  readonly repository: BackupRepository;
  readonly snapshot: VolumeSnapshot;
  readonly device: BlockDevice;
  /** True when the target is known to read as zeros everywhere, such as a file that was just made. */
  readonly isTargetZero: boolean;
  readonly signal: AbortSignal;
  readonly onStart?: (progress: Progress) => void;
}

export interface RestoreResult {
  readonly snapshotId: string;
  readonly volumeSizeBytes: number;
  readonly writtenBytes: number;
  /** Bytes zeroed by the device, without being read from the repository. */
  readonly zeroedBytes: number;
  /** Bytes of zeros left alone because the target was known to be zero. */
  readonly skippedBytes: number;
  readonly durationMs: number;
}

export async function restore(options: RestoreOptions): Promise<RestoreResult> {
  const { repository, snapshot, device, isTargetZero, signal } = options;
  const startedMs = performance.now();
  const { volumeSizeBytes } = snapshot;
  const progress = new Progress({ volumeSizeBytes, totalBytes: volumeSizeBytes });
  options.onStart?.(progress);
  const object = await repository.openObject(await repository.volumeObjectId(snapshot, signal), signal);
  progress.phase = "transferring";
  const stats = await downloadVolume({ object, device, volumeSizeBytes, isTargetZero, progress, signal });
  progress.phase = "flushing";
  await device.flush();
  progress.phase = "done";
  return { snapshotId: snapshot.id, volumeSizeBytes, ...stats, durationMs: Math.round(performance.now() - startedMs) };
}
