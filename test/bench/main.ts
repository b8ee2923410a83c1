/**
 * `make bench`: measures blockmover beside what native code can do and beside Kopia, in one run, on disk and in memory.
 *
 *   node --import tsx test/bench/main.ts [--quick] [--sizes volume=4,increment=8,sparse=1024] [--rounds N]
 *        [--places disk,tmpfs] [--only full,zeros,increment,restore,memory,start-up,time]
 *        [--directory DIR] [--kopia VERSION] [--variant NAME=TREE]… [--quiet SECONDS] [--seed N]
 *
 * Sizes are in GiB. Needs root, for loop devices, tmpfs and dropping caches. What cannot be had (Kopia, the native
 * ceiling) is left out and said so. Absolute times of a shared machine say little; the ratios are between measurements of
 * one round. Results go to .cache/bench/ as JSON; BENCHMARKS.md is written by hand from them. A variant is another built
 * tree of blockmover, measured in turn with this one.
 */
import { readFileSync, statfsSync } from "node:fs";
import { availableParallelism, cpus, release, tmpdir, totalmem } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

import { hasLoopDevices } from "../support/loop-device.js";
import { GiB, MiB } from "../support/sizes.js";
import { Blockmover } from "./blockmover.js";
import { buildCeiling } from "./ceiling/build-ceiling.js";
import { findKopia } from "./kopia-peer.js";
import { killMeasured } from "./measure.js";
import { Place, type PlaceName } from "./place.js";
import { formatSize, Report } from "./report.js";
import type { Bench, Sizes } from "./scenarios/bench.js";
import { fullBackup } from "./scenarios/full-backup.js";
import { increment } from "./scenarios/increment.js";
import { memory } from "./scenarios/memory.js";
import { restore } from "./scenarios/restore.js";
import { startUp } from "./scenarios/start-up.js";
import { whereTimeGoes } from "./scenarios/where-time-goes.js";
import { zeros } from "./scenarios/zeros.js";

interface Scenario {
  readonly run: (bench: Bench) => Promise<void>;
  /** Where it tells something: memory is the same everywhere, and a sparse 1 TiB does not fit a tmpfs of a few GiB. */
  readonly places: readonly PlaceName[];
}

const scenarios: Readonly<Record<string, Scenario>> = {
  "start-up": { run: startUp, places: ["disk", "tmpfs"] },
  full: { run: fullBackup, places: ["disk", "tmpfs"] },
  zeros: { run: zeros, places: ["disk", "tmpfs"] },
  restore: { run: restore, places: ["disk", "tmpfs"] },
  increment: { run: increment, places: ["disk", "tmpfs"] },
  memory: { run: memory, places: ["disk"] },
  time: { run: whereTimeGoes, places: ["disk", "tmpfs"] },
};

/** How much of a tmpfs is taken at most: source, repositories of both programs, target; source and repository. */
const TMPFS_VOLUME_COPIES = 5;
const TMPFS_INCREMENT_COPIES = 2.5;

const defaults: Readonly<Record<PlaceName, Sizes>> = {
  disk: { volume: 4 * GiB, increment: 8 * GiB, sparse: 1024 * GiB },
  tmpfs: { volume: 2 * GiB, increment: 4 * GiB, sparse: 0 },
};
const quick: Sizes = { volume: GiB, increment: GiB, sparse: 32 * GiB };

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      sizes: { type: "string", default: "" },
      rounds: { type: "string" },
      places: { type: "string", default: "disk,tmpfs" },
      only: { type: "string" },
      directory: { type: "string" },
      kopia: { type: "string" },
      variant: { type: "string", multiple: true, default: [] },
      quiet: { type: "string", default: "0" },
      seed: { type: "string", default: "20261122" },
    },
  });
  if (process.getuid?.() !== 0 || !hasLoopDevices()) throw new Error("the benchmark needs root and loop devices");
  const wanted = values.only?.split(",") ?? Object.keys(scenarios);
  for (const name of wanted) if (!(name in scenarios)) throw new Error(`there is no scenario ${name}`);
  const rounds = Number(values.rounds ?? (values.quick ? 1 : 5));

  const report = new Report();
  const ceiling = buildCeiling();
  const kopiaVersion = findKopia(values.kopia);
  const variants = values.variant.map((text) => {
    const [name = "", tree = ""] = text.split("=", 2);
    return new Blockmover(path.resolve(tree), name);
  });
  describeMachine(report);
  report.fact("native ceiling", ceiling.program === undefined ? `left out: ${ceiling.missing}` : "built");
  report.fact("kopia", kopiaVersion ?? "left out: not built (make interop builds it)");
  report.fact("rounds", rounds);
  report.fact("seed", Number(values.seed));

  for (const name of values.places.split(",") as PlaceName[]) {
    const sizes = sizesOf(name, values.quick, values.sizes);
    const place = await Place.open(name, {
      diskDirectory: values.directory,
      tmpfsBytes: Math.max(TMPFS_VOLUME_COPIES * sizes.volume, TMPFS_INCREMENT_COPIES * sizes.increment),
      quietPatienceMs: Number(values.quiet) * 1000,
    });
    const close = closeOnce(place);
    try {
      report.fact(`${name}: free space`, formatSize(freeBytes(place.directory)));
      const bench: Bench = {
        place,
        report,
        rounds,
        sizes,
        kopiaVersion,
        seed: Number(values.seed),
        ceiling: ceiling.program,
        blockmovers: [new Blockmover(), ...variants],
      };
      for (const scenario of wanted) {
        const { run, places } = scenarios[scenario] as Scenario;
        if (places.includes(name)) await run(bench);
      }
    } finally {
      await close();
    }
  }
  report.printTargets();
  const file = path.resolve(
    import.meta.dirname,
    `../../.cache/bench/${new Date().toISOString().replace(/[:.]/g, "-")}.json`,
  );
  report.write(file);
  console.log(`\nWritten to ${file}`);
}

function sizesOf(name: PlaceName, isQuick: boolean, text: string): Sizes {
  const sizes: Record<keyof Sizes, number> = { ...(isQuick ? quick : defaults[name]) };
  for (const part of text.split(",").filter((each) => each !== "")) {
    const [key = "", value = ""] = part.split("=", 2);
    if (!(key in sizes) || !(Number(value) > 0)) throw new Error(`--sizes ${text}: expected volume, increment, sparse`);
    sizes[key as keyof Sizes] = Math.round((Number(value) * GiB) / (8 * MiB)) * 8 * MiB;
  }
  return sizes;
}

function describeMachine(report: Report): void {
  report.fact("machine", {
    cpu: cpus()[0]?.model,
    cores: availableParallelism(),
    memory: formatSize(totalmem()),
    kernel: release(),
    node: process.version,
    openssl: process.versions.openssl,
    load: readFileSync("/proc/loadavg", "latin1").trim(),
    temporary: tmpdir(),
    date: new Date().toISOString(),
  });
}

function freeBytes(directory: string): number {
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize;
}

/** Also on a signal nothing may be left behind: a place holds loop devices, a mount and gigabytes. */
function closeOnce(place: Place): () => Promise<void> {
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => (closing ??= place.close());
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => {
      void killMeasured()
        .then(close)
        .catch((error: unknown) => console.error(error))
        .finally(() => process.exit(130));
    });
  }
  return close;
}

await main();
