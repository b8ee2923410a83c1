/**
 * A blob store in a directory, laid out as Kopia's file system provider does it (`filesystem-layout.ts`), so that
 * both can use the same repository at the same time.
 *
 * Guarantees: a put is atomic and, once resolved, survives a crash (file, directory and new parents are synced; where
 * a file system cannot sync directories, as some network ones, the rename is as durable as the server makes it).
 * Nothing is copied on the way in or out. Memory is bounded: `list` holds one open directory a level, 32 entries,
 * and what readdir buffers.
 *
 * An abort is noticed between system calls, never during one: the kernel may still be using the caller's memory. On a
 * network mount that hangs, an abort hangs with it.
 *
 * `list` never misses a blob that is there from its beginning to its end and is not replaced meanwhile; POSIX leaves
 * open what readdir shows of a name that is renamed over.
 */

import { randomBytes } from "node:crypto";
import { constants, type Dirent, type Stats } from "node:fs";
import { access, link, mkdir, open, opendir, readFile, rename, stat, unlink, type FileHandle } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { throwIfAborted } from "../../../common/cancellation.js";
import { BlockmoverError, isBlockmoverError } from "../../../common/errors.js";
import { blobExists, blobNotFound, blobTooShort, checkBlobId, checkRange, readTarget } from "./blob-arguments.js";
import type { BlobMetadata, BlobStorage, GetOptions, PutOptions } from "./blob-storage.js";
import { errnoOf, filesystemError } from "./filesystem-errors.js";
import {
  blobIdAt,
  blobPath,
  canHoldBlobs,
  decodeShardParameters,
  encodeShardParameters,
  newRepositoryShards,
  oldRepositoryShards,
  shardParametersFileName,
  type ShardParameters,
} from "./filesystem-layout.js";
import { maxBytesPerCall, writeParts } from "./write-parts.js";

const fileMode = 0o600;
const directoryMode = 0o700;

/** Entries whose metadata are read at the same time; libuv runs four of them at once by default. */
const statBatchSize = 32;

/** Shard directories remembered as durable; [1,3] has about 4100 for packs. Forgetting one costs one fsync. */
const maxDurableDirectories = 65_536;

const temporaryFilePattern = /\.tmp\.[0-9a-f]{16}$/;
const dayMs = 24 * 60 * 60 * 1000;

export interface OpenFilesystemOptions {
  /** Make the directory where it is missing, for a new repository. An existing one, and its layout, are kept. */
  readonly create?: boolean;
}

/**
 * Opens the directory `path` as a blob store. Without `create` nothing is written, so a read-only mount will do.
 *
 * @throws BlockmoverError NOT_FOUND (no such directory), FAILED_PRECONDITION (no directory, or read-only with
 *   `create`), PERMISSION_DENIED, DATA_LOSS (`.shards` is damaged)
 * @example const storage = await openFilesystemStorage("/srv/backup", { create: true });
 */
export async function openFilesystemStorage(
  path: string,
  options: OpenFilesystemOptions = {},
): Promise<FilesystemStorage> {
  const root = resolve(path);
  const create = options.create === true;
  if (create) {
    await makeRoot(root);
  }
  const found = await statIfPresent(root, `cannot open the repository directory ${root}`);
  if (found === undefined) {
    throw new BlockmoverError("NOT_FOUND", `the repository directory ${root} does not exist`, {
      hint: "Check the path, and whether its file system is mounted.",
    });
  }
  if (!found.isDirectory()) {
    throw new BlockmoverError("FAILED_PRECONDITION", `${root} is not a directory`, {
      hint: "A repository needs a directory.",
    });
  }
  try {
    await access(root, constants.R_OK | constants.X_OK | (create ? constants.W_OK : 0));
  } catch (error) {
    const message = `the repository directory ${root} is not ${create ? "writable" : "readable"}`;
    throw filesystemError(error, { kind: "read", message });
  }

  const onDisk = await readShardParameters(root);
  if (onDisk !== undefined) {
    return new FilesystemStorage(root, onDisk, true);
  }
  // A repository without .shards is older than that file, also when somebody tries to create a new one in it.
  const isOld =
    !create || (await statIfPresent(join(root, "kopia.repository.f"), `cannot look into ${root}`)) !== undefined;
  const storage = new FilesystemStorage(root, isOld ? oldRepositoryShards : newRepositoryShards, false);
  if (!isOld) {
    await storage.persistShardParameters();
  }
  return storage;
}

/** See `openFilesystemStorage`. */
export class FilesystemStorage implements BlobStorage {
  readonly description: string;
  readonly #shards: ShardParameters;
  /** Whether `.shards` is there: then its absence later means that the whole repository is (an unmounted disk). */
  #shardsOnDisk: boolean;
  /** Directories below the root whose entries in their parents are known to be on disk. */
  readonly #durableDirectories = new Set<string>();

  /** @internal `openFilesystemStorage` makes these */
  constructor(root: string, shards: ShardParameters, shardsOnDisk: boolean) {
    this.description = root;
    this.#shards = shards;
    this.#shardsOnDisk = shardsOnDisk;
  }

  async get(id: string, options: GetOptions = {}): Promise<Uint8Array> {
    const { range, target, signal } = options;
    throwIfAborted(signal);
    const path = this.#pathOf(id);
    if (range !== undefined) {
      checkRange(id, range);
    }
    try {
      return await withFile(path, async (handle) => {
        throwIfAborted(signal);
        if (range !== undefined && target !== undefined && range.lengthBytes > 0) {
          // The hot path of a restore: a short read tells as much as the length would, for one call less.
          const result = readTarget(id, range.lengthBytes, target);
          const bytesRead = await readFully(handle, result, range.offsetBytes, signal);
          if (bytesRead < result.length) {
            throw blobTooShort(id, this.description, range, (await handle.stat()).size);
          }
          return result;
        }
        // The length first, so that a damaged index cannot make us allocate gigabytes for a small blob.
        const { size } = await handle.stat();
        const wanted = range ?? { offsetBytes: 0, lengthBytes: size };
        if (wanted.offsetBytes + wanted.lengthBytes > size) {
          throw blobTooShort(id, this.description, wanted, size);
        }
        const result = readTarget(id, wanted.lengthBytes, target);
        const bytesRead = await readFully(handle, result, wanted.offsetBytes, signal);
        if (bytesRead < result.length) {
          throw blobTooShort(id, this.description, wanted, wanted.offsetBytes + bytesRead);
        }
        return result;
      });
    } catch (error) {
      throw await this.#readError(error, id);
    }
  }

  async put(id: string, parts: readonly Uint8Array[], options: PutOptions = {}): Promise<void> {
    throwIfAborted(options.signal);
    const path = this.#pathOf(id);
    try {
      if (!this.#shardsOnDisk) {
        await this.persistShardParameters();
      }
      await this.#writeFile(path, parts, options);
    } catch (error) {
      if (errnoOf(error) === "EEXIST") {
        throw blobExists(id, this.description, error);
      }
      throw filesystemError(error, { kind: "write", message: `cannot write blob ${id} in ${this.description}` });
    }
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<BlobMetadata> {
    throwIfAborted(signal);
    await this.#checkStillThere();
    let batch: FoundFile[] = [];
    for await (const file of this.#walk([], prefix, signal)) {
      const id = blobIdAt(this.#shards, file);
      if (id?.startsWith(prefix) !== true) {
        continue;
      }
      batch.push(file);
      if (batch.length === statBatchSize) {
        yield* await this.#metadataOf(batch);
        batch = [];
        throwIfAborted(signal);
      }
    }
    yield* await this.#metadataOf(batch);
    throwIfAborted(signal);
  }

  async delete(id: string, signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    const path = this.#pathOf(id);
    try {
      await unlink(path);
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") {
        throw filesystemError(error, { kind: "write", message: `cannot delete blob ${id} in ${this.description}` });
      }
    }
  }

  async stat(id: string, signal?: AbortSignal): Promise<BlobMetadata> {
    throwIfAborted(signal);
    const path = this.#pathOf(id);
    try {
      const { size, mtimeMs } = await stat(path);
      return { id, lengthBytes: size, modifiedMs: mtimeMs };
    } catch (error) {
      throw await this.#readError(error, id);
    }
  }

  async close(): Promise<void> {}

  /**
   * Deletes temporary files that writers (ours or Kopia's: their names are alike) left behind when they died.
   * Nobody calls this unasked: a younger one may belong to a put that is under way, on this machine or another.
   *
   * @returns how many were deleted, and their size
   */
  async removeStaleTemporaryFiles(
    options: { readonly olderThanMs?: number; readonly nowMs?: number; readonly signal?: AbortSignal } = {},
  ): Promise<{ readonly files: number; readonly bytes: number }> {
    const { olderThanMs = dayMs, nowMs = Date.now(), signal } = options;
    await this.#checkStillThere();
    let files = 0;
    let bytes = 0;
    for await (const file of this.#walk([], "", signal)) {
      if (!temporaryFilePattern.test(file.fileName)) {
        continue;
      }
      const path = this.#join(file.directories, file.fileName);
      const message = `cannot remove the stale temporary file ${path}`;
      const found = await statIfPresent(path, message);
      if (found === undefined || !found.isFile() || nowMs - found.mtimeMs <= olderThanMs) {
        continue;
      }
      try {
        await unlink(path);
      } catch (error) {
        if (errnoOf(error) === "ENOENT") {
          continue; // another cleaner was faster
        }
        throw filesystemError(error, { kind: "write", message });
      }
      files++;
      bytes += found.size;
    }
    return { files, bytes };
  }

  /**
   * Writes `.shards` with the layout in use, unless somebody else has written the same meanwhile.
   *
   * @internal called when a repository is created, and before the first put into one that has no `.shards`: not at
   *   opening, so that reading from a mistyped path leaves nothing there
   */
  async persistShardParameters(): Promise<void> {
    const path = join(this.description, shardParametersFileName);
    const text = encodeShardParameters(this.#shards);
    try {
      await this.#writeFile(path, [Buffer.from(text)], { onlyIfAbsent: true });
    } catch (error) {
      if (isBlockmoverError(error, "UNIMPLEMENTED")) {
        await this.#writeFile(path, [Buffer.from(text)], {}); // the same bytes, whoever comes last
      } else if (errnoOf(error) !== "EEXIST") {
        throw filesystemError(error, { kind: "write", message: `cannot write ${path}` });
      } else {
        const other = await readShardParameters(this.description);
        if (other === undefined || encodeShardParameters(other) !== text) {
          throw new BlockmoverError(
            "FAILED_PRECONDITION",
            `${path} was written by another program with another layout`,
            {
              hint: "Start again to use that layout.",
            },
          );
        }
      }
    }
    this.#shardsOnDisk = true;
  }

  #pathOf(id: string): string {
    checkBlobId(id);
    const { directories, fileName } = blobPath(this.#shards, id);
    return this.#join(directories, fileName);
  }

  #join(directories: readonly string[], fileName: string): string {
    return join(this.description, ...directories, fileName);
  }

  /** Writes a file under a temporary name, syncs it, gives it its name, and syncs that. Throws raw errnos. */
  async #writeFile(path: string, parts: readonly Uint8Array[], options: PutOptions): Promise<void> {
    const { onlyIfAbsent, signal } = options;
    const temporaryPath = `${path}.tmp.${randomBytes(8).toString("hex")}`;
    const handle = await this.#createFile(temporaryPath);
    try {
      try {
        await writeParts(async (batch, at) => (await handle.writev(batch, at)).bytesWritten, parts, signal);
        // Not fdatasync: a new file's length has to reach the disk anyway, and its mtime is the blob's age for
        // garbage collection.
        await handle.sync();
      } catch (error) {
        await handle.close().catch(() => undefined); // the first failure is the one to report
        throw error;
      }
      await handle.close(); // NFS reports a full disk only here
      throwIfAborted(signal);
      if (onlyIfAbsent === true) {
        await linkExclusively(temporaryPath, path);
      } else {
        await rename(temporaryPath, path);
      }
    } catch (error) {
      // The first failure is the one to report; what cannot be removed is left to removeStaleTemporaryFiles.
      await unlink(temporaryPath).catch(() => undefined);
      throw error;
    }
    // The blob is visible from here on: too late to abort.
    if (onlyIfAbsent === true) {
      await unlink(temporaryPath).catch(() => undefined); // as above: the put itself has succeeded
    }
    await this.#syncDirectoriesOf(path);
  }

  /** Creates a new file, and its shard directories where they are missing, but never the root. */
  async #createFile(path: string): Promise<FileHandle> {
    try {
      return await open(path, "wx", fileMode);
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") {
        throw error;
      }
    }
    await this.#checkStillThere();
    for (const directory of this.#ancestorsOf(path).reverse()) {
      try {
        await mkdir(directory, directoryMode);
        this.#durableDirectories.delete(directory);
      } catch (error) {
        if (errnoOf(error) !== "EEXIST") {
          throw error;
        }
      }
    }
    return open(path, "wx", fileMode);
  }

  /** The directories above `path` and below the root, deepest first. */
  #ancestorsOf(path: string): string[] {
    const ancestors: string[] = [];
    for (let directory = dirname(path); directory !== this.description; directory = dirname(directory)) {
      ancestors.push(directory);
    }
    return ancestors;
  }

  /**
   * Makes the name of `path` durable, and those of its directories. A directory that was there already may have been
   * made a moment ago by another put that has not synced it yet, so each is synced once by this store, whoever made it.
   */
  async #syncDirectoriesOf(path: string): Promise<void> {
    const unknown = this.#ancestorsOf(path).filter((directory) => !this.#durableDirectories.has(directory));
    // One after the other: the calls are few and mostly find nothing to write, and nothing goes on after a failure.
    for (const directory of [dirname(path), ...unknown.map(dirname)]) {
      await syncDirectory(directory);
    }
    if (this.#durableDirectories.size + unknown.length > maxDurableDirectories) {
      this.#durableDirectories.clear();
    }
    for (const directory of unknown) {
      this.#durableDirectories.add(directory);
    }
  }

  /** All files in the directories that can hold blobs of `prefix`, whatever they are. */
  async *#walk(
    directories: readonly string[],
    prefix: string,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<FoundFile> {
    for await (const entry of this.#entriesOf(directories)) {
      throwIfAborted(signal);
      const kind = await this.#kindOf(directories, entry);
      if (kind === "file") {
        yield { directories, fileName: entry.name };
      } else if (kind === "directory" && canHoldBlobs(this.#shards, directories, entry.name, prefix)) {
        yield* this.#walk([...directories, entry.name], prefix, signal);
      }
    }
  }

  /** The entries of one directory; none if it has vanished. */
  async *#entriesOf(directories: readonly string[]): AsyncGenerator<Dirent> {
    const path = join(this.description, ...directories);
    try {
      yield* await opendir(path, { bufferSize: 256 });
    } catch (error) {
      if (errnoOf(error) !== "ENOENT" || directories.length === 0) {
        throw filesystemError(error, { kind: "read", message: `cannot list blobs in ${path}` });
      }
    }
  }

  /** What an entry is; asks the file system where readdir does not say, and follows symbolic links. */
  async #kindOf(directories: readonly string[], entry: Dirent): Promise<"file" | "directory" | "other"> {
    let found: Dirent | Stats | undefined = entry;
    if (!entry.isFile() && !entry.isDirectory()) {
      const path = this.#join(directories, entry.name);
      found = await statIfPresent(path, `cannot list blobs in ${this.description}`);
    }
    return found?.isFile() === true ? "file" : found?.isDirectory() === true ? "directory" : "other";
  }

  /** The metadata of those blobs that have not vanished. */
  async #metadataOf(files: readonly FoundFile[]): Promise<BlobMetadata[]> {
    const found = await Promise.all(
      files.map(async (file): Promise<BlobMetadata | undefined> => {
        const path = this.#join(file.directories, file.fileName);
        const stats = await statIfPresent(path, `cannot list blobs in ${this.description}`);
        const id = blobIdAt(this.#shards, file);
        return stats === undefined || id === undefined
          ? undefined
          : { id, lengthBytes: stats.size, modifiedMs: stats.mtimeMs };
      }),
    );
    return found.filter((blob) => blob !== undefined);
  }

  async #readError(error: unknown, id: string): Promise<unknown> {
    if (errnoOf(error) !== "ENOENT") {
      return filesystemError(error, { kind: "read", message: `cannot read blob ${id} in ${this.description}` });
    }
    await this.#checkStillThere(); // "not found" makes others believe that data are lost
    return blobNotFound(id, this.description, error);
  }

  /** Tells an empty place from one that is no longer mounted, where every blob would seem to be lost. */
  async #checkStillThere(): Promise<void> {
    const mark = this.#shardsOnDisk ? join(this.description, shardParametersFileName) : this.description;
    if ((await statIfPresent(mark, `cannot look into ${this.description}`)) === undefined) {
      throw new BlockmoverError(
        "FAILED_PRECONDITION",
        `the repository in ${this.description} has gone: ${mark} does not exist`,
        {
          hint: "Check whether its file system is still mounted.",
        },
      );
    }
  }
}

interface FoundFile {
  readonly directories: readonly string[];
  readonly fileName: string;
}

async function makeRoot(root: string): Promise<void> {
  try {
    const firstMade = await mkdir(root, { recursive: true, mode: directoryMode });
    for (let directory = root; firstMade !== undefined && directory.length >= firstMade.length;) {
      directory = dirname(directory);
      await syncDirectory(directory);
    }
  } catch (error) {
    if (errnoOf(error) !== "EEXIST") {
      throw filesystemError(error, { kind: "write", message: `cannot create the repository directory ${root}` });
    }
    // Something is there that is no directory; the caller says so.
  }
}

async function readShardParameters(root: string): Promise<ShardParameters | undefined> {
  const path = join(root, shardParametersFileName);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") {
      return undefined;
    }
    throw filesystemError(error, { kind: "read", message: `cannot read ${path}` });
  }
  return decodeShardParameters(text, path);
}

async function statIfPresent(path: string, message: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") {
      return undefined;
    }
    throw filesystemError(error, { kind: "read", message });
  }
}

async function withFile<T>(path: string, use: (handle: FileHandle) => Promise<T>): Promise<T> {
  const handle = await open(path, "r");
  try {
    return await use(handle);
  } finally {
    await handle.close();
  }
}

/** Reads until `target` is full or the file ends; returns how much it read. */
async function readFully(
  handle: FileHandle,
  target: Uint8Array,
  offsetBytes: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  let done = 0;
  while (done < target.length) {
    const length = Math.min(target.length - done, maxBytesPerCall);
    const { bytesRead } = await handle.read(target, done, length, offsetBytes + done);
    throwIfAborted(signal);
    if (bytesRead === 0) {
      break;
    }
    done += bytesRead;
  }
  return done;
}

/** Gives a file a second name that nobody has yet; throws EEXIST if somebody has. */
async function linkExclusively(existingPath: string, newPath: string): Promise<void> {
  try {
    await link(existingPath, newPath);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === "EEXIST" && (await isSameFile(existingPath, newPath))) {
      return; // NFS: the answer to the first request was lost, and its repetition met our own link
    }
    if (
      errno === "EPERM" ||
      errno === "ENOTSUP" ||
      errno === "EOPNOTSUPP" ||
      errno === "ENOSYS" ||
      errno === "EMLINK"
    ) {
      // TODO: renameat2(RENAME_NOREPLACE), once the native addon offers it, works on some of these.
      throw new BlockmoverError(
        "UNIMPLEMENTED",
        `${dirname(newPath)}: this file system has no hard links, which exclusive creation needs`,
        {
          cause: error,
          hint: "Create the repository with Kopia, or on a file system with hard links.",
        },
      );
    }
    throw error;
  }
}

async function isSameFile(path: string, otherPath: string): Promise<boolean> {
  try {
    const [one, other] = await Promise.all([stat(path, { bigint: true }), stat(otherPath, { bigint: true })]);
    return one.dev === other.dev && one.ino === other.ino;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") {
      return false; // deleted meanwhile, but it was there, and was not ours
    }
    throw error;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } catch (error) {
    const errno = errnoOf(error);
    if (errno !== "EINVAL" && errno !== "ENOTSUP" && errno !== "EOPNOTSUPP" && errno !== "EBADF") {
      throw error;
    }
    // This file system cannot sync directories; see the header comment.
  } finally {
    await handle.close();
  }
}
