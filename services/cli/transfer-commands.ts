/** `blockmover transfer list|watch|cancel`: what an agent does. */
import { type Command, Option } from "commander";
import type { AgentClient as AgentClientType } from "../agent/agent-client.js";
import type { Transfer } from "../gen/blockmover/v1/transfer_pb.js";
import { defaultSocket } from "./agent-command.js";
import type { ReportStatus } from "./main.js";
import { runCommand } from "./run-command.js";

interface TransferOptions {
  readonly agent: string;
  readonly json: boolean;
}

/** A cancel takes less than 2 s. */
const CANCEL_WAIT_MS = 10_000;

export function addTransferCommands(program: Command, report: ReportStatus): void {
  const transfer = program.command("transfer").description("see and cancel the transfers of an agent");

  withAgentOptions(transfer.command("list").description("list the transfers that the agent remembers")).action(
    async (options: TransferOptions) => {
      report(
        await runCommand(options, async (output, signal) => {
          const client = await openClient(options);
          const transfers: Transfer[] = [];
          for await (const each of client.list(signal)) {
            transfers.push(each);
          }
          const { showList } = await import("./transfer-text.js");
          showList(output, transfers);
        }),
      );
    },
  );

  withAgentOptions(
    transfer
      .command("watch")
      .description("show a transfer's progress until it has ended; exits as the transfer did")
      .argument("<id>", "the transfer"),
  ).action(async (id: string, options: TransferOptions) => {
    report(
      await runCommand(
        options,
        async (output, signal) => {
          const client = await openClient(options);
          const { outcomeOf } = await import("../agent/agent-client.js");
          const { showTransfer } = await import("./transfer-on-agent.js");
          const ended = await showTransfer(client, id, output, signal);
          outcomeOf(ended);
          const { showEnd } = await import("./transfer-text.js");
          showEnd(output, ended);
        },
        "the transfer goes on",
      ),
    );
  });

  withAgentOptions(
    transfer
      .command("cancel")
      .description("cancel a transfer, and see it end; one that has ended stays as it is")
      .argument("<id>", "the transfer"),
  ).action(async (id: string, options: TransferOptions) => {
    report(
      await runCommand(
        options,
        async (output, signal) => {
          const client = await openClient(options);
          await client.cancel(id);
          const until = AbortSignal.any([signal, AbortSignal.timeout(CANCEL_WAIT_MS)]);
          const { showEnd } = await import("./transfer-text.js");
          showEnd(output, await client.follow(id, () => undefined, until));
        },
        "the cancel has been asked for",
      ),
    );
  });
}

/** Adds `--agent` and `--json`. */
function withAgentOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--agent <address>", "the agent: unix:/path, or http://host:port in plain text")
        .env("BLOCKMOVER_AGENT")
        .default(`unix:${defaultSocket()}`),
    )
    .option("--json", "print JSON lines, the last of type result or error", false);
}

async function openClient(options: TransferOptions): Promise<AgentClientType> {
  const { AgentClient } = await import("../agent/agent-client.js");
  return new AgentClient(options.agent);
}
