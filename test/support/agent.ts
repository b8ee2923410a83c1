/** A real agent as a process, with its state in a test's temporary directory. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createClient, type Client } from "@connectrpc/connect";

import { openAgentTransport, parseAgentAddress } from "../../services/common/rpc/agent-address.js";
import { AgentService } from "../../services/gen/blockmover/v1/agent_pb.js";
import { TransferState, type Transfer } from "../../services/gen/blockmover/v1/transfer_pb.js";
import { startCli, type CliResult, type CliRun } from "./cli.js";
import type { TempDir } from "./temp-dir.js";
import { waitFor } from "./wait-for.js";

export const PASSWORD = "correct horse battery staple";

export interface AgentProcess {
  /** As `--agent` takes it. */
  readonly address: string;
  readonly socketPath: string;
  readonly stateDirectory: string;
  readonly client: Client<typeof AgentService>;
  readonly run: CliRun;
  /** Ends it with a signal and waits until it is gone. */
  end(signal: NodeJS.Signals): Promise<CliResult>;
}

/**
 * Starts an agent and waits until it serves. Twice in one test is a restart: the directories are the same.
 *
 * After the test it and the data movers that it left are killed.
 */
export async function startAgent(temp: TempDir, args: readonly string[] = []): Promise<AgentProcess> {
  const socketPath = temp.file("agent.sock");
  const stateDirectory = temp.file("state");
  const run = startCli(["agent", "--socket", socketPath, "--state-dir", stateDirectory, ...args]);
  let ended = false;
  void run.done.catch(() => undefined).then(() => (ended = true));
  const end = async (signal: NodeJS.Signals): Promise<CliResult> => {
    if (!ended) run.kill(signal);
    return run.done;
  };
  temp.defer(async () => {
    if (!ended) await end("SIGKILL");
    for (const pid of moverPids(stateDirectory)) process.kill(pid, "SIGKILL");
    await waitFor(() => moverPids(stateDirectory).length === 0, { what: "the data movers to go" });
  });
  await run.waitForOutput(/"agent\.ready"/);
  const address = `unix:${socketPath}`;
  const client = createClient(AgentService, openAgentTransport(parseAgentAddress(address)));
  return { address, socketPath, stateDirectory, client, run, end };
}

/** The data movers that belong to a state directory, whoever started them: their log lies in it. */
export function moverPids(stateDirectory: string): number[] {
  const pids = execFileSync("ps", ["-eo", "pid=,stat=,args="], { encoding: "utf8" })
    .split("\n")
    .map((line) => /^\s*(\d+)\s+(\S+)\s+.*blockmover\.cjs data-mover$/.exec(line))
    .filter((match) => match !== null && !match[2]?.startsWith("Z"))
    .map((match) => Number(match?.[1]));
  return pids.filter((pid) => {
    try {
      return execFileSync("readlink", [`/proc/${pid}/fd/1`], { encoding: "utf8" }).startsWith(stateDirectory);
    } catch {
      return false; // it ended meanwhile
    }
  });
}

/** What a process can be seen by: its arguments and its environment. */
export function visibleTo(pid: number): string {
  return ["cmdline", "environ"]
    .map((name) => (existsSync(`/proc/${pid}/${name}`) ? readFileSync(`/proc/${pid}/${name}`, "latin1") : ""))
    .join("\n");
}

/** Waits until a transfer is in one of these states. */
export async function waitForState(
  client: Client<typeof AgentService>,
  transferId: string,
  ...states: TransferState[]
): Promise<Transfer> {
  return waitFor(
    async () => {
      const { transfer } = await client.getTransfer({ transferId });
      return transfer !== undefined && states.includes(transfer.state) ? transfer : undefined;
    },
    { what: `${transferId} to be ${states.map((state) => TransferState[state]).join(" or ")}`, deadlineMs: 30_000 },
  );
}

/** Follows a transfer to its end. */
export async function waitForEnd(client: Client<typeof AgentService>, transferId: string): Promise<Transfer> {
  let last: Transfer | undefined;
  for await (const { transfer } of client.progress({ transferId })) last = transfer;
  if (last === undefined) throw new Error(`the progress of ${transferId} was empty`);
  return last;
}
