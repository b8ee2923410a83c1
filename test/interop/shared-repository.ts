/**
 * One repository that both programs use: ours through its command line, Kopia through its own.
 *
 * Every Kopia client is a fresh one, with a configuration and a cache of its own: what it sees, it has read from the
 * repository. Its identity is Velero's, which is also who owns the maintenance of a repository that we make.
 */
import { cp, mkdir } from "node:fs/promises";
import path from "node:path";

import { openRepository } from "../../services/datapath/data-mover.js";
import type { KopiaRepository } from "../../services/datapath/repository/kopia/kopia-repository.js";
import { blobPath, newRepositoryShards } from "../../services/datapath/repository/storage/filesystem-layout.js";
import { openStorage } from "../../services/datapath/repository/storage/storage-url.js";
import { runCli, type CliResult, type JsonLine } from "../support/cli.js";
import { Kopia, type CreateRepositoryOptions } from "../support/kopia.js";

/** In every test, so that no key is ever derived from ASCII alone. */
export const defaultPassword = "pässwörd ☃ 密码";

const identity = { hostname: "default", username: "default" } as const;

export interface SharedRepositoryOptions {
  /** Kopia's. */
  readonly version: string;
  /** A directory for the repository and for whatever else a test makes beside it. */
  readonly scratch: string;
  /** The repository's directory. Default: `repository` in `scratch`. */
  readonly path?: string;
  readonly password?: string;
}

export interface KopiaIdentity {
  readonly hostname?: string;
  readonly username?: string;
}

/** What a backup said at its end, as far as tests look at it. */
export interface BackupReport {
  readonly snapshotId: string;
  readonly objectId: string;
  readonly backupType: "full" | "incremental";
  readonly fallbackReason?: string;
  readonly parentSnapshotId?: string;
  readonly volumeSizeBytes: number;
  readonly totalBytes: number;
  readonly incrementalBytes: number;
  readonly newContentBytes: number;
  readonly zeroBytes: number;
}

/** A snapshot as `blockmover snapshot list --json` shows it. */
export interface ListedSnapshot {
  readonly snapshotId: string;
  readonly volumeSizeBytes: number;
  readonly isVolume: boolean;
  readonly source: { readonly userName: string; readonly host: string; readonly path: string };
}

/** A content as `kopia content list --json` shows it. */
export interface ListedContent {
  readonly contentID: string;
  readonly packFile: string;
  readonly length: number;
  readonly originalLength: number;
  readonly deleted: boolean;
  /** Kopia's number of the compressor, absent for none. */
  readonly compression?: number;
}

let names = 0;

export class SharedRepository {
  readonly path: string;
  readonly password: string;
  readonly version: string;
  private readonly scratch: string;

  constructor(options: SharedRepositoryOptions) {
    this.version = options.version;
    this.scratch = options.scratch;
    this.path = options.path ?? path.join(options.scratch, "repository");
    this.password = options.password ?? defaultPassword;
  }

  /** A path beside the repository that nothing has yet. */
  newPath(what: string): string {
    return path.join(this.scratch, `${what}-${++names}`);
  }

  /** Lets our command line make the repository. */
  async createByUs(args: readonly string[] = []): Promise<void> {
    await this.blockmover(["repository", "create", ...args]);
  }

  /** Lets Kopia make the repository, in the identity that the other clients have too. */
  async createByKopia(options: Omit<CreateRepositoryOptions, "path"> = {}): Promise<Kopia> {
    const kopia = this.disconnectedKopia();
    const extraArgs = [`--override-hostname=${identity.hostname}`, `--override-username=${identity.username}`];
    await kopia.createRepository({
      ...options,
      path: this.path,
      extraArgs: [...extraArgs, ...(options.extraArgs ?? [])],
    });
    return kopia;
  }

  /** A new Kopia client with nothing cached, connected. */
  async kopia(as: KopiaIdentity = {}): Promise<Kopia> {
    const kopia = this.disconnectedKopia();
    await kopia.connect({ path: this.path, ...identity, ...as });
    return kopia;
  }

  /** A new Kopia client that has yet to connect. */
  disconnectedKopia(): Kopia {
    return new Kopia({ version: this.version, directory: this.newPath("kopia"), password: this.password });
  }

  /** Runs `blockmover ARGS… --json` and returns its result. @throws Error unless it succeeds */
  async blockmover(args: readonly string[], stdin?: string): Promise<JsonLine> {
    const result = await runCli([...args, "--json"], { env: this.env, stdin });
    if (result.code !== 0) {
      throw new Error(`blockmover ${args.join(" ")}: exit ${result.code}: ${result.stdout}${result.stderr}`);
    }
    return result.jsonResult();
  }

  /** Runs `blockmover ARGS…` to whatever end. */
  tryBlockmover(args: readonly string[]): Promise<CliResult> {
    return runCli(args, { env: this.env });
  }

  async backUp(image: string, args: readonly string[], stdin?: string): Promise<BackupReport> {
    return (await this.blockmover(["backup", image, ...args], stdin)) as unknown as BackupReport;
  }

  async listByUs(args: readonly string[] = []): Promise<readonly ListedSnapshot[]> {
    return (await this.blockmover(["snapshot", "list", ...args])).snapshots as readonly ListedSnapshot[];
  }

  /** Opens the repository in this process; the caller closes it. */
  open(onWarning?: (message: string) => void): Promise<KopiaRepository> {
    return openRepository({ url: this.path, password: this.password }, { onWarning });
  }

  /** The same, for as long as `use` runs. */
  async withOpen<T>(use: (repository: KopiaRepository) => Promise<T>): Promise<T> {
    const repository = await this.open();
    try {
      return await use(repository);
    } finally {
      await repository.close();
    }
  }

  /** A copy of the repository as it stands, to be treated badly. */
  async copy(): Promise<SharedRepository> {
    const target = this.newPath("repository");
    await cp(this.path, target, { recursive: true, preserveTimestamps: true });
    const { version, scratch, password } = this;
    return new SharedRepository({ version, scratch, password, path: target });
  }

  /** Names of the blobs with a prefix. */
  async blobs(prefix: string): Promise<string[]> {
    const storage = await openStorage(this.path);
    try {
      const found: string[] = [];
      for await (const { id } of storage.list(prefix)) found.push(id);
      return found.sort();
    } finally {
      await storage.close();
    }
  }

  /** The file that holds a blob, in a repository of Kopia's present layout. */
  blobFile(blobId: string): string {
    const { directories, fileName } = blobPath(newRepositoryShards, blobId);
    return path.join(this.path, ...directories, fileName);
  }

  async makeDirectory(what: string): Promise<string> {
    const directory = this.newPath(what);
    await mkdir(directory);
    return directory;
  }

  private get env(): NodeJS.ProcessEnv {
    return { BLOCKMOVER_REPO: this.path, BLOCKMOVER_PASSWORD: this.password };
  }
}
