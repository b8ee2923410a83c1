/** A whole agent: its state directory, what is in there, its listeners, its clock, and its orderly end. */
import { link, mkdir, readFile, unlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { systemClock } from "../common/clock.js";
import { BlockmoverError } from "../common/errors.js";
import type { Log } from "../common/log.js";
import { Agent, defaultLimits, type AgentLimits } from "./agent.js";
import { Journal } from "./journal.js";
import type { MoverIdentity } from "./launcher.js";
import { LocalLauncher } from "./local-launcher.js";
import { identifyProcess, isRunning } from "./process-identity.js";
import { RequestStore } from "./request-store.js";
import { removeDeadSocket, serveInPlaintext, serveOnUnixSocket, type AgentServer } from "./serve.js";

export interface AgentSettings {
  readonly socketPath: string;
  readonly stateDirectory: string;
  /** TCP in plain text, besides the socket. */
  readonly plaintext?: { readonly host: string; readonly port: number };
  /** As in LocalLauncherOptions. */
  readonly program: readonly [string, ...string[]];
  readonly limits: Partial<AgentLimits>;
  readonly awayLimitMs: number;
  /** How long an orderly end waits for movers. */
  readonly drainGraceMs: number;
  readonly log: Log;
  readonly onReady?: (addresses: readonly string[]) => void;
}

const TICK_MS = 100;

/**
 * Runs an agent until `stop` is aborted and it has drained; movers that run longer than the grace go on without it.
 *
 * @throws BlockmoverError FAILED_PRECONDITION when another agent has the directory or the socket; what made it fail
 */
export async function runAgent(settings: AgentSettings, stop: AbortSignal): Promise<void> {
  const { stateDirectory, socketPath, log } = settings;
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  await mkdir(dirname(socketPath), { recursive: true, mode: 0o700 });
  const unlock = await lockDirectory(stateDirectory);
  try {
    // Before anything is started: movers dial this socket.
    await removeDeadSocket(socketPath);
    const journal = await Journal.open(join(stateDirectory, "journal"));
    try {
      await runWithJournal(settings, journal, stop);
    } finally {
      await journal.close();
    }
  } finally {
    await unlock();
  }
  log("info", "agent.stopped");
}

async function runWithJournal(settings: AgentSettings, journal: Journal, stop: AbortSignal): Promise<void> {
  const { stateDirectory, socketPath, log } = settings;
  const failed = new AbortController();
  const agent = await Agent.open({
    journal,
    requests: await RequestStore.open(join(stateDirectory, "requests")),
    launcher: await LocalLauncher.create({
      program: settings.program,
      stateDirectory,
      agentSocket: socketPath,
      awayLimitMs: settings.awayLimitMs,
      clock: systemClock,
    }),
    limits: { ...defaultLimits, ...settings.limits },
    clock: systemClock,
    log,
    onFatal: (error) => failed.abort(error),
  });
  const ticker = setInterval(() => agent.tick(), TICK_MS);
  const servers: AgentServer[] = [];
  try {
    servers.push(await serveOnUnixSocket(agent, socketPath, log));
    if (settings.plaintext !== undefined) {
      servers.push(await serveInPlaintext(agent, settings.plaintext, log));
    }
    const addresses = servers.map(({ address }) => address);
    log("info", "agent.ready", { addresses: addresses.join(" "), ...agent.counts });
    settings.onReady?.(addresses);

    await aborted(AbortSignal.any([stop, failed.signal]));
    failed.signal.throwIfAborted();
    log("info", "agent.draining", agent.counts);
    for (const server of servers) {
      server.announceEnd();
    }
    await agent.drain(settings.drainGraceMs);
    log("info", "agent.drained", agent.counts);
  } finally {
    clearInterval(ticker);
    agent.close();
    await Promise.all(servers.map((server) => server.close()));
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
    }
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** One agent a state directory. The lock of a process that is gone is broken. */
async function lockDirectory(directory: string): Promise<() => Promise<void>> {
  const lock = join(directory, "lock");
  const mine = join(directory, `lock.${process.pid}`);
  await writeFile(mine, JSON.stringify(await identifyProcess(process.pid)), { mode: 0o600 });
  try {
    for (;;) {
      try {
        await link(mine, lock); // whole or not at all, and only if there is none
        return () => unlink(lock);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") {
          throw error;
        }
      }
      const holder = JSON.parse(await readFile(lock, "utf8")) as MoverIdentity;
      if (await isRunning(holder)) {
        throw new BlockmoverError("FAILED_PRECONDITION", `process ${holder.pid} has the state directory ${directory}`, {
          hint: "One agent a state directory: stop the other, or choose another --state-dir.",
        });
      }
      await unlink(lock);
    }
  } finally {
    await unlink(mine);
  }
}
