/**
 * The unified repository on Kopia's format: opens, reads, writes and commits (kopia-format.md; layout of volumes in
 * velero-block-layout.md).
 *
 * Real Kopia and Velero read what this writes, and the reverse; all may use one repository at the same time, with
 * Kopia's maintenance running. A snapshot is committed only after every content that it refers to has been seen to
 * be live in an index read just before (§10.4 #5).
 */
import { type KeyedHash } from "../../../../native/index.js";
import { assert } from "../../../common/assert.js";
import { BlockmoverError, isBlockmoverError, messageOf } from "../../../common/errors.js";
import { CHUNK_SIZE_BYTES } from "../../../common/chunk.js";
import type {
  BackupRepository,
  NewObjectOptions,
  NewSnapshot,
  ObjectWriter,
  RepositoryStats,
  SnapshotSource,
  VolumeSnapshot,
} from "../repository.js";
import type { BlobStorage } from "../storage/blob-storage.js";
import { contentIdOf, parseContentId, type ContentId } from "./content-id.js";
import { ContentReader, isMissing } from "./content-reader.js";
import { ContentWriter } from "./content-writer.js";
import { decodeDirectory, encodeDirectory } from "./directory.js";
import { newContentCipher } from "./encryption.js";
import {
  BLOBCFG_BLOB_ID,
  decodeBlobConfiguration,
  decodeFormatBlob,
  FORMAT_BLOB_ID,
  type FormatKeys,
  type RepositoryFormat,
} from "./format-blob.js";
import { newNanosecondClock, parseGoTime, type NanosecondClock } from "./go-time.js";
import { newContentHash } from "./hashing.js";
import { IndexStore } from "./index-store.js";
import { encodeManifestContent, newManifestId, newTombstone, type ManifestItem } from "./manifest.js";
import { ManifestStore } from "./manifest-store.js";
import { parseObjectId } from "./object-id.js";
import { KopiaObjectReader } from "./object-reader.js";
import { KopiaObjectWriter } from "./object-writer.js";
import { deriveContentKey } from "./keys.js";
import {
  decodeSnapshotManifest,
  encodeSnapshotManifest,
  INCOMPLETE_CHECKPOINT,
  snapshotLabels,
  SNAPSHOT_TYPE,
  type SnapshotManifest,
} from "./snapshot-manifest.js";
import {
  changeTrackingOf,
  checkpointSourcePath,
  DEFAULT_HOST,
  DEFAULT_USER,
  isVolumeSnapshot,
  paddedSizeBytes,
  sourceSizeBytes,
  volumeDirectory,
  volumeFileEntry,
  volumeSnapshot,
} from "./velero-block-layout.js";

/** Directories and manifests: what Kopia uses for them. */
const METADATA_COMPRESSION = "zstd-fastest";

/** Lengths of all-zero entries that are recognised; more distinct ones than this no splitter makes. */
const MAX_ZERO_LENGTHS = 8;
const MAX_ZERO_LENGTH_BYTES = 16 * 1024 * 1024;

/** A checkpoint is replaced every 45 minutes; one that is this old belongs to a backup that died. */
const STALE_CHECKPOINT_MS = 6 * 60 * 60 * 1000;

const MANIFEST_ID = /^[0-9a-f]{32}$/;
const MANIFEST_ID_PREFIX = /^[0-9a-f]{6,31}$/;

export interface OpenOptions {
  readonly storage: BlobStorage;
  readonly password: string;
  /** Shown in session markers: who is writing. */
  readonly identity?: { readonly userName: string; readonly host: string };
  readonly nowMs?: () => number;
  /** Told of what is odd but no error, such as a manifest of somebody else that cannot be read. */
  readonly onWarning?: (message: string) => void;
  readonly signal?: AbortSignal;
}

/**
 * Opens a repository in Kopia's format.
 *
 * @throws BlockmoverError NOT_FOUND when there is none, UNAUTHENTICATED for a wrong password, UNIMPLEMENTED naming an
 * algorithm or feature that this build lacks, FAILED_PRECONDITION while it is locked for an upgrade
 */
export async function openKopiaRepository(options: OpenOptions): Promise<KopiaRepository> {
  const { storage, password, signal } = options;
  const formatBytes = await readFormatBlob(storage, signal);
  const { format, formatKey } = await decodeFormatBlob(formatBytes, password);
  await checkBlobConfiguration(storage, { formatKey, uniqueId: format.uniqueId }, signal);
  for (const { feature, message } of format.requiredFeatures.filter(({ warn }) => warn)) {
    options.onWarning?.(`the repository asks for feature ${feature}: ${message}`);
  }
  const repository = new KopiaRepository(options, format, formatBytes);
  await repository.refresh(signal);
  return repository;
}

export class KopiaRepository implements BackupRepository {
  readonly description: string;
  readonly format: RepositoryFormat;
  readonly #options: OpenOptions;
  readonly #formatBytes: Uint8Array;
  readonly #hash: KeyedHash;
  readonly #index: IndexStore;
  readonly #reader: ContentReader;
  readonly #writer: ContentWriter;
  readonly #manifests: ManifestStore;
  readonly #clockNs: NanosecondClock;
  readonly #nowMs: () => number;
  readonly #zeroIds = new Map<number, ContentId>();
  #zeroChunk: Promise<ContentId> | undefined;
  #checkpoint: ManifestItem | undefined;
  /** The index generation that every liveness decision since has been made on. */
  #trustedGeneration = 0;

  /** Use `openKopiaRepository`. */
  constructor(options: OpenOptions, format: RepositoryFormat, formatBytes: Uint8Array) {
    const { storage } = options;
    this.#options = options;
    this.#formatBytes = formatBytes;
    this.description = storage.description;
    this.format = format;
    this.#nowMs = options.nowMs ?? Date.now;
    this.#clockNs = newNanosecondClock({ wallMs: this.#nowMs, monotonicNs: () => process.hrtime.bigint() });
    const hash = newContentHash(format.hash, format.secret);
    const cipher = newContentCipher(format.encryption, format.masterKey);
    this.#hash = hash;
    const index = new IndexStore({
      storage,
      hash,
      cipher,
      epochRefreshFrequencyMs: format.epochParameters.epochRefreshFrequencyMs,
      nowMs: this.#nowMs,
    });
    this.#index = index;
    this.#reader = new ContentReader({ storage, hash, cipher, index });
    this.#writer = new ContentWriter({
      storage,
      format,
      hash,
      cipher,
      index,
      identity: options.identity ?? { userName: DEFAULT_USER, host: DEFAULT_HOST },
      nowMs: this.#nowMs,
      beforeReload: (signal) => this.#checkFormat(signal),
    });
    this.#manifests = new ManifestStore({ contents: this.#reader, index });
  }

  get stats(): RepositoryStats {
    return { uploadedBytes: this.#writer.stats.uploadedBytes };
  }

  /** Contents that the index names, all index blobs together. */
  get contentCount(): number {
    return this.#index.contentCount;
  }

  /** Reads the repository's present state: what others have written since. */
  async refresh(signal?: AbortSignal): Promise<void> {
    await this.#index.load(signal);
    this.#trustedGeneration = this.#index.foreignGeneration;
  }

  async volumeObjectId(snapshot: VolumeSnapshot, signal?: AbortSignal): Promise<string> {
    const { rootObjectId } = snapshot;
    // Kopia too knows a directory by its prefix. The root of a snapshot of one file is the file, of whatever size.
    const found = parseObjectId(rootObjectId).contentId.startsWith("k")
      ? volumeFileEntry(decodeDirectory(await this.readMetadata(rootObjectId, signal), rootObjectId))
      : { reason: "its root is not a directory" };
    if (found.entry === undefined) {
      throw new BlockmoverError("FAILED_PRECONDITION", `snapshot ${snapshot.id} is not of a volume: ${found.reason}`, {
        hint: "It may be a snapshot of files: restore it with kopia.",
      });
    }
    return found.entry.obj;
  }

  openObject(objectId: string): Promise<KopiaObjectReader> {
    return Promise.resolve(this.#openObject(objectId));
  }

  newObjectWriter(options: NewObjectOptions): ObjectWriter {
    const { parentObjectId } = options;
    return new KopiaObjectWriter({
      ...options,
      contents: this.#writer,
      parent: parentObjectId === undefined ? undefined : this.#openObject(parentObjectId),
      zeroChunkId: () => this.#writtenZeroChunk(),
    });
  }

  async inspectParent(
    objectId: string,
    onLost: (offsetBytes: number, lengthBytes: number) => void,
    signal?: AbortSignal,
  ): Promise<string | undefined> {
    if (!objectId.startsWith("I")) {
      return "its object has no table of entries";
    }
    let known: string | undefined;
    let isLive = false;
    for await (const batch of this.#openObject(objectId).entries(signal)) {
      for (const { offsetBytes, lengthBytes, contentId } of batch) {
        if (lengthBytes !== CHUNK_SIZE_BYTES || offsetBytes % CHUNK_SIZE_BYTES !== 0) {
          return `an entry of ${lengthBytes} bytes lies at ${offsetBytes}: it is not in aligned chunks of 1 MiB`;
        }
        if (contentId !== known) {
          known = contentId;
          isLive = this.#index.isLive(parseContentId(contentId));
        }
        if (!isLive) {
          onLost(offsetBytes, lengthBytes);
        }
      }
    }
    return undefined;
  }

  async saveSnapshot(snapshot: NewSnapshot, signal?: AbortSignal): Promise<string> {
    const manifest = await this.#manifestOf(snapshot, "complete", signal);
    await this.#ensureReferencesLive(manifest, snapshot.objectId, signal);
    const items = [this.#newItem(manifest)];
    if (this.#checkpoint) {
      items.push(newTombstone(this.#checkpoint, this.#clockNs()));
    }
    items.push(...(await this.#staleCheckpoints(snapshot.source.path, signal)));
    await this.#writeManifests(items, signal);
    this.#checkpoint = undefined;
    return (items[0] as ManifestItem).id;
  }

  async saveCheckpoint(snapshot: NewSnapshot, signal?: AbortSignal): Promise<void> {
    const item = this.#newItem(await this.#manifestOf(snapshot, "checkpoint", signal));
    const previous = this.#checkpoint;
    await this.#writeManifests(previous ? [item, newTombstone(previous, this.#clockNs())] : [item], signal);
    this.#checkpoint = item;
  }

  async discardCheckpoint(signal?: AbortSignal): Promise<void> {
    if (this.#checkpoint) {
      await this.#writeManifests([newTombstone(this.#checkpoint, this.#clockNs())], signal);
      this.#checkpoint = undefined;
    }
  }

  async getSnapshot(id: string, signal?: AbortSignal): Promise<VolumeSnapshot> {
    return toVolumeSnapshot(await this.#snapshotItem(id, signal));
  }

  async listSnapshots(source: Partial<SnapshotSource> = {}, signal?: AbortSignal): Promise<readonly VolumeSnapshot[]> {
    const labels: Record<string, string> = { type: SNAPSHOT_TYPE };
    if (source.host !== undefined) labels["hostname"] = source.host;
    if (source.userName !== undefined) labels["username"] = source.userName;
    if (source.path !== undefined) labels["path"] = source.path;
    const snapshots: VolumeSnapshot[] = [];
    for (const item of await this.#manifests.find(labels, signal)) {
      try {
        const snapshot = toVolumeSnapshot(item);
        if (snapshot.incomplete !== INCOMPLETE_CHECKPOINT) {
          snapshots.push(snapshot);
        }
      } catch (error) {
        this.#options.onWarning?.(`snapshot ${item.id} is left out: ${messageOf(error)}`);
      }
    }
    return snapshots.sort((a, b) => compareBigint(parseGoTime(a.startTime), parseGoTime(b.startTime)));
  }

  async deleteSnapshot(id: string, signal?: AbortSignal): Promise<void> {
    const item = await this.#snapshotItem(id, signal);
    await this.#writeManifests([newTombstone(item, this.#clockNs())], signal);
  }

  async writeMetadata(bytes: Uint8Array, signal?: AbortSignal): Promise<string> {
    const { ids } = await this.#writer.writeContents("k", [bytes], METADATA_COMPRESSION, signal);
    return ids[0] as ContentId;
  }

  async readMetadata(objectId: string, signal?: AbortSignal): Promise<Uint8Array> {
    const parts: Buffer[] = [];
    const object = this.#openObject(objectId);
    for await (const batch of object.entries(signal)) {
      for (const entry of batch) {
        const target = Buffer.allocUnsafe(entry.lengthBytes);
        await object.read([{ entry, target }], signal);
        parts.push(target);
      }
    }
    return Buffer.concat(parts);
  }

  flush(signal?: AbortSignal): Promise<void> {
    return this.#writer.flush(signal);
  }

  /** Puts a manifest that is not a snapshot, such as the maintenance owner, and makes it durable. */
  async putManifest(
    labels: Readonly<Record<string, string>>,
    data: ManifestItem["data"],
    signal?: AbortSignal,
  ): Promise<void> {
    await this.#writeManifests(
      [{ id: newManifestId(), labels, modifiedNs: this.#clockNs(), deleted: false, data }],
      signal,
    );
  }

  /** The live manifests with these labels, as Kopia keeps them: policies, maintenance owner, snapshots. */
  findManifests(labels: Readonly<Record<string, string>>, signal?: AbortSignal): Promise<ManifestItem[]> {
    return this.#manifests.find(labels, signal);
  }

  async close(): Promise<void> {
    await this.#writer.abandon();
    await this.#options.storage.close();
  }

  #openObject(objectId: string): KopiaObjectReader {
    return new KopiaObjectReader({
      objectId,
      contents: this.#reader,
      isZero: (contentId, lengthBytes) => this.#zeroIdOf(lengthBytes) === contentId,
    });
  }

  /** The id of that many zeros; undefined for lengths that are not worth it. */
  #zeroIdOf(lengthBytes: number): ContentId | undefined {
    const known = this.#zeroIds.get(lengthBytes);
    if (known !== undefined || this.#zeroIds.size >= MAX_ZERO_LENGTHS || lengthBytes > MAX_ZERO_LENGTH_BYTES) {
      return known;
    }
    const id = contentIdOf("", this.#hash.digest(Buffer.alloc(lengthBytes)));
    this.#zeroIds.set(lengthBytes, id);
    return id;
  }

  /** Makes sure, once, that the chunk of zeros is in the repository. */
  #writtenZeroChunk(): Promise<ContentId> {
    this.#zeroChunk ??= this.#writer
      .writeContents("", [Buffer.alloc(CHUNK_SIZE_BYTES)], "none")
      .then(({ ids }) => ids[0] as ContentId);
    return this.#zeroChunk;
  }

  async #manifestOf(
    snapshot: NewSnapshot,
    kind: "complete" | "checkpoint",
    signal: AbortSignal | undefined,
  ): Promise<SnapshotManifest> {
    const { source, objectId, startTimeNs } = snapshot;
    const objectSizeBytes = paddedSizeBytes(snapshot.volumeSizeBytes);
    const directory = { path: source.path, objectId, objectSizeBytes, startTimeNs };
    const directoryObjectId = await this.writeMetadata(encodeDirectory(volumeDirectory(directory)), signal);
    const manifest = volumeSnapshot({
      ...directory,
      path: kind === "complete" ? source.path : checkpointSourcePath(source.path),
      kind,
      directoryObjectId,
      endTimeNs: this.#clockNs(),
      volumeSizeBytes: snapshot.volumeSizeBytes,
      changeId: snapshot.changeTracking?.changeId ?? "",
      volumeId: snapshot.changeTracking?.volumeId ?? "",
      asyncOperationId: snapshot.operationId,
      description: snapshot.description,
    });
    return { ...manifest, source: { ...manifest.source, userName: source.userName, host: source.host } };
  }

  #newItem(manifest: SnapshotManifest): ManifestItem {
    return {
      id: newManifestId(),
      labels: snapshotLabels(manifest),
      modifiedNs: this.#clockNs(),
      deleted: false,
      data: encodeSnapshotManifest(manifest),
    };
  }

  async #writeManifests(items: readonly ManifestItem[], signal: AbortSignal | undefined): Promise<void> {
    await this.#writer.writeContents("m", [encodeManifestContent(items)], METADATA_COMPRESSION, signal);
    await this.#writer.flush(signal);
  }

  /**
   * Reads the index anew and, if anybody else has changed it since our decisions were made, looks at every content
   * that the snapshot refers to: one that is marked deleted is written again from its readable copy; one that is
   * gone fails the backup.
   */
  async #ensureReferencesLive(
    manifest: SnapshotManifest,
    objectId: string,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    await this.#index.load(signal);
    if (this.#index.foreignGeneration === this.#trustedGeneration) {
      return;
    }
    // Contents that are pending are not in the index yet; with them there, one look-up tells.
    await this.#writer.flush(signal);
    const directoryId = parseContentId(manifest.rootEntry?.obj ?? "");
    let previous: ContentId | undefined;
    let repaired = 0;
    try {
      for await (const id of this.#referencesOf(objectId, directoryId, signal)) {
        if (id !== previous && !this.#index.isLive(id)) {
          await this.#repair(id, signal);
          repaired++;
        }
        previous = id;
      }
    } catch (error) {
      // The table itself may be gone as well as what it names.
      throw isMissing(error) ? removedByMaintenance(error) : error;
    }
    if (repaired > 0) {
      this.#options.onWarning?.(`${repaired} contents that maintenance had marked as deleted were written again`);
      await this.#writer.flush(signal);
    }
    this.#trustedGeneration = this.#index.foreignGeneration;
  }

  async *#referencesOf(
    objectId: string,
    directoryId: ContentId,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<ContentId> {
    const object = this.#openObject(objectId);
    yield directoryId;
    yield* object.tableContents(signal);
    for await (const batch of object.entries(signal)) {
      for (const { contentId } of batch) {
        yield parseContentId(contentId);
      }
    }
  }

  async #repair(id: ContentId, signal: AbortSignal | undefined): Promise<void> {
    await this.#writer.rewriteDeleted(id, await this.#reader.read(id, signal), "none", signal);
  }

  /** Tombstones for checkpoints of this volume that a dead backup left behind. */
  async #staleCheckpoints(path: string, signal: AbortSignal | undefined): Promise<ManifestItem[]> {
    const nowNs = this.#clockNs();
    const items = await this.#manifests.find({ type: SNAPSHOT_TYPE, path: checkpointSourcePath(path) }, signal);
    return items
      .filter((item) => item.id !== this.#checkpoint?.id)
      .filter((item) => nowNs - item.modifiedNs > BigInt(STALE_CHECKPOINT_MS) * 1_000_000n)
      .map((item) => newTombstone(item, nowNs));
  }

  async #snapshotItem(id: string, signal: AbortSignal | undefined): Promise<ManifestItem> {
    const notFound = (why: string): BlockmoverError =>
      new BlockmoverError("NOT_FOUND", `snapshot ${id} in ${this.description}: ${why}`, {
        hint: "See `blockmover snapshot list` for the ids.",
      });
    if (MANIFEST_ID.test(id)) {
      const item = await this.#manifests.get(id, signal);
      if (item?.labels["type"] === SNAPSHOT_TYPE) {
        return item;
      }
      throw notFound("there is none of this id");
    }
    if (!MANIFEST_ID_PREFIX.test(id)) {
      throw notFound("an id is 32 hexadecimal digits, or at least the first 6 of them");
    }
    const items = await this.#manifests.find({ type: SNAPSHOT_TYPE }, signal);
    const [match, ...others] = items.filter((item) => item.id.startsWith(id));
    if (match === undefined) {
      throw notFound("no id begins like this");
    }
    if (others.length > 0) {
      throw notFound("several ids begin like this");
    }
    return match;
  }

  /** Kopia's rule for long runs: look now and then whether the format has changed under us (§2.4). */
  async #checkFormat(signal: AbortSignal | undefined): Promise<void> {
    const bytes = await readFormatBlob(this.#options.storage, signal);
    if (Buffer.compare(bytes, this.#formatBytes) === 0) {
      return;
    }
    // Throws when it is locked for an upgrade, or asks for what we do not know.
    const { format } = await decodeFormatBlob(bytes, this.#options.password);
    if (Buffer.compare(deriveContentKey(format.masterKey), deriveContentKey(this.format.masterKey)) !== 0) {
      throw new BlockmoverError("FAILED_PRECONDITION", `${this.description} was replaced by another repository`);
    }
  }
}

async function readFormatBlob(storage: BlobStorage, signal: AbortSignal | undefined): Promise<Uint8Array> {
  try {
    return await storage.get(FORMAT_BLOB_ID, { signal });
  } catch (error) {
    if (!isBlockmoverError(error, "NOT_FOUND")) {
      throw error;
    }
    throw new BlockmoverError("NOT_FOUND", `there is no repository in ${storage.description}`, {
      cause: error,
      hint: "Check the URL, or make one with `blockmover repository create`.",
    });
  }
}

/**
 * Refuses a repository whose `kopia.blobcfg` is damaged, as Kopia does; one without it has no retention (§2.6). What
 * it says concerns object stores alone.
 */
async function checkBlobConfiguration(
  storage: BlobStorage,
  keys: FormatKeys,
  signal: AbortSignal | undefined,
): Promise<void> {
  try {
    decodeBlobConfiguration(await storage.get(BLOBCFG_BLOB_ID, { signal }), keys);
  } catch (error) {
    if (!isBlockmoverError(error, "NOT_FOUND")) {
      throw error;
    }
  }
}

function removedByMaintenance(cause: BlockmoverError): BlockmoverError {
  return new BlockmoverError("UNAVAILABLE", `${cause.message}: maintenance removed it while the backup ran`, {
    cause,
    hint: "No snapshot was made. Run the backup again; it will write the missing data.",
  });
}

function toVolumeSnapshot(item: ManifestItem): VolumeSnapshot {
  const manifest = decodeSnapshotManifest(item.labels, item.data);
  const rootObjectId = manifest.rootEntry?.obj;
  if (rootObjectId === undefined || rootObjectId === "") {
    throw new BlockmoverError("DATA_LOSS", `snapshot ${item.id} has no root`);
  }
  const objectSizeBytes = manifest.stats.totalSize;
  return {
    id: item.id,
    source: manifest.source,
    description: manifest.description,
    startTime: manifest.startTime,
    endTime: manifest.endTime,
    volumeSizeBytes: sourceSizeBytes(manifest) ?? objectSizeBytes,
    objectSizeBytes,
    changeTracking: changeTrackingOf(manifest),
    isVolume: isVolumeSnapshot(manifest),
    tags: manifest.tags,
    pins: manifest.pins,
    incomplete: manifest.incomplete,
    rootObjectId,
  };
}

function compareBigint(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

assert(MAX_ZERO_LENGTH_BYTES >= CHUNK_SIZE_BYTES, "the chunk of zeros is recognised");
