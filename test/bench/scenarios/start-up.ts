/** What a run costs before and after the data: the process, the command line, opening a repository, committing. */
import { writeFile } from "node:fs/promises";

import { MiB } from "../../support/sizes.js";
import { contest } from "../contest.js";
import { measure } from "../measure.js";
import { measuredOf, type Bench } from "./bench.js";

export async function startUp(bench: Bench): Promise<void> {
  const { place, report, rounds, seed, blockmovers } = bench;
  const blockmover = blockmovers[0];
  const volume = await place.randomVolume("small", 64 * MiB, seed + 3);
  const repository = place.path("repository");
  await blockmover.createRepository(repository);
  let state = 0;
  const ids = (): string[] => ["--volume-id", "start", "--change-id", `state-${++state}`];
  await blockmover.backup(volume.path, repository, ids());
  const noRanges = place.path("no-ranges.jsonl");
  await writeFile(noRanges, "");
  const warm = (): Promise<unknown> => blockmover.run(["repository", "status", "--repo", repository]);
  const tracked = (): string[] => ["--changed-ranges", noRanges, "--base-change-id", `state-${state}`, ...ids()];

  await contest({
    title: "Start-up",
    place,
    report,
    rounds: Math.max(5, rounds),
    bytes: 0,
    contestants: [
      { name: "node, empty program", warm, run: () => measure(process.execPath, ["-e", "0"]) },
      { name: "blockmover --version", warm, run: async () => measuredOf(await blockmover.run(["--version"])) },
      {
        name: "blockmover repository status",
        warm,
        run: async () => measuredOf(await blockmover.run(["repository", "status", "--repo", repository])),
      },
      {
        name: "blockmover backup, empty increment",
        warm,
        run: async () => measuredOf(await blockmover.backup(volume.path, repository, tracked())),
      },
    ],
  });
  const { report: traced } = await blockmover.run(
    ["backup", volume.path, "--repo", repository, "--source", "bench/volume", "--json", ...tracked()],
    { trace: true },
  );
  report.fact(`${place.name}: phases of an empty increment, ms since the start of node`, {
    hookLoaded: Math.round(traced.phasesMs.hook ?? 0),
    addonLoaded: Math.round(traced.phasesMs.addon ?? 0),
    deviceOpen: Math.round(traced.operations.deviceOpen?.firstMs ?? 0),
    scryptBegan: Math.round(traced.operations.scrypt?.firstMs ?? 0),
    scryptEnded: Math.round(traced.operations.scrypt?.lastMs ?? 0),
    exit: Math.round(traced.phasesMs.exit ?? 0),
    syncs: traced.operations["file.sync"]?.count ?? 0,
    syncMs: Math.round(traced.operations["file.sync"]?.totalMs ?? 0),
  });
  await place.remove(repository);
  await place.removeVolume(volume);
}
