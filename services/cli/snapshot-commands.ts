/** `blockmover snapshot list|show|verify|delete`. */
import { type Command, InvalidArgumentError } from "commander";
import { BlockmoverError } from "../common/errors.js";
import { openRepository } from "../datapath/data-mover.js";
import type { KopiaRepository } from "../datapath/repository/kopia/kopia-repository.js";
import type { VolumeSnapshot } from "../datapath/repository/repository.js";
import { verifySnapshot } from "../datapath/uploader/verify.js";
import { type ReportStatus, type RepositoryOptions, withRepositoryOptions } from "./main.js";
import { formatBytes, formatTable, type JsonObject, type Output } from "./output.js";
import { readPassword } from "./password.js";
import { runCommand } from "./run-command.js";

export function addSnapshotCommands(program: Command, report: ReportStatus): void {
  const snapshot = program.command("snapshot").description("list, check and delete snapshots");
  const withRepository = (
    options: RepositoryOptions,
    action: (repository: KopiaRepository, output: Output, signal: AbortSignal) => Promise<void>,
  ): Promise<void> =>
    runCommand(options, async (output, signal) => {
      const password = await readPassword(options.passwordFile);
      const repository = await openRepository(
        { url: options.repo, password },
        { onWarning: (message) => output.warn(message), signal },
      );
      try {
        await action(repository, output, signal);
      } finally {
        await repository.close();
      }
    }).then(report);

  withRepositoryOptions(snapshot.command("list").description("list snapshots of volumes, oldest first"))
    .option("--source <text>", "only sources whose path contains this")
    .option("--all", "also snapshots of files, made by Kopia or Velero", false)
    .action(async (options: RepositoryOptions & { readonly source?: string; readonly all: boolean }) =>
      withRepository(options, async (repository, output, signal) => {
        const snapshots = (await repository.listSnapshots({}, signal))
          .filter((item) => options.all || item.isVolume)
          .filter((item) => options.source === undefined || item.source.path.includes(options.source));
        output.result({ snapshots: snapshots.map(toJson) }, listText(snapshots));
      }),
    );

  withRepositoryOptions(
    snapshot.command("show").description("show one snapshot").argument("<snapshot>", "its id"),
  ).action(async (id: string, options: RepositoryOptions) =>
    withRepository(options, async (repository, output, signal) => {
      const found = await repository.getSnapshot(id, signal);
      const objectId = await repository.volumeObjectId(found, signal);
      const statistics = await objectStatistics(repository, objectId, signal);
      output.result({ ...toJson(found), objectId, ...statistics }, showText(found, objectId, statistics));
    }),
  );

  withRepositoryOptions(
    snapshot
      .command("verify")
      .description("read and check every content of snapshots")
      .argument("[snapshots...]", "their ids (default: all snapshots of volumes)"),
  )
    .option("--sample <percent>", "check only a random share of the chunks", parsePercent, 100)
    .action(async (ids: string[], options: RepositoryOptions & { readonly sample: number }) =>
      withRepository(options, async (repository, output, signal) => {
        const snapshots =
          ids.length > 0
            ? await Promise.all(ids.map((id) => repository.getSnapshot(id, signal)))
            : (await repository.listSnapshots({}, signal)).filter((item) => item.isVolume);
        await verifyAll({ repository, snapshots, samplePercent: options.sample, output, signal });
      }),
    );

  withRepositoryOptions(
    snapshot
      .command("delete")
      .description("delete snapshots; Kopia's maintenance frees what nobody refers to any more")
      .argument("<snapshots...>", "their ids"),
  ).action(async (ids: string[], options: RepositoryOptions) =>
    withRepository(options, async (repository, output, signal) => {
      // All are looked up before any is deleted: a misspelt id deletes nothing.
      const snapshots = await Promise.all(ids.map((id) => repository.getSnapshot(id, signal)));
      for (const { id } of snapshots) {
        await repository.deleteSnapshot(id, signal);
      }
      const deleted = snapshots.map(({ id }) => id);
      output.result({ deleted }, deleted.map((id) => `Deleted snapshot ${id}\n`).join(""));
    }),
  );
}

async function verifyAll(options: {
  readonly repository: KopiaRepository;
  readonly snapshots: readonly VolumeSnapshot[];
  readonly samplePercent: number;
  readonly output: Output;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { repository, snapshots, samplePercent, output, signal } = options;
  const reports: JsonObject[] = [];
  const lines: string[] = [];
  let problemCount = 0;
  for (const snapshot of snapshots) {
    let stopProgress = (): void => undefined;
    try {
      const verified = await verifySnapshot({
        repository,
        snapshot,
        samplePercent,
        random: Math.random,
        signal,
        onStart: (progress) => {
          stopProgress = output.showProgress(`verify ${snapshot.id.slice(0, 8)}`, () => progress.snapshot());
        },
      });
      stopProgress();
      reports.push({ ...verified });
      problemCount += verified.problemCount;
      lines.push(
        `${snapshot.id}  ${verified.problemCount === 0 ? "whole" : "DAMAGED"}  ` +
          `${formatBytes(verified.verifiedBytes)} read of ${verified.entryCount} chunks`,
        ...verified.problems.map((problem) => `  ${problem}`),
      );
    } finally {
      stopProgress();
    }
  }
  const text = lines.map((line) => `${line}\n`).join("");
  if (problemCount > 0) {
    const damaged = reports.filter((item) => item["problemCount"] !== 0).map((item) => String(item["snapshotId"]));
    for (const line of lines) {
      output.warn(line);
    }
    throw new BlockmoverError("DATA_LOSS", `${problemCount} problems in snapshots ${damaged.join(", ")}`, {
      hint: "These snapshots cannot be restored as a whole; keep older ones, and find out what damaged the store.",
    });
  }
  output.result({ snapshots: reports, problemCount }, text || "There are no snapshots of volumes.\n");
}

interface ObjectStatistics {
  readonly chunkCount: number;
  readonly zeroChunkCount: number;
}

async function objectStatistics(
  repository: KopiaRepository,
  objectId: string,
  signal: AbortSignal,
): Promise<ObjectStatistics> {
  let chunkCount = 0;
  let zeroChunkCount = 0;
  const object = await repository.openObject(objectId);
  for await (const batch of object.entries(signal)) {
    chunkCount += batch.length;
    zeroChunkCount += batch.filter((entry) => entry.isZero).length;
  }
  return { chunkCount, zeroChunkCount };
}

function toJson(snapshot: VolumeSnapshot): JsonObject {
  return {
    snapshotId: snapshot.id,
    source: snapshot.source,
    description: snapshot.description,
    startTime: snapshot.startTime,
    endTime: snapshot.endTime,
    volumeSizeBytes: snapshot.volumeSizeBytes,
    isVolume: snapshot.isVolume,
    changeId: snapshot.changeTracking?.changeId,
    volumeId: snapshot.changeTracking?.volumeId,
    incomplete: snapshot.incomplete,
    pins: snapshot.pins,
    tags: snapshot.tags,
  };
}

function listText(snapshots: readonly VolumeSnapshot[]): string {
  if (snapshots.length === 0) {
    return "There are no snapshots.\n";
  }
  return formatTable([
    ["SNAPSHOT", "TIME", "SIZE", "CHANGE ID", "SOURCE"],
    ...snapshots.map((snapshot) => [
      snapshot.id,
      snapshot.startTime.slice(0, 19) + "Z",
      formatBytes(snapshot.volumeSizeBytes),
      snapshot.changeTracking?.changeId ?? "-",
      snapshot.source.path + (snapshot.incomplete === undefined ? "" : ` (incomplete: ${snapshot.incomplete})`),
    ]),
  ]);
}

function showText(snapshot: VolumeSnapshot, objectId: string, statistics: ObjectStatistics): string {
  const { source, changeTracking } = snapshot;
  return formatTable([
    ["Snapshot", snapshot.id],
    ["Source", `${source.userName}@${source.host}:${source.path}`],
    ["Description", snapshot.description],
    ["Started", snapshot.startTime],
    ["Ended", snapshot.endTime],
    ["Volume size", `${formatBytes(snapshot.volumeSizeBytes)} (${snapshot.volumeSizeBytes} bytes)`],
    ["Change id", changeTracking?.changeId ?? "none: nothing can be based on it"],
    ["Volume id", changeTracking?.volumeId ?? "none"],
    ["Pins", snapshot.pins.join(", ") || "none: a retention policy of Kopia may delete it"],
    ["Object", objectId],
    ["Chunks", `${statistics.chunkCount}, ${statistics.zeroChunkCount} of them zero`],
  ]);
}

function parsePercent(text: string): number {
  const percent = Number(text);
  if (!(percent > 0 && percent <= 100)) {
    throw new InvalidArgumentError("a share is more than 0 and at most 100");
  }
  return percent;
}
