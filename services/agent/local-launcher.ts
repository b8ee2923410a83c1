/**
 * Data movers as processes of this machine: `blockmover data-mover`, one a transfer.
 *
 * - In a session of their own and with no pipe to the agent, so that neither its end nor its terminal ends them. (A
 *   service manager that kills a whole control group has to be told: systemd's KillMode=process.)
 * - The token goes over standard input; arguments and environment hold no secret.
 * - Each has a log and a result file in the agent's state directory.
 */
import { spawn } from "node:child_process";
import { mkdir, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../common/clock.js";
import { BlockmoverError, messageOf } from "../common/errors.js";
import type { MoverBootstrap } from "../datapath/mover-bootstrap.js";
import type { LaunchRequest, MoverEndReport, MoverIdentity, MoverLauncher, RunningMover } from "./launcher.js";
import { identifyProcess, isRunning } from "./process-identity.js";

export interface LocalLauncherOptions {
  /** The program and its first arguments, such as node and `bin/blockmover.cjs`; `data-mover` is added. */
  readonly program: readonly [string, ...string[]];
  readonly stateDirectory: string;
  readonly agentSocket: string;
  readonly awayLimitMs: number;
  readonly clock: Clock;
}

/** A process that another agent started is no child of ours: it can only be looked at. */
const ADOPTED_POLL_MS = 100;
const MAX_LAST_WORDS = 300;
const LOG_TAIL_BYTES = 4096;

export class LocalLauncher implements MoverLauncher {
  readonly #options: LocalLauncherOptions;
  readonly #results: string;
  readonly #logs: string;

  private constructor(options: LocalLauncherOptions) {
    this.#options = options;
    this.#results = join(options.stateDirectory, "results");
    this.#logs = join(options.stateDirectory, "logs");
  }

  static async create(options: LocalLauncherOptions): Promise<LocalLauncher> {
    const launcher = new LocalLauncher(options);
    await mkdir(launcher.#results, { recursive: true, mode: 0o700 });
    await mkdir(launcher.#logs, { recursive: true, mode: 0o700 });
    return launcher;
  }

  async launch({ transferId, token }: LaunchRequest): Promise<RunningMover> {
    const { program, agentSocket, awayLimitMs } = this.#options;
    const log = await open(this.#logFile(transferId), "a", 0o600);
    try {
      const killsBefore = await outOfMemoryKills();
      const [command, ...args] = program;
      const child = spawn(command, [...args, "data-mover"], {
        cwd: "/",
        env: environmentForMovers(),
        detached: true,
        stdio: ["pipe", log.fd, log.fd],
      });
      const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
        child.once("exit", (code, signal) => resolve({ code, signal }));
        child.once("error", () => resolve({ code: null, signal: null }));
      });
      await new Promise<void>((resolve, reject) => {
        child.once("spawn", resolve);
        child.once("error", (error) =>
          reject(new BlockmoverError("INTERNAL", `cannot start a data mover: ${messageOf(error)}`, { cause: error })),
        );
      });
      const { stdin } = child;
      const bootstrap: MoverBootstrap = {
        transferId,
        token,
        agentSocket,
        resultFile: this.#resultFile(transferId),
        awayLimitMs,
      };
      stdin?.on("error", () => undefined); // it ended without reading: its exit status says why
      stdin?.end(JSON.stringify(bootstrap));
      child.unref();
      const pid = child.pid ?? 0;
      // Gone already: its end is on the way, and an identity that fits nothing does no harm.
      const identity = (await identifyProcess(pid)) ?? { pid, startTicks: "", bootId: "" };
      return {
        identity,
        ended: exited.then(async ({ code, signal }) => ({
          exitCode: code ?? undefined,
          signal: signal ?? undefined,
          outOfMemory: signal === "SIGKILL" && (await outOfMemoryKills()) > killsBefore,
          lastWords: await this.#lastWords(transferId),
        })),
        kill: () => killProcess(pid, () => child.exitCode === null && child.signalCode === null),
      };
    } finally {
      await log.close();
    }
  }

  async adopt(transferId: string, identity: MoverIdentity): Promise<RunningMover> {
    let running = await isRunning(identity);
    return {
      identity,
      ended: (async (): Promise<MoverEndReport> => {
        while (running) {
          await new Promise<void>((resolve) => void this.#options.clock.after(ADOPTED_POLL_MS, resolve));
          running = await isRunning(identity);
        }
        const lastWords = await this.#lastWords(transferId);
        return { exitCode: undefined, signal: undefined, outOfMemory: false, lastWords };
      })(),
      kill: () => void isRunning(identity).then((still) => killProcess(identity.pid, () => still)),
    };
  }

  identify(pid: number): Promise<MoverIdentity | undefined> {
    return identifyProcess(pid);
  }

  async readOutcome(transferId: string): Promise<string | undefined> {
    return readFile(this.#resultFile(transferId), "utf8").catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") {
        return undefined;
      }
      throw error;
    });
  }

  async cleanUp(transferId: string, { keepLog }: { readonly keepLog: boolean }): Promise<void> {
    await rm(this.#resultFile(transferId), { force: true });
    if (!keepLog) {
      await rm(this.#logFile(transferId), { force: true });
    }
  }

  async #lastWords(transferId: string): Promise<string> {
    try {
      const file = await open(this.#logFile(transferId), "r");
      try {
        const { size } = await file.stat();
        const tail = Buffer.alloc(Math.min(size, LOG_TAIL_BYTES));
        await file.read(tail, 0, tail.length, size - tail.length);
        return (tail.toString("utf8").trimEnd().split("\n").at(-1) ?? "").slice(0, MAX_LAST_WORDS);
      } finally {
        await file.close();
      }
    } catch {
      return ""; // only a help for the reader of the message
    }
  }

  #resultFile(transferId: string): string {
    return join(this.#results, `${transferId}.json`);
  }

  #logFile(transferId: string): string {
    return join(this.#logs, `${transferId}.log`);
  }
}

/** The agent's, without what could be a secret of ours. */
function environmentForMovers(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("BLOCKMOVER_")));
}

function killProcess(pid: number, stillThere: () => boolean): void {
  if (pid > 0 && stillThere()) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // it ended meanwhile
    }
  }
}

/** How often the kernel killed for memory since boot; 0 when it does not say. */
async function outOfMemoryKills(): Promise<number> {
  const text = await readFile("/proc/vmstat", "utf8").catch(() => "");
  return Number(/^oom_kill (\d+)$/m.exec(text)?.[1] ?? 0);
}
