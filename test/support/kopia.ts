/**
 * The real Kopia, pinned, as the judge of what we write.
 *
 * `make interop` builds the binaries (test/interop/kopia/VERSION/go.mod pins each with all it needs). Every instance has
 * its own configuration, cache and log directories below one directory, and touches nothing of the user's.
 */
import { existsSync, readdirSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";

import type { Context } from "mocha";

import { run, type RunOptions, type RunResult } from "./run.js";
import { skipBecause } from "./skip.js";

const root = path.resolve(import.meta.dirname, "../..");

/** One command takes seconds; some hang when a repository is damaged, and would outlive their test. */
const deadlineMs = 100_000;

/** The pinned versions, oldest first: the generation of Velero 1.18, then the newest. */
export const kopiaVersions: readonly string[] = readdirSync(path.join(root, "test/interop/kopia"), {
  withFileTypes: true,
})
  .filter((entry) => entry.isDirectory() && /^v\d/.test(entry.name))
  .map((entry) => entry.name)
  .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));

/** Where the binary of a version is, once built. */
export function kopiaBinary(version: string): string {
  return path.join(root, ".cache/kopia", `kopia-${version}`);
}

/** Skips the suite or test when the binary of `version` (default: any of them) has not been built. */
export function skipUnlessKopia(context: Context, version?: string): void {
  const wanted = version === undefined ? kopiaVersions : [version];
  if (!wanted.every((each) => existsSync(kopiaBinary(each)))) skipBecause(context, "kopia-not-built");
}

export interface KopiaOptions {
  /** One of `kopiaVersions`. */
  readonly version: string;
  /** A directory of this instance alone, made when missing. */
  readonly directory: string;
  readonly password: string;
}

export interface CreateRepositoryOptions {
  /** The repository's directory. */
  readonly path: string;
  readonly hash?: string;
  readonly encryption?: string;
  readonly splitter?: string;
  /** Further flags, such as `--format-version=2`. */
  readonly extraArgs?: readonly string[];
}

export interface ConnectOptions {
  readonly path: string;
  /** Identity for snapshots, as Velero overrides it. */
  readonly hostname?: string;
  readonly username?: string;
  readonly extraArgs?: readonly string[];
}

/**
 * One Kopia client.
 *
 * @example
 * const kopia = new Kopia({ version, directory: temp.file("kopia"), password: "secret" });
 * await kopia.createRepository({ path: temp.file("repository"), splitter: "FIXED-1M" });
 * const snapshots = await kopia.runJson(["snapshot", "list", "--all", "--json"]);
 */
export class Kopia {
  constructor(private readonly options: KopiaOptions) {}

  /** Creates a repository in a directory and connects to it. */
  async createRepository(options: CreateRepositoryOptions): Promise<void> {
    await mkdir(options.path, { recursive: true });
    const args = ["repository", "create", "filesystem", `--path=${options.path}`];
    if (options.hash !== undefined) args.push(`--block-hash=${options.hash}`);
    if (options.encryption !== undefined) args.push(`--encryption=${options.encryption}`);
    if (options.splitter !== undefined) args.push(`--object-splitter=${options.splitter}`);
    await this.runOrThrow([...args, ...this.cacheArgs(), ...(options.extraArgs ?? [])]);
  }

  /** Connects to an existing repository. */
  async connect(options: ConnectOptions): Promise<void> {
    const args = ["repository", "connect", "filesystem", `--path=${options.path}`];
    if (options.hostname !== undefined) args.push(`--override-hostname=${options.hostname}`);
    if (options.username !== undefined) args.push(`--override-username=${options.username}`);
    await this.runOrThrow([...args, ...this.cacheArgs(), ...(options.extraArgs ?? [])]);
  }

  /** Runs `kopia ARGS…`; any exit status is a result. */
  async run(args: readonly string[], options: Pick<RunOptions, "env" | "stdin"> = {}): Promise<RunResult> {
    const { version, directory, password } = this.options;
    await mkdir(directory, { recursive: true });
    const global = [
      `--config-file=${path.join(directory, "repository.config")}`,
      `--log-dir=${path.join(directory, "logs")}`,
      "--no-progress",
    ];
    const env = {
      ...process.env,
      HOME: directory,
      XDG_CACHE_HOME: path.join(directory, "home-cache"),
      KOPIA_PASSWORD: password,
      KOPIA_CHECK_FOR_UPDATES: "false",
      ...options.env,
    };
    return run(kopiaBinary(version), [...args, ...global], { ...options, env, deadlineMs });
  }

  /** As `run`, but returns standard output. @throws Error with what Kopia wrote, unless it exits with 0 */
  async runOrThrow(args: readonly string[], options: Pick<RunOptions, "env" | "stdin"> = {}): Promise<string> {
    const result = await this.run(args, options);
    if (result.code !== 0) {
      throw new Error(`kopia ${this.options.version} ${args.join(" ")}: exit ${result.code}: ${result.stderr.trim()}`);
    }
    return result.stdout;
  }

  /** As `runOrThrow`, for commands with `--json`. */
  async runJson(args: readonly string[]): Promise<unknown> {
    return JSON.parse(await this.runOrThrow(args)) as unknown;
  }

  private cacheArgs(): string[] {
    return [`--cache-directory=${path.join(this.options.directory, "cache")}`, "--no-check-for-updates"];
  }
}
