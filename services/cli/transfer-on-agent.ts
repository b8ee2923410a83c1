/** `backup --agent` and `restore --agent`: the same transfer, run by an agent. */
import { resolve } from "node:path";
import { create } from "@bufbuild/protobuf";
import { AgentClient, newTransferId, outcomeOf } from "../agent/agent-client.js";
import type { StartRequest } from "../agent/request-store.js";
import { CHUNK_SIZE_BYTES } from "../common/chunk.js";
import { BlockmoverError } from "../common/errors.js";
import { StartBackupRequestSchema, StartRestoreRequestSchema } from "../gen/blockmover/v1/agent_pb.js";
import { BackupType, TransferState, type Transfer } from "../gen/blockmover/v1/transfer_pb.js";
import type { ByteRange, ChangedRanges } from "../datapath/cbt/changed-ranges.js";
import type { BackupRequest, RestoreRequest } from "../datapath/data-mover.js";
import {
  decodeBackupResult,
  decodeProgress,
  decodeRestoreResult,
  encodeBackupSpec,
  encodeRestoreSpec,
  type WireChanges,
} from "../datapath/transfer-messages.js";
import type { BackupResult } from "../datapath/uploader/backup.js";
import type { RestoreResult } from "../datapath/uploader/restore.js";
import type { Output } from "./output.js";

export interface OnAgentOptions {
  readonly agent: string;
  readonly transferId?: string;
}

/** As many as an agent takes. */
const MAX_RANGES = 100_000;
/** A cancel takes less than 2 s; an agent that takes longer is not waited for. */
const CANCEL_WAIT_MS = 10_000;

export async function runBackupOnAgent(
  { agent, transferId = newTransferId() }: OnAgentOptions,
  request: BackupRequest,
  output: Output,
  signal: AbortSignal,
): Promise<BackupResult> {
  const { changes, ...rest } = request;
  const spec = encodeBackupSpec(
    { ...rest, repository: absolute(request.repository) },
    changes && (await collectChanges(changes, signal)),
  );
  const value = create(StartBackupRequestSchema, { transferId, spec });
  const outcome = outcomeOf(await runOnAgent(agent, { case: "backup", value }, output, signal));
  return outcome.case === "backupResult" ? decodeBackupResult(outcome.value) : wrongKind(transferId);
}

export async function runRestoreOnAgent(
  { agent, transferId = newTransferId() }: OnAgentOptions,
  request: RestoreRequest,
  output: Output,
  signal: AbortSignal,
): Promise<RestoreResult> {
  const spec = encodeRestoreSpec({ ...request, repository: absolute(request.repository) });
  const value = create(StartRestoreRequestSchema, { transferId, spec });
  const outcome = outcomeOf(await runOnAgent(agent, { case: "restore", value }, output, signal));
  return outcome.case === "restoreResult" ? decodeRestoreResult(outcome.value) : wrongKind(transferId);
}

/** Shows a transfer's progress and warnings until it has ended; a signal only stops the showing. */
export async function showTransfer(
  client: AgentClient,
  transferId: string,
  output: Output,
  signal: AbortSignal,
): Promise<Transfer> {
  let latest: Transfer | undefined;
  let warned = 0;
  let stopProgress: (() => void) | undefined;
  const onChange = (transfer: Transfer): void => {
    const { progress, warnings } = transfer;
    for (const warning of warnings.slice(Math.min(warned, warnings.length))) {
      output.warn(warning);
    }
    warned = Math.max(warned, warnings.length);
    latest = transfer;
    if (progress !== undefined) {
      stopProgress ??= output.showProgress(labelOf(transfer), () => decodeProgress(latest?.progress ?? progress));
    }
  };
  try {
    return await client.follow(transferId, onChange, signal);
  } finally {
    stopProgress?.();
  }
}

/** Starts, follows, and when asked to stop cancels and sees it end. */
async function runOnAgent(
  address: string,
  request: StartRequest,
  output: Output,
  signal: AbortSignal,
): Promise<Transfer> {
  const client = new AgentClient(address);
  const { transferId } = request.value;
  try {
    await client.start(request, signal);
    return await showTransfer(client, transferId, output, signal);
  } catch (error) {
    if (!signal.aborted) {
      throw error;
    }
    let ended: Transfer;
    try {
      await client.cancel(transferId);
      ended = await client.follow(transferId, () => undefined, AbortSignal.timeout(CANCEL_WAIT_MS));
    } catch (cancelError) {
      throw new BlockmoverError("UNAVAILABLE", `transfer ${transferId} may still run: the agent did not cancel it`, {
        cause: cancelError,
        hint: `See \`blockmover transfer list --agent ${address}\`.`,
      });
    }
    if (ended.state === TransferState.CANCELLED) {
      throw error;
    }
    return ended; // it was finished before the cancel came
  }
}

/** Another working directory is no concern of the agent's. */
function absolute(repository: BackupRequest["repository"]): BackupRequest["repository"] {
  const isUrl = /^[a-z][a-z0-9+.-]*:\/\//i.test(repository.url);
  return isUrl ? repository : { ...repository, url: resolve(repository.url) };
}

function labelOf({ spec, progress }: Transfer): string {
  if (spec.case === "restore") {
    return "restore";
  }
  return progress?.backupType === BackupType.INCREMENTAL ? "incremental backup" : "full backup";
}

/**
 * All ranges at once, those with less than a chunk between them joined: the unit of work is a chunk anyway.
 *
 * @throws BlockmoverError INVALID_ARGUMENT when there are more than an agent takes
 */
export async function collectChanges(changes: ChangedRanges, signal: AbortSignal): Promise<WireChanges> {
  let ranges: ByteRange[] = [];
  for await (const range of changes.ranges(signal)) {
    ranges.push(range);
    if (ranges.length >= 2 * MAX_RANGES) {
      ranges = joinRanges(ranges);
      requireFewEnough(ranges);
    }
  }
  ranges = joinRanges(ranges);
  requireFewEnough(ranges);
  return { baseChangeId: changes.baseChangeId, ranges };
}

function joinRanges(ranges: readonly ByteRange[]): ByteRange[] {
  const joined: ByteRange[] = [];
  for (const range of [...ranges].sort((a, b) => a.offsetBytes - b.offsetBytes)) {
    const last = joined.at(-1);
    const endOfLast = last === undefined ? 0 : last.offsetBytes + last.lengthBytes;
    if (last !== undefined && range.offsetBytes < endOfLast + CHUNK_SIZE_BYTES) {
      const end = Math.max(endOfLast, range.offsetBytes + range.lengthBytes);
      joined[joined.length - 1] = { offsetBytes: last.offsetBytes, lengthBytes: end - last.offsetBytes };
    } else {
      joined.push(range);
    }
  }
  return joined;
}

function requireFewEnough(ranges: readonly ByteRange[]): void {
  if (ranges.length > MAX_RANGES) {
    throw new BlockmoverError("INVALID_ARGUMENT", `more than ${MAX_RANGES} changed ranges lie apart from each other`, {
      hint: "Back up without --agent, or with --full.",
    });
  }
}

function wrongKind(transferId: string): never {
  throw new BlockmoverError("INTERNAL", `transfer ${transferId} ended with the outcome of another kind`);
}
