/** `blockmover restore SNAPSHOT DEVICE|IMAGE`. */
import { resolve } from "node:path";
import type { Command } from "commander";
import { type RestoreRequest, runRestore } from "../datapath/data-mover.js";
import type { RestoreResult } from "../datapath/uploader/restore.js";
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

interface RestoreCommandOptions extends RepositoryOptions, AgentOptions {
  readonly force: boolean;
}

export function addRestoreCommand(program: Command, report: ReportStatus): void {
  const command = withRepositoryOptions(
    program
      .command("restore")
      .description("write a snapshot to a block device or image file")
      .argument("<snapshot>", "id of the snapshot, or at least its first 6 digits")
      .argument("<target>", "block device, or image file; a file that does not exist is made"),
  );
  withAgentOptions(command)
    .option("--force", "overwrite an image file that is not empty", false)
    .addHelpText(
      "after",
      `
The target must be at least as large as the volume and not in use. Everything on it, up to the volume's size, is
replaced; ranges of zeros are punched out, so that a thin target stays thin.`,
    )
    .action(async (snapshot: string, target: string, options: RestoreCommandOptions) => {
      report(
        await runCommand(
          options,
          async (output, signal) => {
            const password = await readPassword(options.passwordFile);
            const request: RestoreRequest = {
              repository: { url: options.repo, password },
              snapshotId: snapshot,
              targetPath: resolve(target),
              force: options.force,
            };
            const { agent, transferId } = options;
            if (transferId !== undefined && agent === undefined) {
              throw new UsageError("--transfer-id needs --agent");
            }
            let result: RestoreResult;
            if (agent !== undefined) {
              const { runRestoreOnAgent } = await import("./transfer-on-agent.js");
              result = await runRestoreOnAgent({ agent, transferId }, request, output, signal);
            } else {
              result = await runRestoreHere(request, output, signal);
            }
            const rate = result.durationMs > 0 ? (result.volumeSizeBytes * 1000) / result.durationMs : 0;
            output.result(
              { ...result },
              `Restored ${formatBytes(result.volumeSizeBytes)} to ${target} in ${formatDuration(result.durationMs)}, ` +
                `${formatBytes(rate)}/s\n` +
                `  written  ${formatBytes(result.writtenBytes)}\n` +
                `  zeroed   ${formatBytes(result.zeroedBytes + result.skippedBytes)}\n`,
            );
          },
          "the target holds only a part of the volume; a file that was made for it has been removed",
        ),
      );
    });
}

async function runRestoreHere(request: RestoreRequest, output: Output, signal: AbortSignal): Promise<RestoreResult> {
  let stopProgress = (): void => undefined;
  try {
    return await runRestore(
      request,
      {
        onRestoreStart: (progress) => {
          stopProgress = output.showProgress("restore", () => progress.snapshot());
        },
        onWarning: (message) => output.warn(message),
      },
      signal,
    );
  } finally {
    stopProgress();
  }
}
