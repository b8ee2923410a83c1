/**
 * One transfer from beginning to end: opens the repository and the device, moves the data, closes everything.
 *
 * Whatever was opened is closed on every path, and a target that was made for a restore is removed when the restore
 * does not succeed.
 */
import { openSource } from "./device/open-source.js";
import { openTarget } from "./device/open-target.js";
import type { BlockDevice } from "./device/block-device.js";
import type { ChangedRanges } from "./cbt/changed-ranges.js";
import type { ChangeTracking, SnapshotSource } from "./repository/repository.js";
import { openKopiaRepository, type KopiaRepository } from "./repository/kopia/kopia-repository.js";
import { openStorage } from "./repository/storage/storage-url.js";
import { backup, type BackupResult, type BackupType } from "./uploader/backup.js";
import type { ParentWish } from "./uploader/parent.js";
import type { Progress } from "./uploader/progress.js";
import { restore, type RestoreResult } from "./uploader/restore.js";

export interface RepositoryLocation {
  readonly url: string;
  readonly password: string;
}

export interface BackupRequest {
  readonly repository: RepositoryLocation;
  readonly devicePath: string;
  readonly source: SnapshotSource;
  readonly description: string;
  readonly parent: ParentWish;
  readonly changes?: ChangedRanges;
  /** The storage's id of the volume, which the parent must have; by default the one in `changeTracking`. */
  readonly volumeId?: string;
  readonly changeTracking?: ChangeTracking;
  readonly compression?: string;
  readonly operationId?: string;
}

export interface RestoreRequest {
  readonly repository: RepositoryLocation;
  readonly snapshotId: string;
  readonly targetPath: string;
  /** Overwrite a file that is not empty. */
  readonly force: boolean;
}

export interface TransferObserver {
  readonly onBackupStart?: (progress: Progress, type: BackupType) => void;
  readonly onRestoreStart?: (progress: Progress) => void;
  readonly onWarning?: (message: string) => void;
  /** Wraps the device that is read; for tests that need one to fail. */
  readonly wrapSource?: (device: BlockDevice) => BlockDevice;
}

/** Opens the repository at a URL; the caller closes it. */
export async function openRepository(
  location: RepositoryLocation,
  options: { readonly onWarning?: (message: string) => void; readonly signal?: AbortSignal } = {},
): Promise<KopiaRepository> {
  const storage = await openStorage(location.url);
  try {
    return await openKopiaRepository({ storage, password: location.password, ...options });
  } catch (error) {
    await storage.close();
    throw error;
  }
}

export async function runBackup(
  request: BackupRequest,
  observer: TransferObserver,
  signal: AbortSignal,
): Promise<BackupResult> {
  // The device first: a missing one is told before a password is stretched for a tenth of a second.
  const opened = await openSource(request.devicePath);
  const device = observer.wrapSource?.(opened) ?? opened;
  try {
    const repository = await openRepository(request.repository, { onWarning: observer.onWarning, signal });
    try {
      return await backup({
        ...request,
        device,
        repository,
        signal,
        onStart: observer.onBackupStart,
      });
    } finally {
      await repository.close();
    }
  } finally {
    await device.close();
  }
}

export async function runRestore(
  request: RestoreRequest,
  observer: TransferObserver,
  signal: AbortSignal,
): Promise<RestoreResult> {
  const repository = await openRepository(request.repository, { onWarning: observer.onWarning, signal });
  try {
    const snapshot = await repository.getSnapshot(request.snapshotId, signal);
    const target = await openTarget(request.targetPath, {
      sizeBytes: snapshot.volumeSizeBytes,
      force: request.force,
    });
    let succeeded = false;
    try {
      const result = await restore({
        repository,
        snapshot,
        device: target.device,
        isTargetZero: target.isNew,
        signal,
        onStart: observer.onRestoreStart,
      });
      succeeded = true;
      return result;
    } finally {
      await (succeeded ? target.device.close() : target.discard());
    }
  } finally {
    await repository.close();
  }
}
