/**
 * A full backup of incompressible data: against what native code can do, and against Kopia.
 *
 * Every run writes into an empty repository (or directory) beside the volume, on the same medium.
 */
import { mkdir } from "node:fs/promises";
import path from "node:path";

import { contest, type Contestant } from "../contest.js";
import { KopiaPeer } from "../kopia-peer.js";
import { formatSize } from "../report.js";
import { measuredOf, runCeiling, runDd, type Bench } from "./bench.js";

const STEPS = ["read", "hash", "seal"] as const;

/** Threads of the native ceiling that also writes; the best of them is the ceiling. */
const WRITE_THREADS = [2, 4, 8];

const THREADS = 4;

export async function fullBackup(bench: Bench): Promise<void> {
  const { place, report, rounds, seed, sizes, blockmovers, kopiaVersion, ceiling } = bench;
  const volume = await place.randomVolume("full", sizes.volume, seed);
  const contestants: Contestant[] = [
    { name: "dd, read only, 8 MiB", run: () => runDd(volume.path) },
    ...(ceiling === undefined ? [] : ceilings(bench, ceiling, volume.path)),
  ];
  for (const blockmover of blockmovers) {
    const repository = place.path("repository");
    contestants.push({
      name: blockmover.name,
      warm: () => blockmover.run(["--version"]),
      prepare: () => blockmover.createRepository(repository),
      run: async () => measuredOf(await blockmover.backup(volume.path, repository)),
      clean: () => place.remove(repository),
    });
  }
  if (kopiaVersion !== undefined) {
    for (const from of ["image", "pipe"] as const) {
      const repository = place.path("kopia-repository");
      const kopia = new KopiaPeer({
        version: kopiaVersion,
        directory: place.path("kopia"),
        password: blockmovers[0].password,
      });
      contestants.push({
        name: `kopia ${kopiaVersion}, ${from}`,
        warm: () => kopia.json(["repository", "status", "--json"]),
        prepare: () => kopia.createRepository(repository),
        run: () =>
          from === "image"
            ? kopia.snapshotDirectory(path.dirname(volume.backingFile))
            : kopia.snapshotDevice(volume.path),
        clean: () => place.remove(repository),
      });
    }
  }

  const standings = await contest({
    title: `Full backup of ${formatSize(sizes.volume)} incompressible data`,
    place,
    report,
    rounds,
    bytes: sizes.volume,
    contestants,
  });
  const own = blockmovers[0].name;
  const target = { place: place.name, unit: "" };
  if (ceiling !== undefined) {
    const native = standings.best(WRITE_THREADS.map((threads) => nameOf("write", threads))).times;
    report.target({
      ...target,
      name: "full backup, transfer, of the native ceiling's rate",
      reached: standings.ratio(native, standings.times(own, "transferMs")),
      wanted: { atLeast: 0.7 },
    });
    report.target({
      ...target,
      name: "full backup, whole process, of the native ceiling's rate",
      reached: standings.ratio(native, standings.times(own)),
      wanted: { atLeast: 0.7 },
    });
  }
  if (kopiaVersion !== undefined) {
    const peer = standings.best(["image", "pipe"].map((from) => `kopia ${kopiaVersion}, ${from}`)).times;
    report.target({
      ...target,
      name: "full backup, whole process, of Kopia's rate",
      reached: standings.ratio(peer, standings.times(own)),
      wanted: { atLeast: 1.5 },
    });
  }
  await place.removeVolume(volume);
}

function ceilings({ place }: Bench, program: string, device: string): Contestant[] {
  const steps = STEPS.map((step): Contestant => ({
    name: nameOf(step, THREADS),
    run: () => runCeiling(program, [step, device, "--threads", String(THREADS)]),
  }));
  const writers = WRITE_THREADS.map((threads): Contestant => {
    const packs = place.path("packs");
    return {
      name: nameOf("write", threads),
      prepare: () => mkdir(packs),
      run: () => runCeiling(program, ["write", device, "--threads", String(threads), "--packs", packs]),
      clean: () => place.remove(packs),
    };
  });
  return [...steps, ...writers];
}

function nameOf(step: "read" | "hash" | "seal" | "write", threads: number): string {
  const label = { read: "read", hash: "read+hash", seal: "read+hash+encrypt", write: "read+hash+encrypt+write" };
  return `native ${label[step]}, ${threads} threads`;
}
