/**
 * Peak resident memory of the data mover: a sparse volume of 1 TiB with 1 GiB of data, and a repository with a million
 * contents. (That of plain volumes stands in the other scenarios' tables.)
 */
import { writeFile } from "node:fs/promises";

import { Random } from "../../support/random-data.js";
import { GiB, MiB } from "../../support/sizes.js";
import { allocatedBytes } from "../../support/loop-device.js";
import type { BlockmoverRun } from "../blockmover.js";
import { formatSize, type Row } from "../report.js";
import { spreadOf } from "../statistics.js";
import { measuredOf, type Bench } from "./bench.js";
import { addForeignContents } from "./million-contents.js";
import { writeChunks } from "./restore.js";

const LIMIT_MIB = 256;
const SPARSE_DATA_BYTES = GiB;
const CHANGED_CHUNKS = 64;
const CONTENT_COUNT = 1_000_000;

export async function memory(bench: Bench): Promise<void> {
  await sparseVolume(bench);
  for (const blobCount of [1, 16]) await largeIndex(bench, blobCount);
}

async function sparseVolume(bench: Bench): Promise<void> {
  const { place, report, seed, sizes, blockmovers } = bench;
  const blockmover = blockmovers[0];
  const random = new Random(seed).fork("sparse");
  const chunkCount = sizes.sparse / MiB;
  const source = await place.sparseVolume("sparse", sizes.sparse);
  const chunks = Array.from({ length: SPARSE_DATA_BYTES / MiB }, () => random.below(chunkCount));
  await writeChunks(source.path, chunks, random);
  const repository = place.path("repository");
  await blockmover.createRepository(repository);
  const label = formatSize(sizes.sparse);

  const full = await blockmover.backup(source.path, repository, ["--volume-id", "sparse", "--change-id", "one"]);
  const changed = chunks.slice(0, CHANGED_CHUNKS);
  await writeChunks(source.path, changed, random);
  const ranges = place.path("ranges.jsonl");
  await writeFile(ranges, changed.map((chunk) => JSON.stringify({ offset: chunk * MiB, length: MiB })).join("\n"));
  const tracking = ["--volume-id", "sparse", "--change-id", "two", "--base-change-id", "one"];
  const next = await blockmover.backup(source.path, repository, [...tracking, "--changed-ranges", ranges]);
  const target = await place.sparseVolume("target", sizes.sparse);
  const restored = await blockmover.restore(String(next.result.snapshotId), target.path, repository);
  tell(bench, `Sparse volume of ${label} with ${formatSize(SPARSE_DATA_BYTES)} of data`, [
    [`full backup`, full],
    [`increment, ${CHANGED_CHUNKS} chunks`, next],
    [`restore`, restored],
  ]);
  report.target({
    name: `allocated after restoring ${label} with ${formatSize(SPARSE_DATA_BYTES)} of data, of the source's`,
    place: place.name,
    reached: spreadOf([(await allocatedBytes(target.backingFile)) / (await allocatedBytes(source.backingFile))]),
    wanted: { atMost: 1.001 },
    unit: "",
  });
  await place.removeVolume(target);
  await place.removeVolume(source);
  await place.remove(repository);
}

async function largeIndex(bench: Bench, blobCount: number): Promise<void> {
  const { place, seed, blockmovers } = bench;
  const blockmover = blockmovers[0];
  const volume = await place.randomVolume("small", 64 * MiB, seed + 2);
  const repository = place.path("repository");
  await blockmover.createRepository(repository);
  await addForeignContents({ repository, password: blockmover.password, contentCount: CONTENT_COUNT, blobCount, seed });
  const status = await blockmover.run(["repository", "status", "--repo", repository, "--json"]);
  const full = await blockmover.backup(volume.path, repository);
  const restored = await blockmover.restore(String(full.result.snapshotId), place.path("small.img"), repository);
  tell(bench, `Repository with ${CONTENT_COUNT} contents in ${blobCount} index blob${blobCount === 1 ? "" : "s"}`, [
    ["repository status", status],
    ["full backup of 64 MiB", full],
    ["restore of 64 MiB", restored],
  ]);
  await place.remove(repository);
  await place.removeVolume(volume);
}

function tell({ place, report }: Bench, title: string, runs: readonly (readonly [string, BlockmoverRun])[]): void {
  const rows = runs.map(([name, run]): Row => ({ name, bytes: 0, measured: [measuredOf(run)] }));
  report.add({ title, place: place.name, rows });
  for (const [name, run] of runs) {
    report.target({
      name: `peak memory, ${title.toLowerCase()}: ${name}`,
      place: place.name,
      reached: spreadOf([run.peakRssBytes / MiB]),
      wanted: { atMost: LIMIT_MIB },
      unit: " MiB",
    });
  }
}
