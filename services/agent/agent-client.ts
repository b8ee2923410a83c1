/**
 * Using an agent: calls with our errors, and following a transfer across restarts of the agent.
 */
import { randomUUID } from "node:crypto";
import { createClient, type Client } from "@connectrpc/connect";
import { CancelledElsewhere, sleep } from "../common/cancellation.js";
import { BlockmoverError } from "../common/errors.js";
import { openAgentTransport, parseAgentAddress } from "../common/rpc/agent-address.js";
import { fromConnectError } from "../common/rpc/rpc-errors.js";
import { AgentService } from "../gen/blockmover/v1/agent_pb.js";
import { TransferState, type Transfer } from "../gen/blockmover/v1/transfer_pb.js";
import { decodeTransferError } from "../datapath/transfer-messages.js";
import type { StartRequest } from "./request-store.js";
import { isTerminal } from "./transfer-record.js";

const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 2_000;
/** An agent that restarts is back by then. */
const AWAY_LIMIT_MS = 60_000;

export class AgentClient {
  readonly #address: string;
  readonly #client: Client<typeof AgentService>;

  /** @throws BlockmoverError INVALID_ARGUMENT for what is no address */
  constructor(address: string) {
    this.#address = address;
    this.#client = createClient(AgentService, openAgentTransport(parseAgentAddress(address)));
  }

  /** Starts a transfer. Asks again while the agent is away: it is the same transfer, whoever heard the first time. */
  async start(request: StartRequest, signal: AbortSignal): Promise<Transfer> {
    return this.#patiently(signal, async () => {
      const { transfer } = await (request.case === "backup"
        ? this.#client.startBackup(request.value, { signal })
        : this.#client.startRestore(request.value, { signal }));
      return present(transfer);
    });
  }

  async cancel(transferId: string): Promise<Transfer> {
    return this.#call(async () => present((await this.#client.cancel({ transferId })).transfer));
  }

  async get(transferId: string, signal: AbortSignal): Promise<Transfer> {
    return this.#call(async () => present((await this.#client.getTransfer({ transferId }, { signal })).transfer));
  }

  /** All transfers that the agent remembers, oldest first. */
  async *list(signal: AbortSignal): AsyncGenerator<Transfer> {
    let pageToken = "";
    do {
      const page = await this.#call(() => this.#client.listTransfers({ pageToken }, { signal }));
      yield* page.transfers;
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
  }

  /**
   * Follows a transfer to its end, which it returns. Survives restarts of the agent of up to a minute.
   *
   * @throws BlockmoverError NOT_FOUND, UNAVAILABLE; the signal's reason
   */
  async follow(transferId: string, onChange: (transfer: Transfer) => void, signal: AbortSignal): Promise<Transfer> {
    return this.#patiently(signal, async (seen) => {
      for await (const { transfer } of this.#client.progress({ transferId }, { signal })) {
        seen();
        if (transfer !== undefined) {
          onChange(transfer);
          if (isTerminal(transfer.state)) {
            return transfer;
          }
        }
      }
      throw new BlockmoverError("UNAVAILABLE", "the agent ended the stream before the transfer had ended");
    });
  }

  async #call<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      throw this.#named(error);
    }
  }

  /** Repeats a call while the agent cannot be reached. `seen` says that it could. */
  async #patiently<T>(signal: AbortSignal, call: (seen: () => void) => Promise<T>): Promise<T> {
    let lastSeenMs: number | undefined;
    let retryMs = FIRST_RETRY_MS;
    for (;;) {
      try {
        return await call(() => {
          lastSeenMs = performance.now();
          retryMs = FIRST_RETRY_MS;
        });
      } catch (error) {
        signal.throwIfAborted();
        const known = this.#named(error);
        // An agent that was never there is more likely a wrong address than one that restarts.
        const isBack = lastSeenMs !== undefined && performance.now() - lastSeenMs < AWAY_LIMIT_MS;
        const isLeaving = known.reason === "SHUTTING_DOWN";
        if (known.code !== "UNAVAILABLE" || !(isBack || isLeaving)) {
          throw known;
        }
        lastSeenMs ??= performance.now();
      }
      await sleep(retryMs, signal);
      retryMs = Math.min(2 * retryMs, MAX_RETRY_MS);
    }
  }

  #named(thrown: unknown): BlockmoverError {
    const error = fromConnectError(thrown);
    if (error.code !== "UNAVAILABLE" || error.reason !== undefined) {
      return error;
    }
    return new BlockmoverError("UNAVAILABLE", `agent ${this.#address}: ${error.message}`, {
      cause: thrown,
      hint: "Check that `blockmover agent` runs there.",
    });
  }
}

/** A name for a transfer that nobody named. */
export function newTransferId(): string {
  return `cli-${randomUUID()}`;
}

/** What became of a transfer that has ended. @throws its error, or CancelledElsewhere */
export function outcomeOf(
  transfer: Transfer,
): Extract<Transfer["outcome"], { case: "backupResult" | "restoreResult" }> {
  const { outcome } = transfer;
  if (outcome.case === "backupResult" || outcome.case === "restoreResult") {
    return outcome;
  }
  if (transfer.state === TransferState.CANCELLED) {
    throw new CancelledElsewhere(`transfer ${transfer.transferId} was cancelled`);
  }
  throw outcome.case === "error"
    ? decodeTransferError(outcome.value)
    : new BlockmoverError("INTERNAL", `transfer ${transfer.transferId} ended without an outcome`);
}

function present(transfer: Transfer | undefined): Transfer {
  if (transfer === undefined) {
    throw new BlockmoverError("INTERNAL", "the agent answered without a transfer");
  }
  return transfer;
}
