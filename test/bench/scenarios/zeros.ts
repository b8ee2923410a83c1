/** A volume of zeros: once zeros that are on the medium, once a hole. Against reading the device. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { contest, type Contestant } from "../contest.js";
import { formatSize } from "../report.js";
import { measuredOf, runCeiling, runDd, type Bench } from "./bench.js";

const READ_THREADS = [1, 4];

export async function zeros(bench: Bench): Promise<void> {
  for (const kind of ["written zeros", "a hole"] as const) await zerosOf(bench, kind);
}

async function zerosOf(bench: Bench, kind: "written zeros" | "a hole"): Promise<void> {
  const { place, report, rounds, sizes, blockmovers, ceiling } = bench;
  const volume = await place.sparseVolume("zeros", sizes.volume);
  if (kind === "written zeros") {
    // To the file, not to the device: a loop device may turn zeros into a hole.
    await promisify(execFile)("dd", [
      "if=/dev/zero",
      `of=${volume.backingFile}`,
      "bs=8M",
      `count=${sizes.volume / 2 ** 23}`,
      "conv=notrunc,fsync",
      "status=none",
    ]);
  }
  const readers: Contestant[] = [{ name: "dd, read only, 8 MiB", run: () => runDd(volume.path) }];
  if (ceiling !== undefined) {
    for (const threads of READ_THREADS) {
      readers.push({
        name: `native read, ${threads} threads`,
        run: () => runCeiling(ceiling, ["read", volume.path, "--threads", String(threads)]),
      });
    }
  }
  const movers = blockmovers.map((blockmover): Contestant => {
    const repository = place.path("repository");
    return {
      name: blockmover.name,
      warm: () => blockmover.run(["--version"]),
      prepare: () => blockmover.createRepository(repository),
      run: async () => measuredOf(await blockmover.backup(volume.path, repository)),
      clean: () => place.remove(repository),
    };
  });
  const standings = await contest({
    title: `Full backup of ${formatSize(sizes.volume)}, ${kind}`,
    place,
    report,
    rounds,
    bytes: sizes.volume,
    contestants: [...readers, ...movers],
  });
  const fastest = standings.best(readers.map(({ name }) => name)).times;
  report.target({
    name: `backup of ${kind}, transfer, of the device's read rate`,
    place: place.name,
    reached: standings.ratio(fastest, standings.times(blockmovers[0].name, "transferMs")),
    wanted: { atLeast: 0.8 },
    unit: "",
  });
  await place.removeVolume(volume);
}
