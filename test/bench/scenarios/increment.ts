/**
 * Increments of 0, 0.1, 1 and 10 % changed chunks, against the full backup of the same volume.
 *
 * A changed chunk has one random page of 4 KiB that is new; chunks are chosen by the seed. Each round begins with a full
 * backup into an empty repository, so that it has to store everything, and goes on as a chain of increments.
 */
import { open, writeFile } from "node:fs/promises";

import { MiB } from "../../support/sizes.js";
import { Random } from "../../support/random-data.js";
import { formatSize, type Measured, type Row } from "../report.js";
import { ratiosOf, spreadOf } from "../statistics.js";
import { measuredOf, type Bench } from "./bench.js";

const PERCENTAGES = [0, 0.1, 1, 10];
const PAGE_BYTES = 4096;

export async function increment(bench: Bench): Promise<void> {
  const { place, report, rounds, seed, sizes, blockmovers } = bench;
  const blockmover = blockmovers[0];
  const volume = await place.randomVolume("increment", sizes.increment, seed + 1);
  const random = new Random(seed).fork("changes");
  const chunkCount = sizes.increment / MiB;
  const names = ["full", ...PERCENTAGES.map((percent) => `${percent} % changed`)];
  const rows = names.map((name): Row & { measured: Measured[] } => ({ name, bytes: 0, measured: [] }));
  const ranges = place.path("ranges.jsonl");
  const repository = place.path("repository");
  let state = 0;

  const backup = async (extraArgs: readonly string[]): Promise<Measured> => {
    await place.settle(() => blockmover.run(["--version"]));
    const changeIds = ["--volume-id", "bench", "--change-id", `state-${state}`];
    const run = await blockmover.backup(volume.path, repository, [...changeIds, ...extraArgs]);
    const wanted = extraArgs.includes("--full") ? "full" : "incremental";
    if (run.result.backupType !== wanted) throw new Error(`a ${wanted} backup became ${String(run.result.backupType)}`);
    return measuredOf(run);
  };

  for (let round = 0; round < rounds; round++) {
    await blockmover.createRepository(repository);
    rows[0]?.measured.push(await backup(["--full"]));
    for (const [index, percent] of PERCENTAGES.entries()) {
      const chunks = chooseChunks(random, chunkCount, Math.round((chunkCount * percent) / 100));
      await change(volume.path, chunks, random);
      const lines = chunks.map((chunk) => JSON.stringify({ offset: chunk * MiB + PAGE_BYTES, length: PAGE_BYTES }));
      await writeFile(ranges, lines.join("\n"));
      const base = `state-${state++}`;
      rows[index + 1]?.measured.push(await backup(["--changed-ranges", ranges, "--base-change-id", base]));
    }
    await place.remove(repository);
  }

  report.add({ title: `Increments of ${formatSize(sizes.increment)}`, place: place.name, rows });
  const times = (index: number, kind: "wallMs" | "transferMs"): number[] =>
    (rows[index]?.measured ?? []).map((each) => each[kind] ?? each.wallMs);
  const onePercent = PERCENTAGES.indexOf(1) + 1;
  for (const [kind, label] of [
    ["transferMs", "transfer"],
    ["wallMs", "whole process"],
  ] as const) {
    report.target({
      name: `1 % changed against full, ${label}, times as fast`,
      place: place.name,
      reached: ratiosOf(times(0, kind), times(onePercent, kind)),
      wanted: { atLeast: 20 },
      unit: "",
    });
  }
  // Beyond the cost of an empty increment, time should grow as the changed chunks do: tenfold from 1 to 10 %.
  const beyondEmpty = (index: number): number[] => {
    const empty = spreadOf(times(1, "transferMs")).median;
    return times(index, "transferMs").map((each) => each - empty);
  };
  report.fact(
    `${place.name}: 10 % against 1 % changed, beyond an empty increment`,
    ratiosOf(beyondEmpty(onePercent + 1), beyondEmpty(onePercent)),
  );
  await place.removeVolume(volume);
}

/** So many different chunks, ascending. */
function chooseChunks(random: Random, chunkCount: number, wanted: number): number[] {
  const chosen = new Set<number>();
  while (chosen.size < wanted) chosen.add(random.below(chunkCount));
  return [...chosen].sort((a, b) => a - b);
}

/** Writes a new page into each chunk. */
async function change(device: string, chunks: readonly number[], random: Random): Promise<void> {
  const handle = await open(device, "r+");
  try {
    for (const chunk of chunks) {
      await handle.write(random.bytes(PAGE_BYTES), 0, PAGE_BYTES, chunk * MiB + PAGE_BYTES);
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}
