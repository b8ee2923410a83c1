/** What both programs must say of a repository. */
import { mkdir, open, readdir, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { expect } from "chai";

import { MAX_GROUP_CHUNKS } from "../../services/common/chunk.js";
import { decodeDirectory, type Directory } from "../../services/datapath/repository/kopia/directory.js";
import type { KopiaRepository } from "../../services/datapath/repository/kopia/kopia-repository.js";
import type { ObjectEntry } from "../../services/datapath/repository/repository.js";
import { assertSameBytes, isZeroRange } from "../support/compare.js";
import type { Kopia } from "../support/kopia.js";
import type { Random } from "../support/random-data.js";
import { runOrThrow } from "../support/run.js";
import { MiB } from "../support/sizes.js";
import type { ListedContent, SharedRepository } from "./shared-repository.js";
import type { KnownSnapshot } from "./test-volume.js";

/** A snapshot of files that Kopia made, and what must come back from it. */
export interface KnownTree {
  readonly id: string;
  /** The directory as it was. */
  readonly directory: string;
}

/**
 * Everything in the repository is readable to both, and no session is left open: Kopia reads all files of all
 * snapshots and all contents, deleted ones too, with a fresh cache; we read all volumes.
 */
export async function expectSound(repository: SharedRepository): Promise<Kopia> {
  const [kopia, { problemCount }] = await allSettledOrThrow([
    repository.kopia().then(async (connected) => {
      await expectSoundToKopia(connected);
      return connected;
    }),
    repository.blockmover(["snapshot", "verify"]),
  ]);
  expect(problemCount).to.equal(0);
  expect(await repository.blobs("s"), "session markers").to.deep.equal([]);
  return kopia;
}

/** Kopia's part of `expectSound`. */
export async function expectSoundToKopia(kopia: Kopia): Promise<void> {
  await allSettledOrThrow([
    kopia.runOrThrow(["snapshot", "verify", "--verify-files-percent=100"]),
    kopia.runOrThrow(["content", "verify", "--full", "--download-percent=100", "--include-deleted"]),
  ]);
}

/**
 * As `Promise.all`, but waits for all of them also when one fails: nothing may still be using the test's directory when
 * that is removed.
 */
export async function allSettledOrThrow<T extends readonly Promise<unknown>[]>(
  work: readonly [...T],
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

/** Both restore each of these volumes to the very bytes it had. */
export async function expectVolumes(
  repository: SharedRepository,
  kopia: Kopia,
  snapshots: readonly KnownSnapshot[],
): Promise<void> {
  for (const snapshot of snapshots) {
    await allSettledOrThrow([
      expectRestoredByKopia(repository, kopia, snapshot),
      expectRestoredByUs(repository, snapshot),
    ]);
  }
}

/** `blockmover restore` gives exactly the volume. */
export async function expectRestoredByUs(repository: SharedRepository, snapshot: KnownSnapshot): Promise<void> {
  const target = repository.newPath("restored");
  await repository.blockmover(["restore", snapshot.id, target]);
  await assertSameBytes(target, snapshot.image);
  await rm(target);
}

/** `kopia restore` gives the volume and zeros up to the next MiB, in a file of its own. */
export async function expectRestoredByKopia(
  repository: SharedRepository,
  kopia: Kopia,
  snapshot: KnownSnapshot,
): Promise<void> {
  const target = repository.newPath("restored-by-kopia");
  await kopia.runOrThrow(["restore", snapshot.id, target]);
  const names = await readdir(target);
  expect(names, "files in the snapshot").to.have.length(1);
  const file = path.join(target, names[0]!);
  const paddedBytes = Math.ceil(snapshot.sizeBytes / MiB) * MiB;
  expect((await stat(file)).size, "size of the restored file").to.equal(paddedBytes);
  await assertSameBytes(file, snapshot.image, { lengthBytes: snapshot.sizeBytes });
  expect(await isZeroRange(file, snapshot.sizeBytes, paddedBytes - snapshot.sizeBytes), "zero padding").to.equal(true);
  await rm(target, { recursive: true });
}

/** Both read each of these trees as it was. */
export async function expectTrees(
  repository: SharedRepository,
  kopia: Kopia,
  trees: readonly KnownTree[],
): Promise<void> {
  for (const { id, directory } of trees) {
    const target = repository.newPath("restored-tree");
    await kopia.runOrThrow(["restore", id, target]);
    await runOrThrow("diff", ["--recursive", directory, target]);
    await rm(target, { recursive: true });
  }
  await repository.withOpen(async (opened) => {
    for (const { id, directory } of trees) {
      await expectTreeReads(opened, (await opened.getSnapshot(id)).rootObjectId, directory);
    }
  });
}

/** The tree below a directory object has, read by us, the files of `directory` and no others. */
export async function expectTreeReads(
  repository: KopiaRepository,
  directoryObjectId: string,
  directory: string,
): Promise<void> {
  const { entries } = await readDirectoryObject(repository, directoryObjectId);
  expect(entries.map(({ name }) => name).sort(), directory).to.deep.equal((await readdir(directory)).sort());
  for (const { name, type, obj } of entries) {
    const target = path.join(directory, name!);
    if (type === "d") await expectTreeReads(repository, obj, target);
    else await expectObjectReads(repository, obj, target);
  }
}

export async function readDirectoryObject(repository: KopiaRepository, objectId: string): Promise<Directory> {
  return decodeDirectory(await repository.readMetadata(objectId), objectId);
}

/** Our reader gives the bytes of `file` for an object, read as a restore reads them: entries in groups. */
export async function expectObjectReads(repository: KopiaRepository, objectId: string, file: string): Promise<void> {
  const object = await repository.openObject(objectId);
  const handle = await open(file, "r");
  let endBytes = 0;
  const compare = async (entries: readonly ObjectEntry[]): Promise<void> => {
    const reads = entries.map((entry) => ({ entry, target: Buffer.alloc(entry.lengthBytes, 0xa5) }));
    await object.read(reads);
    for (const { entry, target } of reads) {
      expect(entry.offsetBytes, `offset in ${objectId}`).to.equal(endBytes);
      const wanted = Buffer.alloc(target.length);
      const { bytesRead } = await handle.read(wanted, 0, wanted.length, endBytes);
      expect(bytesRead, `bytes of ${file} at ${endBytes}`).to.equal(wanted.length);
      expect(target.equals(wanted), `${file} as ${objectId} at ${endBytes}`).to.equal(true);
      if (entry.isZero) expect(isAllZero(wanted), `zero at ${endBytes} of ${objectId}`).to.equal(true);
      endBytes += entry.lengthBytes;
    }
  };
  try {
    for await (const batch of object.entries()) {
      for (let at = 0; at < batch.length; at += MAX_GROUP_CHUNKS) {
        await compare(batch.slice(at, at + MAX_GROUP_CHUNKS));
      }
    }
    expect(endBytes, `length of ${objectId}`).to.equal((await handle.stat()).size);
  } finally {
    await handle.close();
  }
}

function isAllZero(bytes: Buffer): boolean {
  return bytes.equals(Buffer.alloc(bytes.length));
}

/** The entry table of an object whose table is one content, as Kopia shows it. */
export async function tableShownByKopia(kopia: Kopia, objectId: string): Promise<readonly TableRow[]> {
  expect(objectId).to.match(/^Ix/);
  const { stream, entries } = (await kopia.runJson(["show", objectId.slice(1)])) as {
    stream: string;
    entries: TableRow[];
  };
  expect(stream).to.equal("kopia:indirect");
  return entries;
}

/** A row of an entry table: start (absent for 0), length, object. */
export interface TableRow {
  readonly s?: number;
  readonly l: number;
  readonly o: string;
}

/** Lets Kopia make a snapshot of a directory. */
export async function snapshotTree(kopia: Kopia, directory: string): Promise<KnownTree> {
  const { id } = (await kopia.runJson(["snapshot", "create", "--json", directory])) as { id: string };
  return { id, directory };
}

export async function listContents(kopia: Kopia, args: readonly string[] = []): Promise<ListedContent[]> {
  return (await kopia.runJson(["content", "list", "--json", ...args])) as ListedContent[];
}

/** Everything that nobody refers to goes, at once and whatever its age. Nobody else may be writing. */
export async function collectGarbage(kopia: Kopia): Promise<void> {
  // What a run marks as deleted it drops too, except when the mark is of the present second or, being later than the
  // content it marks, of the next one.
  for (let run = 0; run < 5; run++) {
    await kopia.runOrThrow(["maintenance", "run", "--full", "--safety=none"]);
    if ((await listContents(kopia, ["--deleted-only"])).length === 0) return;
    await sleep(1_100);
  }
  throw new Error("contents stay marked as deleted");
}

/** All contents but manifests are marked as deleted, as the first half of a collection does it, and stay readable. */
export async function markAllDeleted(kopia: Kopia): Promise<void> {
  const ids = (await listContents(kopia)).map(({ contentID }) => contentID).filter((id) => !id.startsWith("m"));
  await kopia.runOrThrow(["content", "delete", "--dangerous-commands=enabled", ...ids]);
}

/** Makes a directory of a few files of different sizes, all of them new. */
export async function writeTree(repository: SharedRepository, random: Random): Promise<string> {
  const directory = await repository.makeDirectory("tree");
  await mkdir(path.join(directory, "inner"));
  await writeFile(path.join(directory, "empty"), "");
  await writeFile(path.join(directory, "small"), random.bytes(random.between(1, 2000)));
  await writeFile(path.join(directory, "inner", "big"), random.bytes(random.between(MiB, 6 * MiB)));
  return directory;
}
