/** The measured program: the built command line, as a process of its own. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { measure, type Sample } from "./measure.js";

const root = path.resolve(import.meta.dirname, "../..");
const hook = path.join(import.meta.dirname, "process-hook.cjs");

/** What `process-hook.cjs` tells. */
export interface ProcessReport {
  readonly peakRssBytes: number;
  readonly userMs: number;
  readonly systemMs: number;
  readonly eventLoopUtilization: number;
  readonly threads: readonly { readonly name: string; readonly userMs: number; readonly systemMs: number }[];
  readonly operations: Readonly<Record<string, OperationTimes>>;
  readonly phasesMs: Readonly<Record<string, number>>;
}

export interface OperationTimes {
  readonly count: number;
  readonly bytes: number;
  /** Sum over the calls, which overlap. */
  readonly totalMs: number;
  readonly longestMs: number;
  readonly firstMs: number;
  readonly lastMs: number;
}

export interface BlockmoverRun extends Sample {
  readonly report: ProcessReport;
  /** The line `{"type":"result", …}`; empty for commands that print none. */
  readonly result: Readonly<Record<string, unknown>>;
  /** The transfer's own time, where the result has one. */
  readonly transferMs: number | undefined;
}

/** A tree with the built program in it; several of them can be measured side by side. */
export class Blockmover {
  readonly name: string;
  readonly launcher: string;
  readonly #password = "correct horse battery staple";

  constructor(tree: string = root, name = "blockmover") {
    this.name = name;
    this.launcher = path.join(tree, "bin/blockmover.cjs");
  }

  get password(): string {
    return this.#password;
  }

  /** Runs `blockmover ARGS…`. @throws Error with its output when it fails */
  async run(
    args: readonly string[],
    options: { readonly trace?: boolean; readonly nodeArgs?: readonly string[]; readonly env?: NodeJS.ProcessEnv } = {},
  ): Promise<BlockmoverRun> {
    const directory = await mkdtemp(path.join(tmpdir(), "blockmover-bench-report-"));
    try {
      const file = path.join(directory, "report");
      const env = {
        ...process.env,
        BLOCKMOVER_PASSWORD: this.#password,
        BLOCKMOVER_BENCH_REPORT: file,
        BLOCKMOVER_BENCH_TRACE: options.trace === true ? "1" : "0",
        ...options.env,
      };
      const nodeArgs = ["--require", hook, ...(options.nodeArgs ?? [])];
      const sample = await measure(process.execPath, [...nodeArgs, this.launcher, ...args], { env });
      const report = JSON.parse(await readFile(file, "utf8")) as ProcessReport;
      const result = lastResult(sample.stdout);
      return {
        ...sample,
        peakRssBytes: report.peakRssBytes,
        report,
        result,
        transferMs: typeof result.durationMs === "number" ? result.durationMs : undefined,
      };
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  async createRepository(repository: string): Promise<void> {
    await this.run(["repository", "create", "--repo", repository]);
  }

  backup(device: string, repository: string, extraArgs: readonly string[] = []): Promise<BlockmoverRun> {
    return this.run(["backup", device, "--repo", repository, "--source", "bench/volume", "--json", ...extraArgs]);
  }

  restore(
    snapshotId: string,
    target: string,
    repository: string,
    extraArgs: readonly string[] = [],
  ): Promise<BlockmoverRun> {
    return this.run(["restore", snapshotId, target, "--repo", repository, "--json", ...extraArgs]);
  }
}

function lastResult(stdout: string): Record<string, unknown> {
  for (const line of stdout.trimEnd().split("\n").reverse()) {
    if (!line.startsWith("{")) continue;
    const value = JSON.parse(line) as Record<string, unknown>;
    if (value.type === "result") return value;
  }
  return {};
}
