/**
 * Transfers as the wire has them, and as the data path does: `bigint` on one side, safe numbers on the other.
 *
 * A message that comes in here has been validated by the agent; what does not fit is a mistake of ours.
 */
import { create } from "@bufbuild/protobuf";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import { assert } from "../common/assert.js";
import { BlockmoverError, messageOf } from "../common/errors.js";
import { errorCodeNamed } from "../common/rpc/rpc-errors.js";
import {
  BackupResultSchema,
  BackupSpecSchema,
  BackupType as WireBackupType,
  RestoreResultSchema,
  RestoreSpecSchema,
  TransferErrorSchema,
  TransferPhase as WirePhase,
  TransferProgressSchema,
  type BackupResult as WireBackupResult,
  type BackupSpec,
  type RestoreResult as WireRestoreResult,
  type RestoreSpec,
  type TransferError,
  type TransferProgress,
} from "../gen/blockmover/v1/transfer_pb.js";
import type { ByteRange } from "./cbt/changed-ranges.js";
import type { BackupRequest, RepositoryLocation, RestoreRequest } from "./data-mover.js";
import type { BackupResult, BackupType } from "./uploader/backup.js";
import type { ParentWish } from "./uploader/parent.js";
import type { ProgressSnapshot, TransferPhase } from "./uploader/progress.js";
import type { RestoreResult } from "./uploader/restore.js";

const phases = {
  opening: WirePhase.OPENING,
  transferring: WirePhase.TRANSFERRING,
  flushing: WirePhase.FLUSHING,
  done: WirePhase.DONE,
} as const satisfies Readonly<Record<TransferPhase, WirePhase>>;

/** A backup as it is sent: its changed ranges, which a request holds lazily, as a list. */
export function encodeBackupSpec(request: Omit<BackupRequest, "changes">, changes?: WireChanges): BackupSpec {
  const { repository, devicePath, source, description, parent, compression, operationId } = request;
  const { volumeId, changeTracking } = request;
  return create(BackupSpecSchema, {
    repository,
    devicePath,
    source,
    description,
    parent: { wish: encodeParentWish(parent) },
    changes: changes && {
      baseChangeId: changes.baseChangeId,
      ranges: changes.ranges.map(({ offsetBytes, lengthBytes }) => ({
        offsetBytes: BigInt(offsetBytes),
        lengthBytes: BigInt(lengthBytes),
      })),
    },
    volumeId,
    changeTracking,
    compression: compression === "none" ? "" : compression,
    operationId,
  });
}

/** Changed ranges that are all there. */
export interface WireChanges {
  readonly baseChangeId: string;
  readonly ranges: readonly ByteRange[];
}

export function decodeBackupSpec(spec: BackupSpec): BackupRequest {
  const { source, changes, changeTracking } = spec;
  assert(source !== undefined, "a backup has a source");
  return {
    repository: decodeRepository(spec.repository),
    devicePath: spec.devicePath,
    source: { userName: source.userName, host: source.host, path: source.path },
    description: spec.description,
    parent: decodeParentWish(spec),
    changes: changes && {
      baseChangeId: changes.baseChangeId,
      ranges: async function* () {
        for (const { offsetBytes, lengthBytes } of changes.ranges) {
          yield { offsetBytes: Number(offsetBytes), lengthBytes: Number(lengthBytes) };
        }
      },
    },
    volumeId: spec.volumeId === "" ? undefined : spec.volumeId,
    changeTracking: changeTracking && { changeId: changeTracking.changeId, volumeId: changeTracking.volumeId },
    compression: spec.compression === "" ? undefined : spec.compression,
    operationId: spec.operationId === "" ? undefined : spec.operationId,
  };
}

export function encodeRestoreSpec(request: RestoreRequest): RestoreSpec {
  return create(RestoreSpecSchema, { ...request });
}

export function decodeRestoreSpec(spec: RestoreSpec): RestoreRequest {
  const { snapshotId, targetPath, force } = spec;
  return { repository: decodeRepository(spec.repository), snapshotId, targetPath, force };
}

export function encodeProgress(progress: ProgressSnapshot, type: BackupType | undefined): TransferProgress {
  return create(TransferProgressSchema, {
    phase: phases[progress.phase],
    volumeSizeBytes: BigInt(progress.volumeSizeBytes),
    totalBytes: BigInt(progress.totalBytes),
    doneBytes: BigInt(progress.doneBytes),
    incrementalBytes: BigInt(progress.incrementalBytes),
    zeroBytes: BigInt(progress.zeroBytes),
    bytesPerSecond: progress.bytesPerSecond,
    remaining: progress.remainingMs === undefined ? undefined : durationFromMs(Math.round(progress.remainingMs)),
    backupType: type === undefined ? WireBackupType.UNSPECIFIED : encodeBackupType(type),
  });
}

/** Progress for a display; `undefined` fields of the message are zero. */
export function decodeProgress(progress: TransferProgress): ProgressSnapshot {
  const phase = (Object.keys(phases) as TransferPhase[]).find((name) => phases[name] === progress.phase);
  return {
    phase: phase ?? "opening",
    volumeSizeBytes: Number(progress.volumeSizeBytes),
    totalBytes: Number(progress.totalBytes),
    doneBytes: Number(progress.doneBytes),
    incrementalBytes: Number(progress.incrementalBytes),
    zeroBytes: Number(progress.zeroBytes),
    bytesPerSecond: progress.bytesPerSecond,
    remainingMs: progress.remaining && durationMs(progress.remaining),
  };
}

export function encodeBackupResult(result: BackupResult): WireBackupResult {
  return create(BackupResultSchema, {
    snapshotId: result.snapshotId,
    objectId: result.objectId,
    type: encodeBackupType(result.type),
    fallbackReason: result.fallbackReason,
    parentSnapshotId: result.parentSnapshotId,
    changeId: result.changeId,
    volumeSizeBytes: BigInt(result.volumeSizeBytes),
    totalBytes: BigInt(result.totalBytes),
    incrementalBytes: BigInt(result.incrementalBytes),
    newContentBytes: BigInt(result.newContentBytes),
    uploadedBytes: BigInt(result.uploadedBytes),
    zeroBytes: BigInt(result.zeroBytes),
    duration: durationFromMs(result.durationMs),
  });
}

export function decodeBackupResult(result: WireBackupResult): BackupResult {
  const absent = (text: string): string | undefined => (text === "" ? undefined : text);
  return {
    snapshotId: result.snapshotId,
    objectId: result.objectId,
    type: result.type === WireBackupType.INCREMENTAL ? "incremental" : "full",
    fallbackReason: absent(result.fallbackReason),
    parentSnapshotId: absent(result.parentSnapshotId),
    changeId: absent(result.changeId),
    volumeSizeBytes: Number(result.volumeSizeBytes),
    totalBytes: Number(result.totalBytes),
    incrementalBytes: Number(result.incrementalBytes),
    newContentBytes: Number(result.newContentBytes),
    uploadedBytes: Number(result.uploadedBytes),
    zeroBytes: Number(result.zeroBytes),
    durationMs: result.duration === undefined ? 0 : durationMs(result.duration),
  };
}

export function encodeRestoreResult(result: RestoreResult): WireRestoreResult {
  return create(RestoreResultSchema, {
    snapshotId: result.snapshotId,
    volumeSizeBytes: BigInt(result.volumeSizeBytes),
    writtenBytes: BigInt(result.writtenBytes),
    zeroedBytes: BigInt(result.zeroedBytes),
    skippedBytes: BigInt(result.skippedBytes),
    duration: durationFromMs(result.durationMs),
  });
}

export function decodeRestoreResult(result: WireRestoreResult): RestoreResult {
  return {
    snapshotId: result.snapshotId,
    volumeSizeBytes: Number(result.volumeSizeBytes),
    writtenBytes: Number(result.writtenBytes),
    zeroedBytes: Number(result.zeroedBytes),
    skippedBytes: Number(result.skippedBytes),
    durationMs: result.duration === undefined ? 0 : durationMs(result.duration),
  };
}

export function encodeTransferError(error: unknown): TransferError {
  const known = error instanceof BlockmoverError;
  return create(TransferErrorSchema, {
    code: known ? error.code : "INTERNAL",
    message: messageOf(error),
    hint: known ? error.hint : undefined,
  });
}

export function decodeTransferError(error: TransferError): BlockmoverError {
  return new BlockmoverError(errorCodeNamed(error.code), error.message, {
    hint: error.hint === "" ? undefined : error.hint,
  });
}

function decodeRepository(location: BackupSpec["repository"]): RepositoryLocation {
  assert(location !== undefined, "a transfer has a repository");
  return { url: location.url, password: location.password };
}

function encodeBackupType(type: BackupType): WireBackupType {
  return type === "full" ? WireBackupType.FULL : WireBackupType.INCREMENTAL;
}

type WireWish = NonNullable<BackupSpec["parent"]>["wish"];

function encodeParentWish(wish: ParentWish): WireWish {
  switch (wish.kind) {
    case "auto":
      return { case: "auto", value: true };
    case "none":
      return { case: "none", value: true };
    case "snapshot":
      return { case: "snapshotId", value: wish.id };
  }
}

function decodeParentWish(spec: BackupSpec): ParentWish {
  const wish = spec.parent?.wish;
  switch (wish?.case) {
    case "auto":
      return { kind: "auto" };
    case "none":
      return { kind: "none" };
    case "snapshotId":
      return { kind: "snapshot", id: wish.value };
    default:
      assert(false, "a backup says which parent it wants");
  }
}
