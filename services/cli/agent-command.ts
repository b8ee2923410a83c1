/** `blockmover agent`, and `blockmover data-mover`, which agents start. */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { BlockmoverError } from "../common/errors.js";
import { jsonLog } from "../common/log.js";
import type { ReportStatus } from "./main.js";
import { EXIT_DONE, EXIT_FAILED, runCommand, UsageError } from "./run-command.js";

interface AgentCommandOptions {
  readonly socket: string;
  readonly stateDir: string;
  readonly listen?: string;
  readonly plaintext: boolean;
  readonly maxRunning: number;
  readonly maxQueued: number;
  readonly awayLimit: number;
  readonly drainGrace: number;
}

export function addAgentCommand(program: Command, report: ReportStatus): void {
  program
    .command("agent")
    .description("run the node agent: the gRPC service that queues, runs, watches and cancels transfers")
    .option("--socket <path>", "unix socket to serve on, of mode 0600", defaultSocket())
    .option("--state-dir <dir>", "where the agent keeps what must survive it", defaultStateDirectory())
    .option("--listen <host:port>", "serve on TCP too; needs --plaintext")
    .option(
      "--plaintext",
      "serve TCP without encryption or authentication: whoever reaches it may do everything",
      false,
    )
    .option("--max-running <n>", "transfers at once", wholeNumber(1, 1000), 4)
    .option("--max-queued <n>", "transfers that may wait", wholeNumber(0, 100_000), 500)
    .addOption(
      new Option("--away-limit <seconds>", "how long data movers go on without an agent")
        .argParser(wholeNumber(1, 86_400))
        .default(300),
    )
    .addOption(
      new Option("--drain-grace <seconds>", "at SIGTERM, how long to wait for transfers that run")
        .argParser(wholeNumber(0, 86_400))
        .default(20),
    )
    .addHelpText(
      "after",
      `
Serves Connect, gRPC and gRPC-Web over HTTP/2, with server reflection and grpc.health.v1:

  $ grpcurl -plaintext -unix /run/blockmover/agent.sock describe blockmover.v1.AgentService

Each transfer runs in a process of its own that outlives the agent: after a restart with the same --state-dir it is
found again. At SIGTERM the agent takes no more transfers, waits for those that run, and exits with 0; what runs longer
goes on, and waits for the next agent. Under systemd set KillMode=process.`,
    )
    .action(async (options: AgentCommandOptions) => {
      report(
        await runCommand(
          { json: false },
          async (_output, signal) => {
            const plaintext = listenAddress(options);
            const log = jsonLog((line) => process.stderr.write(line));
            if (plaintext !== undefined) {
              log("warn", "agent.plaintext", { listen: options.listen });
            }
            const { runAgent } = await import("../agent/run-agent.js");
            await runAgent(
              {
                socketPath: resolve(options.socket),
                stateDirectory: resolve(options.stateDir),
                plaintext,
                program: [process.execPath, ...process.execArgv, process.argv[1] ?? ""],
                limits: { maxRunning: options.maxRunning, maxQueued: options.maxQueued },
                awayLimitMs: options.awayLimit * 1000,
                drainGraceMs: options.drainGrace * 1000,
                log,
              },
              signal,
            );
          },
          "the agent did not get to run",
        ),
      );
    });
}

export function addDataMoverCommand(program: Command, report: ReportStatus): void {
  program
    .command("data-mover", { hidden: true })
    .description("run one transfer for the agent that starts this; what to do comes on standard input")
    .action(async () => {
      let end = EXIT_FAILED;
      const status = await runCommand({ json: false }, async (_output, signal) => {
        const { readMoverBootstrap } = await import("../datapath/mover-bootstrap.js");
        const { runAttachedMover } = await import("../datapath/attached-mover.js");
        const bootstrap = await readMoverBootstrap(process.stdin);
        // Not a cancel, which only the agent can ask for: somebody stopped this process.
        const stop = new AbortController();
        signal.addEventListener("abort", () =>
          stop.abort(
            new BlockmoverError("UNAVAILABLE", "the data mover was stopped by a signal", {
              hint: "Start the transfer again.",
            }),
          ),
        );
        end = (await runAttachedMover(bootstrap, stop.signal)) === "recorded" ? EXIT_DONE : EXIT_FAILED;
      });
      report(status === EXIT_DONE ? end : status);
    });
}

/** Where an agent is found when nobody says. */
export function defaultSocket(): string {
  if (process.getuid?.() === 0) {
    return "/run/blockmover/agent.sock";
  }
  return join(process.env.XDG_RUNTIME_DIR ?? join(homedir(), ".blockmover"), "blockmover", "agent.sock");
}

function defaultStateDirectory(): string {
  return process.getuid?.() === 0
    ? "/var/lib/blockmover/agent"
    : join(process.env.XDG_STATE_HOME ?? join(homedir(), ".local", "state"), "blockmover", "agent");
}

function listenAddress({ listen, plaintext }: AgentCommandOptions): { host: string; port: number } | undefined {
  if (listen === undefined) {
    if (plaintext) {
      throw new UsageError("--plaintext needs --listen");
    }
    return undefined;
  }
  if (!plaintext) {
    throw new UsageError("--listen needs --plaintext: TLS is not there yet, and this must be your decision");
  }
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:]+)):(\d{1,5})$/.exec(listen);
  const [host, port] = [match?.[1] ?? match?.[2], Number(match?.[3])];
  if (host === undefined || port > 65_535) {
    throw new UsageError(`--listen ${listen}: expected HOST:PORT`);
  }
  return { host, port };
}

function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d{1,9}$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`expected a whole number from ${min} to ${max}`);
    }
    return value;
  };
}
