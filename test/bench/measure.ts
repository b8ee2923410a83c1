/**
 * Runs programs and tells what they cost: time, processor time, peak memory, and how busy others kept the machine.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

import { runOrThrow } from "../support/run.js";

/** Of proc(5): times are counted in hundredths of a second on every Linux that Node runs on. */
const TICK_MS = 10;

const PEAK_POLL_MS = 20;

const running = new Set<ChildProcess>();

export interface Sample {
  /** From the start of the process to its end. */
  readonly wallMs: number;
  /** User and system time of the process and of all that it waited for. */
  readonly cpuMs: number;
  /** Highest VmHWM seen, of the process itself; the last few milliseconds are missed. */
  readonly peakRssBytes: number;
  /** Share of all processors' time that user programs of somebody else took meanwhile. */
  readonly foreignShare: number;
  /** Share of all processors' time that the hypervisor took away. */
  readonly stolenShare: number;
  readonly stdout: string;
}

export interface MeasureOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly stdin?: string;
}

/**
 * Runs a program to its end.
 *
 * @throws Error with its output when it fails
 */
export async function measure(command: string, args: readonly string[], options: MeasureOptions = {}): Promise<Sample> {
  const before = machineTimes();
  const started = performance.now();
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: options.env ?? process.env,
    stdio: ["pipe", "pipe", "pipe"],
    detached: true, // a group of its own, so that a pipeline can be ended as a whole
  });
  running.add(child);
  let [stdout, stderr] = ["", ""];
  let peakRssBytes = 0;
  const poll = setInterval(() => {
    peakRssBytes = Math.max(peakRssBytes, peakRssOf(child.pid));
  }, PEAK_POLL_MS);
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  child.stdin.on("error", () => undefined); // it ended without reading: its exit status says why
  child.stdin.end(options.stdin);
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    });
    const wallMs = performance.now() - started;
    if (code !== 0) throw new Error(`${[command, ...args].join(" ")}: exit ${code}\n${stdout}${stderr}`);
    const after = machineTimes();
    const available = wallMs * availableParallelism();
    return {
      wallMs,
      cpuMs: after.ownMs - before.ownMs,
      peakRssBytes,
      foreignShare: Math.max(0, after.foreignMs - before.foreignMs) / available,
      stolenShare: (after.stolenMs - before.stolenMs) / available,
      stdout,
    };
  } finally {
    clearInterval(poll);
    running.delete(child);
  }
}

/** Ends what is being measured, and waits until it has: for a benchmark that is interrupted. */
export async function killMeasured(): Promise<void> {
  for (const child of running) {
    const { pid } = child;
    if (pid === undefined || child.exitCode !== null || child.signalCode !== null) continue;
    const ended = new Promise((resolve) => child.once("close", resolve));
    process.kill(-pid, "SIGKILL");
    await ended;
  }
}

/**
 * Waits until others leave the machine alone, or `patienceMs` have passed.
 *
 * @returns whether it became quiet
 */
export async function awaitQuiet(patienceMs: number): Promise<boolean> {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    const before = machineTimes();
    await sleep(500);
    const share = (machineTimes().foreignMs - before.foreignMs) / (500 * availableParallelism());
    if (share < 0.06) return true;
    if (performance.now() > deadline) return false;
  }
}

/** Writes dirty pages out and empties the page cache, where that is allowed, so that reads reach the medium. */
export async function dropCaches(): Promise<void> {
  await runOrThrow("sync", []);
  if (process.getuid?.() === 0) writeFileSync("/proc/sys/vm/drop_caches", "3");
}

interface MachineTimes {
  /** Of this process and the children that it has waited for. */
  readonly ownMs: number;
  /** Of every other program. Time of a program that ended has passed to its parent, so the sum keeps it. */
  readonly foreignMs: number;
  readonly stolenMs: number;
}

function machineTimes(): MachineTimes {
  let [ownMs, foreignMs] = [0, 0];
  for (const id of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    const times = processTimes(id);
    if (times === undefined || times.isKernel) continue;
    if (Number(id) === process.pid) ownMs = times.childrenMs;
    else foreignMs += times.ownMs + times.childrenMs;
  }
  const cpu = readFileSync("/proc/stat", "latin1").split("\n", 1)[0]?.trim().split(/\s+/) ?? [];
  return { ownMs, foreignMs, stolenMs: Number(cpu[8] ?? 0) * TICK_MS };
}

function processTimes(id: string): { isKernel: boolean; ownMs: number; childrenMs: number } | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${id}/stat`, "latin1");
  } catch {
    return undefined; // it has ended
  }
  // After the name, which may hold anything: state, parent, …; 11 to 14 are the four times.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = (index: number): number => Number(fields[index] ?? 0) * TICK_MS;
  return { isKernel: fields[1] === "2" || id === "2", ownMs: ticks(11) + ticks(12), childrenMs: ticks(13) + ticks(14) };
}

function peakRssOf(pid: number | undefined): number {
  try {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid ?? 0}/status`, "utf8"));
    return Number(peak?.[1] ?? 0) * 1024;
  } catch {
    return 0; // it has ended
  }
}
