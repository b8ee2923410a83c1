/**
 * The command line `blockmover`: its commands, their options and their help.
 */
import { Command, CommanderError, Option } from "commander";
import { addAgentCommand, addDataMoverCommand } from "./agent-command.js";
import { addBackupCommand } from "./backup-command.js";
import { addRepositoryCommands } from "./repository-commands.js";
import { addRestoreCommand } from "./restore-command.js";
import { newOutput } from "./output.js";
import { EXIT_DONE, EXIT_USAGE, UsageError } from "./run-command.js";
import { addSnapshotCommands } from "./snapshot-commands.js";
import { addTransferCommands } from "./transfer-commands.js";

/** What `--version` prints; kept equal to package.json by a test. */
export const VERSION = "0.1.0";

/** Reports the exit status of the command that ran. */
export type ReportStatus = (status: number) => void;

/** Parses and runs the arguments after the program's name; resolves with the exit status. */
export async function main(args: readonly string[]): Promise<number> {
  let status = EXIT_DONE;
  const program = newProgram((reported) => {
    status = reported;
  });
  try {
    await program.parseAsync(args, { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) {
      // Help and version are no failure; every other complaint of the parser is about usage.
      if (error.exitCode === 0) {
        return EXIT_DONE;
      }
      if (args.includes("--json")) {
        newOutput({ json: true }).error(new UsageError(error.message.replace(/^error: /, "")));
      }
      return EXIT_USAGE;
    }
    throw error;
  }
  return status;
}

function newProgram(report: ReportStatus): Command {
  const program = new Command("blockmover")
    .description(
      "Backs up block devices and volume images into a Kopia repository, block by block, and puts them back exactly.",
    )
    .version(VERSION)
    .exitOverride()
    .showHelpAfterError("(add --help for the options)")
    .addHelpText(
      "after",
      `
Exit status: 0 done, 1 failed, 2 usage, 130 cancelled.

Examples:
  $ export BLOCKMOVER_PASSWORD=…
  $ blockmover repository create --repo /srv/backup
  $ blockmover backup /dev/vg0/db-snap --repo /srv/backup --source shop/database
  $ blockmover snapshot list --repo /srv/backup
  $ blockmover restore 5f0c21 /dev/vg0/db-new --repo /srv/backup`,
    );
  addRepositoryCommands(program, report);
  addBackupCommand(program, report);
  addRestoreCommand(program, report);
  addSnapshotCommands(program, report);
  addTransferCommands(program, report);
  addAgentCommand(program, report);
  addDataMoverCommand(program, report);
  for (const command of allCommands(program)) {
    command.exitOverride();
  }
  return program;
}

function* allCommands(command: Command): Generator<Command> {
  for (const child of command.commands) {
    yield child;
    yield* allCommands(child);
  }
}

/** Options of every command that works on a repository. */
export interface RepositoryOptions {
  readonly repo: string;
  readonly passwordFile?: string;
  readonly json: boolean;
}

/** Adds `--agent` and `--transfer-id`. */
export function withAgentOptions(command: Command): Command {
  return command
    .option(
      "--agent <address>",
      "let an agent do it: unix:/path, or http://host:port in plain text; paths are then its",
    )
    .option("--transfer-id <id>", "with --agent: name of the transfer; asking again with it starts nothing twice");
}

/** Options of commands that an agent can do. */
export interface AgentOptions {
  readonly agent?: string;
  readonly transferId?: string;
}

/** Adds `--repo`, `--password-file` and `--json`. */
export function withRepositoryOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--repo <url>", "the repository: a directory, or file:///path")
        .env("BLOCKMOVER_REPO")
        .makeOptionMandatory(),
    )
    .option("--password-file <file>", "file with the repository's password (default: $BLOCKMOVER_PASSWORD)")
    .option("--json", "print JSON lines, the last of type result or error", false);
}
