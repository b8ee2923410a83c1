/**
 * How a volume lies in the repository: the layout of Velero's own block mover (main, August 2026), so that either can
 * restore, and continue the increments of, what the other wrote. See velero-block-layout.md, kopia-format.md §8.13.
 *
 *     manifest ─ rootEntry (d) ─ directory k… ─ one file ─ object I… : entries of exactly 1 MiB, the last one padded
 *       tags: real size, change id, volume id, requester, uploader, operation
 *
 * A checkpoint (the unfinished volume, kept alive against garbage collection) has neither the uploader tag nor the CBT
 * tags and a source path of its own: Velero's mover does not look at `incomplete` and would take it for a parent.
 */
import { posix } from "node:path";

import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";
import { type Directory, type DirectoryEntry, formatMode } from "./directory.js";
import { formatGoTime } from "./go-time.js";
import { EMPTY_STATS, INCOMPLETE_CHECKPOINT, type SnapshotManifest, type SnapshotSource } from "./snapshot-manifest.js";

/** Length of every entry of a volume's object. */
export const VOLUME_CHUNK_BYTES = 1024 * 1024;

/** Real volume size in bytes, decimal. */
export const TAG_SOURCE_SIZE = "bdev-source-size";
/** Change id of this backup: what the next increment starts from. */
export const TAG_CHANGE_ID = "cbt-change-id";
/** The storage's id of the volume. */
export const TAG_VOLUME_ID = "cbt-volume-id";
export const TAG_REQUESTER = "snapshot-requester";
export const TAG_UPLOADER = "snapshot-uploader";
export const TAG_ASYNC_OPERATION_ID = "velero.io/async-operation-id";

export const REQUESTER = "snapshot-data-upload-download";
export const UPLOADER = "velero-block";
export const DEFAULT_USER = "default";
export const DEFAULT_HOST = "default";
export const PIN = "velero-pin";
export const DEFAULT_DESCRIPTION = "Block Uploader";

/** Takes the uploader's place in the source path of a checkpoint. */
const CHECKPOINT_UPLOADER = "blockmover-checkpoint";

const VOLUME_PERMISSIONS = 0o777;

/**
 * Source path of a volume's snapshots.
 *
 * @throws BlockmoverError INVALID_ARGUMENT for a name that is empty or would leave its place in the path
 * @example sourcePath("shop", "database") === "snapshot-data-upload-download/velero-block/shop/database"
 */
export function sourcePath(namespace: string, pvc: string): string {
  for (const name of [namespace, pvc]) {
    if (name === "" || name === "." || name === ".." || /[/\\\0]/.test(name)) {
      throw new BlockmoverError("INVALID_ARGUMENT", `${JSON.stringify(name)} cannot be a namespace or volume name`);
    }
  }
  return posix.normalize(`${REQUESTER}/${UPLOADER}/${namespace}/${pvc}`);
}

/** Source path of the checkpoints of a volume, which nobody looks for parents under. */
export function checkpointSourcePath(path: string): string {
  const upstream = `${REQUESTER}/${UPLOADER}/`;
  const rest = path.startsWith(upstream) ? path.slice(upstream.length) : path;
  return posix.normalize(`${REQUESTER}/${CHECKPOINT_UPLOADER}/${rest}`);
}

/** Source under the user and host that Velero uses. */
export function volumeSource(path: string): SnapshotSource {
  return { host: DEFAULT_HOST, userName: DEFAULT_USER, path };
}

/**
 * Name of the one file in a volume's directory: the source path with dashes for slashes.
 *
 * @example fileEntryName("a/b/c/") === "a-b-c"
 */
export function fileEntryName(path: string): string {
  const name = path.replace(/[/\\]/g, "-").replace(/^-+|-+$/g, "");
  if (name === "") {
    throw new BlockmoverError("INVALID_ARGUMENT", `source path ${JSON.stringify(path)} names no file`);
  }
  return name;
}

/** Length of a volume's object: its size rounded up to whole chunks. */
export function paddedSizeBytes(volumeSizeBytes: number): number {
  return Math.ceil(volumeSizeBytes / VOLUME_CHUNK_BYTES) * VOLUME_CHUNK_BYTES;
}

export interface VolumeDirectoryFields {
  /** Source path of the snapshot. */
  readonly path: string;
  /** The volume's object, `I…`. */
  readonly objectId: string;
  /** Its length, a multiple of 1 MiB. */
  readonly objectSizeBytes: number;
  /** Start of the backup. */
  readonly startTimeNs: bigint;
}

/** The directory of a volume: one file. */
export function volumeDirectory(fields: VolumeDirectoryFields): Directory {
  assert(
    fields.objectSizeBytes % VOLUME_CHUNK_BYTES === 0 && fields.objectId.startsWith("I"),
    `a volume is an indirect object of whole chunks, not ${fields.objectId} of ${fields.objectSizeBytes} bytes`,
  );
  return {
    entries: [
      {
        name: fileEntryName(fields.path),
        type: "f",
        mode: formatMode(VOLUME_PERMISSIONS),
        size: fields.objectSizeBytes,
        mtime: formatGoTime(fields.startTimeNs),
        obj: fields.objectId,
      },
    ],
    summary: volumeSummary(fields),
  };
}

/** The root entry of a volume's snapshot; unnamed, as upstream's. */
export function volumeRootEntry(directoryObjectId: string, fields: VolumeDirectoryFields): DirectoryEntry {
  return {
    type: "d",
    mode: formatMode(VOLUME_PERMISSIONS),
    mtime: formatGoTime(fields.startTimeNs),
    obj: directoryObjectId,
    summ: volumeSummary(fields),
  };
}

export interface VolumeSnapshotFields extends VolumeDirectoryFields {
  /** `complete` or the state of an unfinished backup. */
  readonly kind: "complete" | "checkpoint";
  readonly directoryObjectId: string;
  readonly endTimeNs: bigint;
  /** Real size of the volume. */
  readonly volumeSizeBytes: number;
  /** Empty when the storage has none: then nothing can continue from this snapshot. */
  readonly changeId: string;
  /** Empty when the storage has none. */
  readonly volumeId: string;
  readonly asyncOperationId?: string;
  readonly description?: string;
}

/** The manifest of a volume's snapshot. The caller gives the path that belongs to its kind. */
export function volumeSnapshot(fields: VolumeSnapshotFields): SnapshotManifest {
  assert(
    fields.objectSizeBytes === paddedSizeBytes(fields.volumeSizeBytes),
    `an object of ${fields.objectSizeBytes} bytes for a volume of ${fields.volumeSizeBytes}`,
  );
  const isCheckpoint = fields.kind === "checkpoint";
  return {
    source: volumeSource(fields.path),
    description: fields.description ?? DEFAULT_DESCRIPTION,
    startTime: formatGoTime(fields.startTimeNs),
    endTime: formatGoTime(fields.endTimeNs),
    stats: { ...EMPTY_STATS, totalSize: fields.objectSizeBytes, fileCount: 1, nonCachedFiles: 1, dirCount: 1 },
    ...(isCheckpoint && { incomplete: INCOMPLETE_CHECKPOINT }),
    rootEntry: volumeRootEntry(fields.directoryObjectId, fields),
    tags: {
      [TAG_SOURCE_SIZE]: String(fields.volumeSizeBytes),
      [TAG_REQUESTER]: REQUESTER,
      ...(!isCheckpoint && {
        [TAG_UPLOADER]: UPLOADER,
        [TAG_CHANGE_ID]: fields.changeId,
        [TAG_VOLUME_ID]: fields.volumeId,
      }),
      ...(fields.asyncOperationId && { [TAG_ASYNC_OPERATION_ID]: fields.asyncOperationId }),
    },
    pins: [PIN],
  };
}

/** Real size of the volume in a snapshot; undefined if the tag is absent or no number: then the object tells. */
export function sourceSizeBytes(manifest: SnapshotManifest): number | undefined {
  const text = tag(manifest, TAG_SOURCE_SIZE);
  const size = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  return Number.isSafeInteger(size) ? size : undefined;
}

/** The volume in a snapshot's directory, or why there is none. */
export function volumeFileEntry(
  directory: Directory,
): { readonly entry: DirectoryEntry } | { readonly entry?: undefined; readonly reason: string } {
  const [entry, ...others] = directory.entries;
  if (entry === undefined || others.length > 0) {
    return { reason: `its directory has ${directory.entries.length} entries instead of one` };
  }
  return entry.type === "f" ? { entry } : { reason: "its one entry is not a file" };
}

/** Whether a block mover wrote this snapshot: ours, or Velero's own. */
export function isVolumeSnapshot(manifest: SnapshotManifest): boolean {
  return tag(manifest, TAG_REQUESTER) === REQUESTER && tag(manifest, TAG_UPLOADER) === UPLOADER;
}

/** What the next increment needs of this one; undefined where change id or volume id is missing or empty. */
export function changeTrackingOf(
  manifest: SnapshotManifest,
): { readonly changeId: string; readonly volumeId: string } | undefined {
  const changeId = tag(manifest, TAG_CHANGE_ID);
  const volumeId = tag(manifest, TAG_VOLUME_ID);
  return changeId === "" || volumeId === "" ? undefined : { changeId, volumeId };
}

function tag(manifest: SnapshotManifest, name: string): string {
  return Object.hasOwn(manifest.tags, name) ? (manifest.tags[name] ?? "") : "";
}

function volumeSummary({ objectSizeBytes, startTimeNs }: VolumeDirectoryFields) {
  const maxTime = formatGoTime(startTimeNs);
  return { size: objectSizeBytes, files: 1, symlinks: 0, dirs: 1, maxTime, numFailed: 0 };
}
