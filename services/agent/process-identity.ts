/** Which process is which, across restarts of the one who asks. */
import { readFile } from "node:fs/promises";
import type { MoverIdentity } from "./launcher.js";

/** The identity of a process that runs; undefined when it does not, or has ended and only waits to be reaped. */
export async function identifyProcess(pid: number): Promise<MoverIdentity | undefined> {
  let stat: string;
  let bootId: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, "utf8");
    bootId = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  } catch {
    return undefined; // it has gone, which is the answer
  }
  // The name, in parentheses, may hold anything; the state is the first field after it, the start time the 20th.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state, startTicks] = [fields[0], fields[19]];
  if (state === undefined || startTicks === undefined || state === "Z" || state === "X") {
    return undefined;
  }
  return { pid, startTicks, bootId };
}

/** Whether the process that had this identity still runs. */
export async function isRunning(identity: MoverIdentity): Promise<boolean> {
  const now = await identifyProcess(identity.pid);
  return now !== undefined && now.startTicks === identity.startTicks && now.bootId === identity.bootId;
}
