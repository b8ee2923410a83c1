/**
 * The real Kopia as the one to compare with: same hash, same encryption, chunks of 1 MiB, no compression.
 *
 * It does not read block devices. It gets the bytes in the two ways there are, as an image file in a directory and
 * through a pipe from dd; the faster one counts. It may use all cores and its parallel upload of large files. Its content
 * cache is off, because writing to it costs time here and cannot help; automatic maintenance is off as well.
 */
import { existsSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import path from "node:path";

import { Kopia, kopiaBinary, kopiaVersions } from "../support/kopia.js";
import { measure, type Sample } from "./measure.js";

/** The newest pinned Kopia that has been built, or the wanted one. */
export function findKopia(wanted?: string): string | undefined {
  return [...kopiaVersions].reverse().find((each) => (wanted ?? each) === each && existsSync(kopiaBinary(each)));
}

export class KopiaPeer {
  readonly version: string;
  readonly #directory: string;
  readonly #password: string;

  /** @param directory for configuration, cache and logs; emptied by `createRepository` and `connect` */
  constructor(options: { readonly version: string; readonly directory: string; readonly password: string }) {
    this.version = options.version;
    this.#directory = options.directory;
    this.#password = options.password;
  }

  async createRepository(repository: string): Promise<void> {
    await this.#setUp((kopia) =>
      kopia.createRepository({
        path: repository,
        hash: "BLAKE2B-256-128",
        encryption: "AES256-GCM-HMAC-SHA256",
        splitter: "FIXED-1M",
        extraArgs: ["--content-cache-size-mb=0"],
      }),
    );
  }

  /** Connects to a repository that another program made. */
  async connect(repository: string): Promise<void> {
    await this.#setUp((kopia) => kopia.connect({ path: repository, extraArgs: ["--content-cache-size-mb=0"] }));
  }

  /** Snapshots a directory. */
  snapshotDirectory(directory: string): Promise<Sample> {
    return this.#measure(["snapshot", "create", directory, "--json"]);
  }

  /** Snapshots what dd reads from a device, as one file. */
  snapshotDevice(device: string): Promise<Sample> {
    const reader = `dd if=${device} iflag=direct bs=8M status=none`;
    return this.#pipe(reader, "|", ["snapshot", "create", "/bench/volume", "--stdin-file=volume.img", "--json"]);
  }

  /** Restores a snapshot's directory to a new one; what it wrote is on disk when it ends. */
  restoreDirectory(root: string, target: string): Promise<Sample> {
    return this.#measure(["restore", root, target, "--flush-files"]);
  }

  /** Writes an object's bytes to a device through dd, and flushes. */
  restoreDevice(object: string, device: string): Promise<Sample> {
    const writer = `dd of=${device} iflag=fullblock oflag=direct bs=8M conv=fsync,nocreat status=none`;
    return this.#pipe(writer, "<", ["show", object]);
  }

  /** The object of the newest snapshot's directory. */
  async latestRoot(): Promise<string> {
    const snapshots = (await this.json(["snapshot", "list", "--all", "--json"])) as { rootEntry?: { obj?: string } }[];
    const root = snapshots.at(-1)?.rootEntry?.obj;
    if (root === undefined) throw new Error("kopia lists no snapshot");
    return root;
  }

  /** The object of the one file in a directory. */
  async onlyFileOf(root: string): Promise<string> {
    const { entries } = (await this.json(["show", root])) as { entries: { obj: string }[] };
    const [entry, ...others] = entries;
    if (entry === undefined || others.length > 0) throw new Error(`${root} has not just one file`);
    return entry.obj;
  }

  /** Runs a command whose output is JSON. */
  async json(args: readonly string[]): Promise<unknown> {
    return JSON.parse((await this.#measure(args)).stdout) as unknown;
  }

  async #setUp(start: (kopia: Kopia) => Promise<void>): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
    await mkdir(this.#directory, { recursive: true });
    await start(new Kopia({ version: this.version, directory: this.#directory, password: this.#password }));
  }

  #measure(args: readonly string[]): Promise<Sample> {
    return measure(kopiaBinary(this.version), this.#withGlobals(args), { env: this.#environment() });
  }

  /** Joins a shell command and Kopia: as Kopia's input, or as what reads its output. */
  #pipe(command: string, side: "|" | "<", args: readonly string[]): Promise<Sample> {
    const kopia = [kopiaBinary(this.version), ...this.#withGlobals(args)].join(" ");
    const line = side === "|" ? `${command} | ${kopia}` : `${kopia} | ${command}`;
    return measure("bash", ["-c", `set -o pipefail; ${line}`], { env: this.#environment() });
  }

  #withGlobals(args: readonly string[]): string[] {
    return [
      ...args,
      `--config-file=${path.join(this.#directory, "repository.config")}`,
      `--log-dir=${path.join(this.#directory, "logs")}`,
      "--no-progress",
      "--no-auto-maintenance",
    ];
  }

  #environment(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      HOME: this.#directory,
      XDG_CACHE_HOME: path.join(this.#directory, "home-cache"),
      KOPIA_PASSWORD: this.#password,
      KOPIA_CHECK_FOR_UPDATES: "false",
    };
  }
}
