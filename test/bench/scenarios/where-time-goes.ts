/**
 * Where the time of a full backup and of a restore goes: native operations, threads, and JavaScript.
 *
 * The traced runs are not those that are measured. Profiles for Chrome's DevTools are kept in .cache/bench/profiles.
 */
import { mkdir, rm } from "node:fs/promises";
import path from "node:path";

import type { BlockmoverRun } from "../blockmover.js";
import { formatSize } from "../report.js";
import type { Bench } from "./bench.js";

const profiles = path.resolve(import.meta.dirname, "../../../.cache/bench/profiles");

export async function whereTimeGoes({ place, report, seed, sizes, blockmovers }: Bench): Promise<void> {
  const volume = await place.randomVolume("traced", sizes.volume, seed);
  for (const blockmover of blockmovers) {
    const directory = path.join(profiles, `${place.name}-${blockmover.name}`);
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { recursive: true });
    const repository = place.path("repository");
    const target = place.path("restored.img");
    const backup = ["backup", volume.path, "--repo", repository, "--source", "bench/volume", "--json"];
    const warm = (): Promise<unknown> => blockmover.run(["--version"]);

    await blockmover.createRepository(repository);
    await place.settle(warm);
    const saved = await blockmover.run(backup, { trace: true });
    report.fact(`${place.name}, ${blockmover.name}: full backup of ${formatSize(sizes.volume)}`, account(saved));
    await place.settle(warm);
    const restored = await blockmover.run(
      ["restore", String(saved.result.snapshotId), target, "--repo", repository, "--json"],
      { trace: true },
    );
    report.fact(`${place.name}, ${blockmover.name}: restore of ${formatSize(sizes.volume)}`, account(restored));
    await place.remove(target);
    await place.remove(repository);

    await blockmover.createRepository(repository);
    await blockmover.run(backup, { nodeArgs: ["--cpu-prof", `--cpu-prof-dir=${directory}`] });
    await place.remove(repository);
  }
  await place.removeVolume(volume);
}

/** Sums of overlapping times, so they exceed the transfer's; the shares tell what to look at. */
function account({ transferMs, report }: BlockmoverRun): unknown {
  const operations = Object.entries(report.operations)
    .filter(([, { totalMs }]) => totalMs >= 5)
    .sort(([, a], [, b]) => b.totalMs - a.totalMs)
    .map(([name, { count, bytes, totalMs, longestMs }]) => ({
      name,
      count,
      MB: Math.round(bytes / 1e6),
      totalMs: Math.round(totalMs),
      meanMs: Number((totalMs / count).toFixed(2)),
      longestMs: Math.round(longestMs),
    }));
  return {
    transferMs,
    eventLoopUtilization: Number(report.eventLoopUtilization.toFixed(3)),
    threads: report.threads.filter(({ userMs, systemMs }) => userMs + systemMs > 0),
    operations,
  };
}
