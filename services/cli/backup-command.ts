/** `blockmover backup DEVICE|IMAGE`. */
import { hostname } from "node:os";
import { posix, resolve } from "node:path";
import { type Command, Option } from "commander";
import { readChangedRanges } from "../datapath/cbt/changed-ranges.js";
import { type BackupRequest, runBackup } from "../datapath/data-mover.js";
import { sourcePath, volumeSource, REQUESTER, UPLOADER } from "../datapath/repository/kopia/velero-block-layout.js";
import { writableCompressionNames } from "../datapath/repository/kopia/compression.js";
import type { SnapshotSource } from "../datapath/repository/repository.js";
import type { BackupResult } from "../datapath/uploader/backup.js";
import type { ParentWish } from "../datapath/uploader/parent.js";
import {
  type AgentOptions,
  type ReportStatus,
  type RepositoryOptions,
  withAgentOptions,
  withRepositoryOptions,
} from "./main.js";
import { formatBytes, formatDuration, type Output } from "./output.js";
import { readPassword } from "./password.js";
import { runCommand, UsageError } from "./run-command.js";

interface BackupCommandOptions extends RepositoryOptions, AgentOptions {
  readonly full?: boolean;
  readonly parent: string;
  readonly source?: string;
  readonly compression: string;
  readonly changedRanges?: string;
  readonly changeId?: string;
  readonly baseChangeId?: string;
  readonly volumeId?: string;
  readonly description: string;
}

export function addBackupCommand(program: Command, report: ReportStatus): void {
  const command = withRepositoryOptions(
    program
      .command("backup")
      .description("back up a block device or volume image")
      .argument(
        "<device>",
        "block device or image file; it should not change meanwhile: give a snapshot of the volume",
      ),
  );
  withAgentOptions(command)
    .option("--source <namespace/name>", "what the volume is called in the repository (default: host and device path)")
    .option("--description <text>", "free text kept with the snapshot", "Block Uploader")
    .addOption(
      new Option("--compression <name>", "compress data").choices([...writableCompressionNames]).default("none"),
    )
    .option("--full", "read and write everything, whatever changed")
    .option("--parent <snapshot>", "auto, none, or the id of the snapshot to base an increment on", "auto")
    .option(
      "--changed-ranges <file>",
      'what changed since --base-change-id: JSON lines {"offset":N,"length":N} in bytes; - reads standard input',
    )
    .option("--base-change-id <id>", "change id that the changed ranges are relative to; the parent must have it")
    .option("--change-id <id>", "change id of this state of the volume, for the next increment")
    .option("--volume-id <id>", "the storage's id of the volume; the parent must have the same")
    .addHelpText(
      "after",
      `
Increments read only what changed. Any tool that lists changed extents can tell:

  $ rbd diff --from-snap s1 pool/db@s2 --format json |
      jq -c '.[] | {offset: (.offset|tonumber), length: (.length|tonumber)}' |
      blockmover backup /dev/rbd0 --repo /srv/backup --source shop/db \\
        --changed-ranges - --base-change-id s1 --change-id s2 --volume-id pool/db

The parent is the newest snapshot of the same source; if its change id is not s1, or its volume id another, a full
backup is made instead and the result says why. The ranges are trusted: what they do not name is not read.`,
    )
    .action(async (device: string, options: BackupCommandOptions) => {
      report(
        await runCommand(
          options,
          async (output, signal) => {
            checkOptions(options);
            const devicePath = resolve(device);
            const password = await readPassword(options.passwordFile);
            const request: BackupRequest = {
              repository: { url: options.repo, password },
              devicePath,
              source: sourceOf(options.source, devicePath),
              description: options.description,
              parent: parentOf(options),
              changes:
                options.changedRanges === undefined || options.baseChangeId === undefined
                  ? undefined
                  : rangesOf(options.changedRanges, options.baseChangeId),
              volumeId: options.volumeId,
              changeTracking:
                options.changeId === undefined || options.volumeId === undefined
                  ? undefined
                  : { changeId: options.changeId, volumeId: options.volumeId },
              compression: options.compression,
            };
            const { agent, transferId } = options;
            let result: BackupResult;
            if (agent !== undefined) {
              const { runBackupOnAgent } = await import("./transfer-on-agent.js");
              result = await runBackupOnAgent({ agent, transferId }, request, output, signal);
            } else {
              result = await runBackupHere(request, output, signal);
            }
            if (result.fallbackReason !== undefined) {
              output.warn(`a full backup was made, because ${result.fallbackReason}`);
            }
            // `type` is what kind of line it is.
            const { type: backupType, ...rest } = result;
            output.result({ backupType, ...rest }, describeBackup(result));
          },
          "no snapshot was made",
        ),
      );
    });
}

async function runBackupHere(request: BackupRequest, output: Output, signal: AbortSignal): Promise<BackupResult> {
  let stopProgress = (): void => undefined;
  try {
    return await runBackup(
      request,
      {
        onBackupStart: (progress, type) => {
          stopProgress = output.showProgress(`${type} backup`, () => progress.snapshot());
        },
        onWarning: (message) => output.warn(message),
      },
      signal,
    );
  } finally {
    stopProgress();
  }
}

function rangesOf(
  path: string,
  baseChangeId: string,
): { baseChangeId: string; ranges: (signal?: AbortSignal) => ReturnType<typeof readChangedRanges> } {
  return { baseChangeId, ranges: (signal) => readChangedRanges(path, signal) };
}

function checkOptions(options: BackupCommandOptions): void {
  if (options.changedRanges !== undefined && options.baseChangeId === undefined) {
    throw new UsageError("--changed-ranges needs --base-change-id: what the changes are relative to");
  }
  if (options.changedRanges !== undefined && options.volumeId === undefined) {
    throw new UsageError("--changed-ranges needs --volume-id, so that another volume's snapshot is never the parent");
  }
  if (options.baseChangeId !== undefined && options.changedRanges === undefined) {
    throw new UsageError("--base-change-id needs --changed-ranges");
  }
  if (options.changeId !== undefined && options.volumeId === undefined) {
    throw new UsageError("--change-id needs --volume-id");
  }
  if (options.transferId !== undefined && options.agent === undefined) {
    throw new UsageError("--transfer-id needs --agent");
  }
  if (options.full === true && options.parent !== "auto" && options.parent !== "none") {
    throw new UsageError("--full and --parent exclude each other");
  }
  for (const name of ["changeId", "baseChangeId", "volumeId"] as const) {
    if (options[name] === "") {
      throw new UsageError(`--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} is empty`);
    }
  }
}

function parentOf(options: BackupCommandOptions): ParentWish {
  if (options.full === true || options.parent === "none") {
    return { kind: "none" };
  }
  return options.parent === "auto" ? { kind: "auto" } : { kind: "snapshot", id: options.parent };
}

/** The snapshot's source: `NAMESPACE/NAME`, or by default this host and the device's path. */
function sourceOf(source: string | undefined, devicePath: string): SnapshotSource {
  if (source === undefined) {
    return volumeSource(posix.normalize(`${REQUESTER}/${UPLOADER}/${hostname()}/${devicePath}`));
  }
  const parts = source.split("/");
  const [namespace, name] = parts;
  if (parts.length !== 2 || !namespace || !name) {
    throw new UsageError(`--source ${source}: expected NAMESPACE/NAME`);
  }
  return volumeSource(sourcePath(namespace, name));
}

function describeBackup(result: BackupResult): string {
  const rate = result.durationMs > 0 ? (result.incrementalBytes * 1000) / result.durationMs : 0;
  const ofVolume = result.type === "full" ? "" : ` of ${formatBytes(result.volumeSizeBytes)}`;
  return (
    `Snapshot ${result.snapshotId} (${result.type}` +
    (result.parentSnapshotId === undefined ? ")\n" : `, parent ${result.parentSnapshotId})\n`) +
    `  read     ${formatBytes(result.incrementalBytes)}${ofVolume} in ${formatDuration(result.durationMs)}, ` +
    `${formatBytes(rate)}/s\n` +
    `  zero     ${formatBytes(result.zeroBytes)}\n` +
    `  new      ${formatBytes(result.newContentBytes)}\n` +
    `  stored   ${formatBytes(result.uploadedBytes)}\n`
  );
}
