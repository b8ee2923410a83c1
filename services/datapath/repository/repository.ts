/**
 * The unified repository: what the uploader and the command line need of a place that keeps backups.
 *
 * A repository stores objects (the bytes of a volume, as a table of deduplicated chunks) and snapshots (small
 * manifests that name an object). An implementation guarantees the order of durability: data, then index, then
 * manifest; a snapshot that can be listed can be restored. Kopia's format (`kopia/`) is the one implementation.
 */

/** One chunk of a volume on its way into an object. */
export interface VolumeChunk {
  /** Where it lies in the volume; a multiple of CHUNK_SIZE_BYTES. */
  readonly offsetBytes: number;
  /** Its CHUNK_SIZE_BYTES bytes, or "zero" when all of them are zero. */
  readonly bytes: Uint8Array | "zero";
}

/** One entry of an object's table. */
export interface ObjectEntry {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Names the bytes; equal names are equal bytes. */
  readonly contentId: string;
  /** True when the bytes are known to be all zero, without reading them. */
  readonly isZero: boolean;
}

/** An entry, and the memory that its bytes shall be read into. */
export interface EntryRead {
  readonly entry: ObjectEntry;
  /** Exactly `entry.lengthBytes` long. */
  readonly target: Uint8Array;
}

export interface ObjectReader {
  readonly objectId: string;
  /** The table in ascending order, in batches; it tiles the object without gap or overlap (DATA_LOSS if not). */
  entries(signal?: AbortSignal): AsyncIterable<readonly ObjectEntry[]>;
  /**
   * Reads, authenticates, decompresses and re-hashes the bytes of a few entries, together.
   *
   * @throws BlockmoverError DATA_LOSS naming the content and the blob; the targets are undefined then.
   */
  read(reads: readonly EntryRead[], signal?: AbortSignal): Promise<void>;
}

export interface ObjectWriter {
  /**
   * Adds chunks in ascending order; whatever lies between is ZERO (no parent) or the parent's entry (parent given,
   * ZERO beyond its end). Calls may overlap: the order of the calls is the order of the chunks. The bytes may be
   * reused once the promise resolves. At most MAX_GROUP_CHUNKS chunks a call.
   */
  writeAt(chunks: readonly VolumeChunk[], signal?: AbortSignal): Promise<void>;
  /** Makes an object of what has been added so far, for a checkpoint snapshot; undefined while that is nothing. */
  checkpoint(signal?: AbortSignal): Promise<string | undefined>;
  /** Fills up to the object's length and writes its table. Nothing may be written afterwards. */
  result(signal?: AbortSignal): Promise<string>;
  /** Gives up: nothing of it becomes visible. */
  abort(): Promise<void>;
  readonly stats: ObjectWriterStats;
}

export interface ObjectWriterStats {
  /** Bytes of chunks that the repository did not have before. */
  readonly newContentBytes: number;
  /** Bytes of chunks given to `writeAt` that were all zero. */
  readonly zeroBytes: number;
  /** Bytes of chunks given to `writeAt` that the repository already had. */
  readonly deduplicatedBytes: number;
}

export interface NewObjectOptions {
  /** The volume's size; the object is it rounded up to whole chunks. */
  readonly volumeSizeBytes: number;
  /** Object whose entries stand for whatever is not written; `undefined`: zeros. */
  readonly parentObjectId?: string;
  /** Name of the compressor for data, as Kopia names it; "none" by default. */
  readonly compression?: string;
}

/** Who and what a chain of snapshots belongs to. */
export interface SnapshotSource {
  readonly userName: string;
  readonly host: string;
  readonly path: string;
}

/** What makes a snapshot a base for increments; always kept together with the object it describes. */
export interface ChangeTracking {
  readonly changeId: string;
  readonly volumeId: string;
}

export interface VolumeSnapshot {
  readonly id: string;
  readonly source: SnapshotSource;
  readonly description: string;
  readonly startTime: string;
  readonly endTime: string;
  /** The volume's size in bytes; the object's, where the snapshot does not record it. */
  readonly volumeSizeBytes: number;
  readonly objectSizeBytes: number;
  readonly changeTracking: ChangeTracking | undefined;
  /** Whether a block mover wrote it: ours, or Velero's own in the same layout. */
  readonly isVolume: boolean;
  readonly tags: Readonly<Record<string, string>>;
  readonly pins: readonly string[];
  /** Why the snapshot is not complete (`checkpoint`), or undefined for a complete one. */
  readonly incomplete: string | undefined;
  /** Object id of the root directory. */
  readonly rootObjectId: string;
}

export interface NewSnapshot {
  readonly source: SnapshotSource;
  readonly description: string;
  readonly startTimeNs: bigint;
  readonly objectId: string;
  readonly volumeSizeBytes: number;
  readonly changeTracking: ChangeTracking | undefined;
  /** Id of the operation that this backup belongs to: Velero's, when it asked for it. */
  readonly operationId?: string;
}

export interface RepositoryStats {
  /** Bytes put into blobs since opening: packs, indexes, markers. */
  readonly uploadedBytes: number;
}

export interface BackupRepository {
  readonly description: string;
  /** Object id of the volume inside a snapshot. */
  volumeObjectId(snapshot: VolumeSnapshot, signal?: AbortSignal): Promise<string>;
  openObject(objectId: string, signal?: AbortSignal): Promise<ObjectReader>;
  newObjectWriter(options: NewObjectOptions): ObjectWriter;
  /**
   * Whether increments may be based on this object: it lies in aligned entries of one chunk. `onLost` is called for
   * every range whose content is gone or about to be collected: the caller must write those chunks anew.
   *
   * @returns why the object cannot be a parent, or undefined when it can
   */
  inspectParent(
    objectId: string,
    onLost: (offsetBytes: number, lengthBytes: number) => void,
    signal?: AbortSignal,
  ): Promise<string | undefined>;
  /**
   * Checks that every content of the object can be had, repairs what a concurrent maintenance marked as deleted,
   * then commits the manifest. Resolves with the snapshot's id when all of it is durable.
   */
  saveSnapshot(snapshot: NewSnapshot, signal?: AbortSignal): Promise<string>;
  /**
   * Keeps what an unfinished object has so far from garbage collection. It replaces this session's previous
   * checkpoint; the next `saveSnapshot` or `discardCheckpoint` removes it. It is never listed among snapshots.
   */
  saveCheckpoint(snapshot: NewSnapshot, signal?: AbortSignal): Promise<void>;
  discardCheckpoint(signal?: AbortSignal): Promise<void>;
  getSnapshot(id: string, signal?: AbortSignal): Promise<VolumeSnapshot>;
  /** Oldest first by start time; without checkpoints. */
  listSnapshots(source?: Partial<SnapshotSource>, signal?: AbortSignal): Promise<readonly VolumeSnapshot[]>;
  deleteSnapshot(id: string, signal?: AbortSignal): Promise<void>;
  /** Small structured data kept as an object, such as a directory. */
  writeMetadata(bytes: Uint8Array, signal?: AbortSignal): Promise<string>;
  readMetadata(objectId: string, signal?: AbortSignal): Promise<Uint8Array>;
  /** Makes everything written so far durable and indexed. */
  flush(signal?: AbortSignal): Promise<void>;
  readonly stats: RepositoryStats;
  /** Releases everything, deletes this session's own markers; what was not flushed is given up. */
  close(): Promise<void>;
}
