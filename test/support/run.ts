/** Running a system tool to its end. */
import { spawn } from "node:child_process";

export interface RunOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly stdin?: string | Uint8Array;
}

export interface RunResult {
  readonly stdout: string;
  /** The same as it came, for tools that write no text. */
  readonly stdoutBytes: Buffer;
  readonly stderr: string;
  /** Exit status, or -1 when a signal ended it. */
  readonly code: number;
}

/** Runs `command` and collects its output; any exit status is a result. Rejects only when it cannot be started. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env: options.env ?? process.env, cwd: options.cwd });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout.on("data", (bytes: Buffer) => stdout.push(bytes));
    child.stderr.on("data", (bytes: Buffer) => stderr.push(bytes));
    child.stdin.on("error", () => undefined); // it ended without reading all of it: its exit status says why
    child.once("error", reject);
    child.once("close", (code) => {
      const stdoutBytes = Buffer.concat(stdout);
      const stderrText = Buffer.concat(stderr).toString();
      resolve({ stdout: stdoutBytes.toString(), stdoutBytes, stderr: stderrText, code: code ?? -1 });
    });
    child.stdin.end(options.stdin);
  });
}

/**
 * Runs `command` and returns its standard output.
 *
 * @throws Error naming the command and what it wrote, when it exits with another status than 0
 */
export async function runOrThrow(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await run(command, args, options);
  if (result.code !== 0) {
    throw new Error(
      `${[command, ...args].join(" ")}: exit ${result.code}: ${result.stderr.trim() || result.stdout.trim()}`,
    );
  }
  return result.stdout;
}
