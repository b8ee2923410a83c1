/**
 * Repositories in a directory, used as the library does it, in the test's own process: for tests that make hundreds of
 * backups or need a part of the machinery to misbehave. What the command line does is tested through `cli.ts`.
 */
import { readdir } from "node:fs/promises";
import path from "node:path";

import type { BlockDevice } from "../../services/datapath/device/block-device.js";
import { openSource } from "../../services/datapath/device/open-source.js";
import { openTarget } from "../../services/datapath/device/open-target.js";
import { createKopiaRepository } from "../../services/datapath/repository/kopia/create-repository.js";
import type { NewFormatOptions } from "../../services/datapath/repository/kopia/format-blob.js";
import {
  openKopiaRepository,
  type KopiaRepository,
} from "../../services/datapath/repository/kopia/kopia-repository.js";
import { sourcePath, volumeSource } from "../../services/datapath/repository/kopia/velero-block-layout.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { openStorage } from "../../services/datapath/repository/storage/storage-url.js";
import { backup, type BackupOptions, type BackupResult } from "../../services/datapath/uploader/backup.js";
import { restore, type RestoreResult } from "../../services/datapath/uploader/restore.js";

/** Password of every repository in the tests. */
export const PASSWORD = "open sesame";

/** Source of the snapshots, unless a test says another. */
export const SOURCE = volumeSource(sourcePath("shop", "database"));

/** Makes a repository in a directory (made when missing), and returns the directory. */
export async function createRepository(directory: string, format?: NewFormatOptions): Promise<string> {
  const storage = await openStorage(directory, { create: true });
  try {
    await createKopiaRepository({ storage, password: PASSWORD, format });
  } finally {
    await storage.close();
  }
  return directory;
}

/** Opens it; whoever opens it closes it. `wrap` may put something between it and its storage. */
export async function openRepository(
  directory: string,
  wrap: (storage: BlobStorage) => BlobStorage = (storage) => storage,
): Promise<KopiaRepository> {
  return openKopiaRepository({ storage: wrap(await openStorage(directory)), password: PASSWORD });
}

/** Opens the repository for one use of it. */
export async function withRepository<T>(
  directory: string,
  use: (repository: KopiaRepository) => Promise<T>,
): Promise<T> {
  const repository = await openRepository(directory);
  try {
    return await use(repository);
  } finally {
    await repository.close();
  }
}

export interface BackUpOptions extends Partial<Omit<BackupOptions, "device" | "repository">> {
  readonly wrapSource?: (device: BlockDevice) => BlockDevice;
}

/** Backs up a device or image: a full backup, unless the options say more. */
export async function backUp(
  repository: KopiaRepository,
  devicePath: string,
  options: BackUpOptions = {},
): Promise<BackupResult> {
  const opened = await openSource(devicePath);
  const device = options.wrapSource?.(opened) ?? opened;
  try {
    return await backup({
      source: SOURCE,
      description: "test",
      parent: { kind: "auto" },
      signal: new AbortController().signal,
      ...options,
      device,
      repository,
    });
  } finally {
    await device.close();
  }
}

/** Restores a snapshot to a device or file, and removes a file that was made for it when that fails. */
export async function restoreTo(
  repository: KopiaRepository,
  snapshotId: string,
  targetPath: string,
  options: { readonly force?: boolean; readonly signal?: AbortSignal } = {},
): Promise<RestoreResult> {
  const snapshot = await repository.getSnapshot(snapshotId);
  const target = await openTarget(targetPath, { sizeBytes: snapshot.volumeSizeBytes, force: options.force });
  let succeeded = false;
  try {
    const result = await restore({
      repository,
      snapshot,
      device: target.device,
      isTargetZero: target.isNew,
      signal: options.signal ?? new AbortController().signal,
    });
    succeeded = true;
    return result;
  } finally {
    await (succeeded ? target.device.close() : target.discard());
  }
}

/** A blob of a repository in a directory, and the file it lies in. */
export interface BlobFile {
  readonly id: string;
  readonly path: string;
}

/** The blobs whose id begins with `prefix`, sorted by id. */
export async function blobFiles(directory: string, prefix = ""): Promise<BlobFile[]> {
  const found: BlobFile[] = [];
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !entry.name.endsWith(".f")) continue;
    const file = path.join(entry.parentPath, entry.name);
    const id = path.relative(directory, file).replaceAll(path.sep, "").slice(0, -".f".length);
    if (id.startsWith(prefix)) found.push({ id, path: file });
  }
  return found.sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** Session markers: who is writing, or died while writing. */
export async function sessionMarkers(directory: string): Promise<string[]> {
  return (await blobFiles(directory, "s")).map(({ id }) => id);
}

/** Files of writes that did not end. */
export async function temporaryFiles(directory: string): Promise<string[]> {
  return (await readdir(directory, { recursive: true })).filter((name) => /\.tmp\.[0-9a-f]{16}$/.test(name));
}
