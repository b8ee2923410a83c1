/**
 * Running `blockmover` as its user does: the built program, as a process of its own.
 *
 * Peak memory comes from the process itself (see peak-rss-hook.cjs), so there is none for a process that a signal
 * killed. Data movers forked by the command report too, where they inherit its environment.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { waitFor } from "./wait-for.js";

const root = path.resolve(import.meta.dirname, "../..");
const ownLauncher = path.join(root, "bin", "blockmover.cjs");
const hook = path.join(import.meta.dirname, "peak-rss-hook.cjs");

export interface CliOptions {
  /** Added to the environment of the tests, from which `BLOCKMOVER_*` is removed first. */
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly stdin?: string | Uint8Array;
  /** After this long the run is killed and counts as an error. Default 2 minutes. */
  readonly deadlineMs?: number;
  /** Another `blockmover.cjs` than the one of this tree. */
  readonly launcher?: string;
}

export type JsonLine = Readonly<Record<string, unknown>>;

export interface CliResult {
  /** Exit status, or -1 when a signal ended it. */
  readonly code: number;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly durationMs: number;
  /** Peak resident memory of the command itself. */
  readonly peakRssBytes: number | undefined;
  /** Peak resident memory of each Node process of the run that ended by itself. */
  readonly processes: readonly { readonly pid: number; readonly peakRssBytes: number }[];
  /** The lines of standard output as JSON. @throws Error naming the line that is not */
  jsonLines(): JsonLine[];
  /** The line `{"type":"result", …}` that ends `--json`. @throws Error with all output when the last line is another */
  jsonResult(): JsonLine;
}

/** A run under way. */
export interface CliRun {
  readonly pid: number;
  /** Settles when it ended, however; rejects when it ran past its deadline. */
  readonly done: Promise<CliResult>;
  kill(signal: NodeJS.Signals): void;
  /** What it has written so far, both streams. */
  output(): string;
  /** Waits until its output (both streams) matches. @throws Error when it ends or 30 s pass before */
  waitForOutput(pattern: RegExp): Promise<void>;
}

/** Runs the command line to its end; any exit status is a result. */
export function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return startCli(args, options).done;
}

/** As `runCli`, but throws unless it exits with 0. */
export async function runCliOrThrow(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const result = await runCli(args, options);
  if (result.code !== 0) throw new Error(`blockmover ${args.join(" ")}: ${describeEnd(result)}\n${result.stderr}`);
  return result;
}

/** Starts the command line and returns at once. Whoever starts it awaits `done`. */
export function startCli(args: readonly string[], options: CliOptions = {}): CliRun {
  const started = performance.now();
  const rssDirectory = mkdtemp(path.join(tmpdir(), "blockmover-rss-"));
  let child: ChildProcess | undefined;
  let ended = false;
  let [stdout, stderr] = ["", ""];

  const run = async (): Promise<CliResult> => {
    const rssFile = path.join(await rssDirectory, "peak");
    try {
      const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
        const spawned = spawnCli(args, options, rssFile);
        child = spawned;
        const deadlineMs = options.deadlineMs ?? 120_000;
        const timer = setTimeout(() => {
          spawned.kill("SIGKILL");
          reject(new Error(`blockmover ${args.join(" ")}: still running after ${deadlineMs} ms\n${stdout}${stderr}`));
        }, deadlineMs);
        spawned.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
        spawned.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
        spawned.stdin.on("error", () => undefined); // it ended without reading all of it: its exit status says why
        spawned.stdin.end(options.stdin);
        spawned.once("error", reject);
        spawned.once("close", (...end) => {
          clearTimeout(timer);
          resolve(end);
        });
      });
      const durationMs = performance.now() - started;
      const processes = await readPeaks(rssFile);
      const peakRssBytes = processes.find(({ pid }) => pid === child?.pid)?.peakRssBytes;
      return withJson({ code: code ?? -1, signal, stdout, stderr, durationMs, peakRssBytes, processes });
    } finally {
      ended = true;
      await rm(path.dirname(rssFile), { recursive: true, force: true });
    }
  };

  const done = run();
  return {
    get pid() {
      if (child?.pid === undefined) throw new Error("not started yet: await waitForOutput first");
      return child.pid;
    },
    done,
    kill: (signal) => {
      if (child === undefined) throw new Error("not started yet: await waitForOutput first");
      child.kill(signal);
    },
    output: () => stdout + stderr,
    waitForOutput: async (pattern) => {
      const seen = (): boolean => pattern.test(stdout) || pattern.test(stderr);
      await waitFor(() => seen() || ended, { what: `${String(pattern)} in the output`, deadlineMs: 30_000 });
      if (!seen()) throw new Error(`ended without ${String(pattern)} in its output:\n${stdout}${stderr}`);
    },
  };
}

function spawnCli(args: readonly string[], options: CliOptions, rssFile: string) {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("BLOCKMOVER_"));
  const env = { ...Object.fromEntries(inherited), ...options.env };
  env.BLOCKMOVER_TEST_PEAK_RSS_FILE = rssFile;
  env.NODE_OPTIONS = `${env.NODE_OPTIONS ?? ""} --require ${JSON.stringify(hook)}`.trim();
  return spawn(process.execPath, [options.launcher ?? ownLauncher, ...args], {
    cwd: options.cwd,
    env,
    stdio: ["pipe", "pipe", "pipe"],
  });
}

async function readPeaks(file: string): Promise<CliResult["processes"]> {
  try {
    const lines = (await readFile(file, "utf8")).trimEnd().split("\n");
    return lines.map((line) => JSON.parse(line) as CliResult["processes"][number]);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return []; // killed before it could tell
    throw error;
  }
}

function withJson(result: Omit<CliResult, "jsonLines" | "jsonResult">): CliResult {
  const jsonLines = (): JsonLine[] =>
    result.stdout
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => {
        try {
          return JSON.parse(line) as JsonLine;
        } catch (error) {
          throw new Error(`not a line of JSON: ${line}\n${result.stderr}`, { cause: error });
        }
      });
  const jsonResult = (): JsonLine => {
    const last = jsonLines().at(-1);
    if (last?.type !== "result") {
      throw new Error(`no result (${describeEnd(result)}):\n${result.stdout}${result.stderr}`);
    }
    return last;
  };
  return { ...result, jsonLines, jsonResult };
}

function describeEnd({ code, signal }: Pick<CliResult, "code" | "signal">): string {
  return signal === null ? `exit ${code}` : `ended by ${signal}`;
}
