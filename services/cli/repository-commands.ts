/** `blockmover repository create|status`. */
import { type Command, InvalidArgumentError } from "commander";
import { createKopiaRepository } from "../datapath/repository/kopia/create-repository.js";
import { openRepository } from "../datapath/data-mover.js";
import { openStorage } from "../datapath/repository/storage/storage-url.js";
import { type ReportStatus, type RepositoryOptions, withRepositoryOptions } from "./main.js";
import { formatBytes, formatTable } from "./output.js";
import { readPassword } from "./password.js";
import { runCommand } from "./run-command.js";

interface CreateOptions extends RepositoryOptions {
  readonly hash?: string;
  readonly encryption?: string;
  readonly splitter?: string;
  readonly keyDerivation?: string;
  readonly maxPackSizeMib?: number;
  readonly owner?: string;
}

export function addRepositoryCommands(program: Command, report: ReportStatus): void {
  const repository = program.command("repository").description("make a repository, or look at one");
  withRepositoryOptions(repository.command("create").description("make a repository in an empty place"))
    .option("--hash <name>", "hash that names contents (default: BLAKE2B-256-128)")
    .option("--encryption <name>", "encryption (default: AES256-GCM-HMAC-SHA256)")
    .option(
      "--splitter <name>",
      "splitter for other clients' files; volumes are always in chunks of 1 MiB (default: DYNAMIC-4M-BUZHASH)",
    )
    .option("--key-derivation <name>", "scrypt-65536-8-1 (default) or pbkdf2-sha256-600000")
    .option("--max-pack-size-mib <n>", "size of a full pack, 10 to 120 (default: 20)", parseWholeNumber)
    .option("--owner <user@host>", "who runs maintenance with Kopia (default: default@default, as Velero)")
    .action(async (options: CreateOptions) => {
      report(
        await runCommand(options, async (output, signal) => {
          const password = await readPassword(options.passwordFile);
          const storage = await openStorage(options.repo, { create: true });
          try {
            await createKopiaRepository({
              storage,
              password,
              format: {
                hash: options.hash,
                encryption: options.encryption,
                splitter: options.splitter,
                keyAlgo: options.keyDerivation,
                maxPackSizeBytes:
                  options.maxPackSizeMib === undefined ? undefined : options.maxPackSizeMib * 1024 * 1024,
              },
              maintenanceOwner: options.owner,
              signal,
            });
            output.result(
              { repository: storage.description },
              `Made a repository in ${storage.description}.\n` +
                "Keep the password: without it nobody can read what is in there.\n",
            );
          } finally {
            await storage.close();
          }
        }),
      );
    });
  withRepositoryOptions(
    repository.command("status").description("show a repository's format and what is in it"),
  ).action(async (options: RepositoryOptions) => {
    report(
      await runCommand(options, async (output, signal) => {
        const password = await readPassword(options.passwordFile);
        const opened = await openRepository(
          { url: options.repo, password },
          { onWarning: (text) => output.warn(text), signal },
        );
        try {
          const { format } = opened;
          const snapshots = await opened.listSnapshots({}, signal);
          const volumes = snapshots.filter((snapshot) => snapshot.isVolume).length;
          const [maintenance] = await opened.findManifests({ type: "maintenance" }, signal);
          const owner = ownerOf(maintenance?.data);
          const status = {
            repository: opened.description,
            formatVersion: format.version,
            hash: format.hash,
            encryption: format.encryption,
            splitter: format.splitter,
            keyDerivation: format.keyAlgo,
            maxPackSizeBytes: format.maxPackSizeBytes,
            contentCount: opened.contentCount,
            snapshotCount: snapshots.length,
            volumeSnapshotCount: volumes,
            maintenanceOwner: owner,
          };
          output.result(
            status,
            formatTable([
              ["Repository", status.repository],
              ["Format version", String(format.version)],
              ["Hash", format.hash],
              ["Encryption", format.encryption],
              ["Splitter", format.splitter],
              ["Key derivation", format.keyAlgo],
              ["Pack size", formatBytes(format.maxPackSizeBytes)],
              ["Index entries", String(status.contentCount)],
              ["Snapshots", `${snapshots.length}, ${volumes} of them volumes`],
              ["Maintenance owner", owner ?? "nobody: set one with `kopia maintenance set --owner`"],
            ]),
          );
        } finally {
          await opened.close();
        }
      }),
    );
  });
}

function ownerOf(data: unknown): string | undefined {
  const owner = (data as { owner?: unknown } | undefined)?.owner;
  return typeof owner === "string" && owner !== "" ? owner : undefined;
}

function parseWholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) {
    throw new InvalidArgumentError("not a whole number");
  }
  return Number(text);
}
