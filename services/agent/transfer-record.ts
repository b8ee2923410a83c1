/**
 * One transfer as the agent knows it: the message that callers see, what the journal keeps beside it, and what only this
 * process has.
 */
import { createHash } from "node:crypto";
import { clone, create, fromJson, toBinary, toJson, type JsonValue } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { Latch } from "../common/latch.js";
import {
  RepositoryLocationSchema,
  TransferProgressSchema,
  TransferSchema,
  TransferState,
  type RepositoryLocation,
  type Transfer,
  type TransferError,
  type TransferProgress,
} from "../gen/blockmover/v1/transfer_pb.js";
import { StartBackupRequestSchema, StartRestoreRequestSchema } from "../gen/blockmover/v1/agent_pb.js";
import type { MoverIdentity, RunningMover } from "./launcher.js";
import type { StartRequest } from "./request-store.js";

/** Why a transfer is made to end early. */
export type StopReason = "cancel" | "deadline";

/** What the journal keeps of a transfer. */
interface StoredTransfer {
  readonly transfer: JsonValue;
  readonly arrival: number;
  readonly fingerprint: string;
  readonly exclusiveKeys: readonly string[];
  readonly tokenHash?: string;
  readonly sessionHash?: string;
  readonly identity?: MoverIdentity;
  readonly stop?: StopReason;
  readonly endedByMover?: boolean;
}

/** Revisions of one life of the agent stay below this, so that those of the next are above. */
const REVISIONS_A_LIFE = 2n ** 32n;

export class TransferRecord {
  transfer: Transfer;
  readonly arrival: number;
  /** Hash of the request without its password. */
  readonly fingerprint: string;
  readonly exclusiveKeys: readonly string[];
  /** Of the one-time token, and of the session that owns it. */
  tokenHash: string | undefined;
  sessionHash: string | undefined;
  identity: MoverIdentity | undefined;
  stop: StopReason | undefined;
  /** The mover itself said how it ended: it may say so again. */
  endedByMover = false;

  /** Trips at each change of `transfer`. */
  readonly changed = new Latch();
  mover: RunningMover | undefined;
  /** Set while a stream of the mover is open. */
  attachment: { wake(): void } | undefined;
  /** When something was last heard of the mover, or it was last started or lost. */
  lastHeardMs = 0;
  hasAttached = false;
  stopRequestedMs: number | undefined;
  killedMs: number | undefined;
  /** Why the mover was killed, if not for `stop`. */
  failure: TransferError | undefined;
  /** Set as soon as the end is decided; settles when it is durable and visible. */
  ending: Promise<void> | undefined;

  constructor(options: {
    readonly transfer: Transfer;
    readonly arrival: number;
    readonly fingerprint: string;
    readonly exclusiveKeys: readonly string[];
  }) {
    this.transfer = options.transfer;
    this.arrival = options.arrival;
    this.fingerprint = options.fingerprint;
    this.exclusiveKeys = options.exclusiveKeys;
  }

  get id(): string {
    return this.transfer.transferId;
  }

  get kind(): StartRequest["case"] {
    return this.transfer.spec.case === "restore" ? "restore" : "backup";
  }

  get isTerminal(): boolean {
    return isTerminal(this.transfer.state);
  }

  get deadlineMs(): number | undefined {
    return this.transfer.deadline && timestampMs(this.transfer.deadline);
  }

  /** Changes what callers see. */
  change(mutate: (transfer: Transfer) => void): void {
    mutate(this.transfer);
    this.transfer.revision++;
    this.changed.trip();
  }

  /** Takes over progress, of which no counter goes back. */
  advance(progress: TransferProgress, warnings: readonly string[], maxWarnings: number): void {
    this.change((transfer) => {
      transfer.progress = monotone(transfer.progress, progress);
      transfer.warnings = [...transfer.warnings, ...warnings].slice(-maxWarnings);
    });
  }

  /** A copy for callers: it does not change under their hands. */
  snapshot(queuePosition: number): Transfer {
    const copy = clone(TransferSchema, this.transfer);
    copy.queuePosition = queuePosition;
    return copy;
  }

  /** For the journal; `transfer` in place of the present one. */
  toStored(transfer: Transfer = this.transfer): StoredTransfer {
    return {
      transfer: toJson(TransferSchema, transfer),
      arrival: this.arrival,
      fingerprint: this.fingerprint,
      exclusiveKeys: this.exclusiveKeys,
      tokenHash: this.tokenHash,
      sessionHash: this.sessionHash,
      identity: this.identity,
      stop: this.stop,
      endedByMover: this.endedByMover,
    };
  }

  static fromStored(value: unknown): TransferRecord {
    const stored = value as StoredTransfer;
    const transfer = fromJson(TransferSchema, stored.transfer, { ignoreUnknownFields: true });
    transfer.revision = (transfer.revision / REVISIONS_A_LIFE + 1n) * REVISIONS_A_LIFE;
    const record = new TransferRecord({ ...stored, transfer });
    record.tokenHash = stored.tokenHash;
    record.sessionHash = stored.sessionHash;
    record.identity = stored.identity;
    record.stop = stored.stop;
    record.endedByMover = stored.endedByMover ?? false;
    return record;
  }
}

/** A transfer that has just been asked for, as callers may see it. */
export function newTransfer(request: StartRequest, nowMs: number): Transfer {
  const { transferId, priority, deadline } = request.value;
  const transfer = create(TransferSchema, {
    transferId,
    priority,
    deadline,
    state: TransferState.QUEUED,
    createTime: timestampFromMs(nowMs),
    revision: 1n,
  });
  const redacted = withoutSecrets(request);
  if (redacted.case === "backup" && redacted.value.spec !== undefined) {
    if (redacted.value.spec.changes !== undefined) {
      redacted.value.spec.changes.ranges = [];
    }
    transfer.spec = { case: "backup", value: redacted.value.spec };
  } else if (redacted.case === "restore" && redacted.value.spec !== undefined) {
    transfer.spec = { case: "restore", value: redacted.value.spec };
  }
  return transfer;
}

/** The same for two requests exactly when they differ in nothing but the password. */
export function fingerprintOf(request: StartRequest): string {
  const redacted = withoutSecrets(request);
  const bytes =
    redacted.case === "backup"
      ? toBinary(StartBackupRequestSchema, redacted.value)
      : toBinary(StartRestoreRequestSchema, redacted.value);
  return createHash("sha256").update(redacted.case).update(bytes).digest("hex");
}

export function isTerminal(state: TransferState): boolean {
  return state === TransferState.COMPLETED || state === TransferState.FAILED || state === TransferState.CANCELLED;
}

function withoutSecrets(request: StartRequest): StartRequest {
  const redacted: StartRequest =
    request.case === "backup"
      ? { case: "backup", value: clone(StartBackupRequestSchema, request.value) }
      : { case: "restore", value: clone(StartRestoreRequestSchema, request.value) };
  const { spec } = redacted.value;
  if (spec?.repository !== undefined) {
    spec.repository = redact(spec.repository);
  }
  return redacted;
}

function redact(repository: RepositoryLocation): RepositoryLocation {
  return create(RepositoryLocationSchema, { url: repository.url });
}

function monotone(before: TransferProgress | undefined, now: TransferProgress): TransferProgress {
  if (before === undefined) {
    return now;
  }
  const larger = (a: bigint, b: bigint): bigint => (a > b ? a : b);
  return create(TransferProgressSchema, {
    ...now,
    phase: now.phase > before.phase ? now.phase : before.phase,
    doneBytes: larger(before.doneBytes, now.doneBytes),
    incrementalBytes: larger(before.incrementalBytes, now.incrementalBytes),
    zeroBytes: larger(before.zeroBytes, now.zeroBytes),
  });
}
