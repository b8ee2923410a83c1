/**
 * A restore of incompressible data, to a fresh file and to a block device, against Kopia.
 *
 * Both restore the same bytes from a repository with the same algorithms, made by each itself; what they wrote is flushed
 * when they end. Kopia restores to a file; to a device its output goes through dd. A last part looks at what a sparse
 * volume takes on a thin target.
 */
import { open } from "node:fs/promises";
import path from "node:path";

import { assertSameBytes } from "../../support/compare.js";
import { allocatedBytes, type LoopDevice } from "../../support/loop-device.js";
import { Random, writeRandom } from "../../support/random-data.js";
import { MiB } from "../../support/sizes.js";
import type { Blockmover } from "../blockmover.js";
import { contest, type Contestant } from "../contest.js";
import { KopiaPeer } from "../kopia-peer.js";
import { measure } from "../measure.js";
import { formatSize } from "../report.js";
import { spreadOf } from "../statistics.js";
import { measuredOf, type Bench } from "./bench.js";

/** Share of the sparse volume's chunks that hold data. */
const SPARSE_DATA_SHARE = 1 / 8;

export async function restore(bench: Bench): Promise<void> {
  const { place, report, rounds, seed, sizes, blockmovers, kopiaVersion } = bench;
  const volume = await place.randomVolume("source", sizes.volume, seed);
  const copied = place.path("copy.img");
  const contestants: Contestant[] = [
    { name: "dd, copy to a file", run: () => copy(volume.path, copied), clean: () => place.remove(copied) },
  ];
  const repository = place.path("repository");
  await blockmovers[0].createRepository(repository);
  const { result } = await blockmovers[0].backup(volume.path, repository);
  await checkRestore(bench, String(result.snapshotId), repository, volume);
  for (const blockmover of blockmovers) {
    contestants.push(...ownContestants(bench, blockmover, String(result.snapshotId), repository));
  }
  if (kopiaVersion !== undefined)
    contestants.push(...(await kopiaContestants(bench, kopiaVersion, volume, repository)));

  const standings = await contest({
    title: `Restore of ${formatSize(sizes.volume)} incompressible data`,
    place,
    report,
    rounds,
    bytes: sizes.volume,
    contestants,
  });
  if (kopiaVersion !== undefined) {
    const own = blockmovers[0].name;
    for (const to of ["file", "device"] as const) {
      const peers =
        to === "file"
          ? ["own repository", "our repository"].map((whose) => `kopia to a file, ${whose}`)
          : ["kopia to a device"];
      report.target({
        name: `restore to a ${to}, whole process, of Kopia's rate`,
        place: place.name,
        reached: standings.ratio(standings.best(peers).times, standings.times(`${own} to a ${to}`)),
        wanted: { atLeast: 1.5 },
        unit: "",
      });
    }
  }
  await place.remove(repository);
  await place.removeVolume(volume);
  await thinTargets(bench);
}

/** Speed is worth nothing before the bytes are right. */
async function checkRestore(
  { place, blockmovers }: Bench,
  snapshotId: string,
  repository: string,
  volume: LoopDevice,
): Promise<void> {
  const file = place.path("restored.img");
  await blockmovers[0].restore(snapshotId, file, repository);
  await assertSameBytes(file, volume.path);
  await place.remove(file);
}

function ownContestants(bench: Bench, blockmover: Blockmover, snapshotId: string, repository: string): Contestant[] {
  const { place, sizes } = bench;
  const file = place.path("restored.img");
  let target: LoopDevice | undefined;
  return [
    {
      name: `${blockmover.name} to a file`,
      warm: () => blockmover.run(["--version"]),
      run: async () => measuredOf(await blockmover.restore(snapshotId, file, repository)),
      clean: () => place.remove(file),
    },
    {
      name: `${blockmover.name} to a device`,
      warm: () => blockmover.run(["--version"]),
      prepare: async () => {
        target = await place.sparseVolume("target", sizes.volume);
      },
      run: async () => measuredOf(await blockmover.restore(snapshotId, target?.path ?? "", repository)),
      clean: async () => {
        if (target) await place.removeVolume(target);
      },
    },
  ];
}

async function kopiaContestants(
  bench: Bench,
  version: string,
  volume: LoopDevice,
  ourRepository: string,
): Promise<Contestant[]> {
  const { place, sizes, blockmovers } = bench;
  const { password } = blockmovers[0];
  const contestants: Contestant[] = [];
  for (const whose of ["own repository", "our repository"] as const) {
    const kopia = new KopiaPeer({ version, directory: place.path("kopia"), password });
    if (whose === "own repository") {
      const repository = place.path("kopia-repository");
      await kopia.createRepository(repository);
      await kopia.snapshotDirectory(path.dirname(volume.backingFile));
    } else {
      await kopia.connect(ourRepository);
    }
    const root = await kopia.latestRoot();
    const directory = place.path("restored");
    contestants.push({
      name: `kopia to a file, ${whose}`,
      warm: () => kopia.json(["repository", "status", "--json"]),
      run: () => kopia.restoreDirectory(root, directory),
      clean: () => place.remove(directory),
    });
    if (whose === "own repository") continue;
    const object = await kopia.onlyFileOf(root);
    let target: LoopDevice | undefined;
    contestants.push({
      name: "kopia to a device",
      warm: () => kopia.json(["repository", "status", "--json"]),
      prepare: async () => {
        target = await place.sparseVolume("target", sizes.volume);
      },
      run: () => kopia.restoreDevice(object, target?.path ?? ""),
      clean: async () => {
        if (target) await place.removeVolume(target);
      },
    });
  }
  return contestants;
}

/** What the medium takes to copy, without any repository. */
function copy(device: string, file: string): ReturnType<typeof measure> {
  return measure("dd", [`if=${device}`, `of=${file}`, "iflag=direct", "bs=8M", "conv=fsync", "status=none"]);
}

/** A sparse volume restored to an empty thin target, and to one that was full of something else. */
async function thinTargets({ place, report, seed, sizes, blockmovers }: Bench): Promise<void> {
  const blockmover = blockmovers[0];
  const source = await place.sparseVolume("sparse", sizes.volume);
  const chunkCount = sizes.volume / MiB;
  const random = new Random(seed).fork("sparse");
  const chunks = new Set<number>();
  while (chunks.size < chunkCount * SPARSE_DATA_SHARE) chunks.add(random.below(chunkCount));
  await writeChunks(source.path, [...chunks], random);
  const dataBytes = chunks.size * MiB;
  const repository = place.path("repository");
  await blockmover.createRepository(repository);
  const { result } = await blockmover.backup(source.path, repository);

  for (const kind of ["an empty", "a full"] as const) {
    const target = await place.sparseVolume("thin", sizes.volume);
    if (kind === "a full") await writeRandom(target.backingFile, random, { lengthBytes: sizes.volume });
    await blockmover.restore(String(result.snapshotId), target.path, repository);
    await assertSameBytes(source.path, target.path);
    report.target({
      name: `allocated on ${kind} thin target after restoring ${formatSize(dataBytes)} of data, of the data`,
      place: place.name,
      reached: spreadOf([(await allocatedBytes(target.backingFile)) / dataBytes]),
      // A file system needs a few blocks of its own to say where the data lie.
      wanted: { atMost: 1.001 },
      unit: "",
    });
    await place.removeVolume(target);
  }
  await place.remove(repository);
  await place.removeVolume(source);
}

/** Fills whole chunks of a device with random bytes. */
export async function writeChunks(device: string, chunks: readonly number[], random: Random): Promise<void> {
  const handle = await open(device, "r+");
  const bytes = Buffer.alloc(MiB);
  try {
    for (const chunk of chunks) await handle.write(random.fill(bytes), 0, MiB, chunk * MiB);
    await handle.sync();
  } finally {
    await handle.close();
  }
}
