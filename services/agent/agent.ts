/**
 * The agent: accepts transfers, queues them, starts a data mover for each, follows it to its end, and remembers.
 *
 * What always holds:
 * - A transfer that was accepted survives a crash of the agent: request, then journal, then the answer.
 * - It ends exactly once: the first end that is decided counts, and is durable before anyone sees it.
 * - Its place and its device are free again only when its data mover is gone, not merely when it has been told to go.
 * - At most one mover is ever given a transfer: its start is in the journal before it happens, and a transfer whose
 *   mover may have begun is never started again.
 * - Everything is bounded: queue, transfers at once, remembered ends, warnings; watchers hold no queue at all.
 *
 * What runs inside is decided in `tick`, by the clock that is passed in, and by calls; there is no other timer.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { clone, create, fromJsonString } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Clock } from "../common/clock.js";
import { BlockmoverError, messageOf } from "../common/errors.js";
import { Latch } from "../common/latch.js";
import type { Log } from "../common/log.js";
import {
  AttachRequest_FinishedSchema,
  type AttachRequest_Finished,
  type AttachRequest_Hello,
  type AttachRequest_Report,
} from "../gen/blockmover/v1/mover_pb.js";
import {
  TransferErrorSchema,
  TransferSchema,
  TransferState,
  type Transfer,
  type TransferError,
} from "../gen/blockmover/v1/transfer_pb.js";
import { encodeTransferError } from "../datapath/transfer-messages.js";
import { checkBackupSource, checkRestoreTarget } from "./device-check.js";
import type { Journal } from "./journal.js";
import type { MoverEndReport, MoverLauncher, RunningMover } from "./launcher.js";
import type { RequestStore, StartRequest } from "./request-store.js";
import { TransferQueue, type QueueLimits } from "./transfer-queue.js";
import { fingerprintOf, isTerminal, newTransfer, TransferRecord, type StopReason } from "./transfer-record.js";

export interface AgentLimits extends QueueLimits {
  /** Ended transfers that are remembered. */
  readonly maxEnded: number;
  /** From its start to its first attach. */
  readonly attachTimeoutMs: number;
  /** A mover whose stream is open and silent for so long hangs. */
  readonly heartbeatTimeoutMs: number;
  /** A mover that lives and has no stream for so long is given up. */
  readonly lostContactMs: number;
  /** From a wish to stop until the mover is killed. */
  readonly stopGraceMs: number;
}

export const defaultLimits: AgentLimits = {
  maxRunning: 4,
  maxQueued: 500,
  maxEnded: 1000,
  attachTimeoutMs: 30_000,
  heartbeatTimeoutMs: 30_000,
  lostContactMs: 60_000,
  stopGraceMs: 1_400,
};

export interface AgentOptions {
  readonly journal: Journal;
  readonly requests: RequestStore;
  readonly launcher: MoverLauncher;
  readonly limits: AgentLimits;
  readonly clock: Clock;
  readonly log: Log;
  /** The agent cannot go on: its journal failed. Movers go on; a new agent will find them. */
  readonly onFatal: (error: unknown) => void;
}

/** Watchers get at most ten messages a second. */
const WATCH_INTERVAL_MS = 100;
const MAX_WARNINGS = 16;
/** A mover that was told that its end is recorded has this long to go. */
const EXIT_GRACE_MS = 5_000;
/** A killed process that is still there after this is stuck in the kernel: its transfer ends, its place stays taken. */
const KILL_GRACE_MS = 10_000;

export class Agent {
  readonly #options: AgentOptions;
  readonly #records = new Map<string, TransferRecord>();
  readonly #queue: TransferQueue;
  /** Being accepted: not a transfer yet, but the id is taken. */
  readonly #accepting = new Map<string, { readonly fingerprint: string; readonly accepted: Promise<TransferRecord> }>();
  readonly #ended: string[] = [];
  readonly #settled = new Latch();
  readonly #closing = new AbortController();
  #nextArrival = 1;
  #isDraining = false;

  private constructor(options: AgentOptions) {
    this.#options = options;
    this.#queue = new TransferQueue(options.limits);
  }

  /** Takes up where the agent before it ended. */
  static async open(options: AgentOptions): Promise<Agent> {
    const agent = new Agent(options);
    await agent.#recover();
    return agent;
  }

  /**
   * Accepts a transfer, or finds the one that this request has started before.
   *
   * @throws BlockmoverError ALREADY_EXISTS, RESOURCE_EXHAUSTED, UNAVAILABLE, DEADLINE_EXCEEDED, and what the device check
   * throws; nothing is started then
   */
  async start(request: StartRequest): Promise<Transfer> {
    const { transferId } = request.value;
    const fingerprint = fingerprintOf(request);
    const known = this.#records.get(transferId) ?? this.#accepting.get(transferId);
    if (known !== undefined) {
      if (known.fingerprint !== fingerprint) {
        throw new BlockmoverError("ALREADY_EXISTS", `transfer ${transferId} exists, with other parameters`, {
          reason: "PARAMETERS_DIFFER",
          hint: "Choose a new id for another transfer.",
        });
      }
      return this.#snapshot("accepted" in known ? await known.accepted : known);
    }
    if (this.#isDraining) {
      throw shuttingDown();
    }
    const accepted = this.#accept(request, fingerprint);
    this.#accepting.set(transferId, { fingerprint, accepted });
    try {
      return this.#snapshot(await accepted);
    } finally {
      this.#accepting.delete(transferId);
    }
  }

  /** @throws BlockmoverError NOT_FOUND */
  async cancel(transferId: string): Promise<Transfer> {
    const record = this.#require(transferId);
    if (record.ending === undefined) {
      this.#options.log("info", "transfer.cancel", { transferId });
      await this.#stop(record, "cancel");
    }
    if (record.transfer.startTime === undefined) {
      await record.ending; // it was queued: its end waits for nobody
    }
    return this.#snapshot(record);
  }

  /** @throws BlockmoverError NOT_FOUND */
  get(transferId: string): Transfer {
    return this.#snapshot(this.#require(transferId));
  }

  /** All that are remembered, by their order of arrival, from `fromArrival` on. */
  list(options: { readonly states: readonly TransferState[]; readonly fromArrival: number; readonly limit: number }): {
    readonly transfers: readonly Transfer[];
    readonly nextArrival: number | undefined;
  } {
    const positions = new Map(
      this.#queue.inOrder(this.#options.clock.nowMs()).map(({ id }, index) => [id, index + 1] as const),
    );
    const transfers: Transfer[] = [];
    // Arrival is decided before the transfer is written down, so the order of the map may differ.
    const records = [...this.#records.values()].sort((a, b) => a.arrival - b.arrival);
    for (const record of records) {
      const { states, fromArrival, limit } = options;
      if (record.arrival < fromArrival || (states.length > 0 && !states.includes(record.transfer.state))) {
        continue;
      }
      if (transfers.length === limit) {
        return { transfers, nextArrival: record.arrival };
      }
      transfers.push(record.snapshot(positions.get(record.id) ?? 0));
    }
    return { transfers, nextArrival: undefined };
  }

  /**
   * The transfer as it is, then as it changes, at most ten times a second, the last in a terminal state.
   *
   * Nothing is kept for a watcher that is slow: it looks when it is ready, and sees what there is then.
   *
   * @throws BlockmoverError NOT_FOUND; UNAVAILABLE when the agent ends first
   */
  async *watch(transferId: string, signal: AbortSignal): AsyncGenerator<Transfer> {
    const record = this.#require(transferId);
    const until = AbortSignal.any([signal, this.#closing.signal]);
    let seen = -1n;
    while (!signal.aborted) {
      if (record.transfer.revision !== seen) {
        seen = record.transfer.revision;
        const transfer = this.#snapshot(record);
        yield transfer;
        if (isTerminal(transfer.state)) {
          return;
        }
        await new Latch().next({ signal: until, timeoutMs: WATCH_INTERVAL_MS });
      } else {
        await record.changed.next({ signal: until });
      }
      if (this.#closing.signal.aborted) {
        throw shuttingDown();
      }
    }
  }

  /**
   * A mover says hello.
   *
   * @throws BlockmoverError NOT_FOUND, UNAUTHENTICATED, FAILED_PRECONDITION
   */
  async attach(hello: AttachRequest_Hello): Promise<Attachment> {
    const record = this.#records.get(hello.transferId);
    if (record === undefined) {
      throw new BlockmoverError("NOT_FOUND", `there is no transfer ${hello.transferId}`);
    }
    const session = hashOf(hello.session);
    const isOwner = record.sessionHash === undefined || equalHashes(record.sessionHash, session);
    if (!equalHashes(record.tokenHash, hashOf(hello.token)) || !isOwner || hello.session.length < 16) {
      throw new BlockmoverError("UNAUTHENTICATED", "wrong token, or one that has been used");
    }
    if (record.ending !== undefined && !record.endedByMover) {
      throw new BlockmoverError("FAILED_PRECONDITION", `transfer ${record.id} has ended`);
    }
    const request =
      hello.hasRequest || record.ending !== undefined
        ? undefined
        : await this.#options.requests.get(record.id, record.kind);
    if (request === undefined && !hello.hasRequest && record.ending === undefined) {
      const why = "its request was lost before the data mover had it";
      const value = errorMessage("DATA_LOSS", why, "Start the transfer again.");
      await this.#end(record, TransferState.FAILED, { case: "error", value });
      throw new BlockmoverError("FAILED_PRECONDITION", `transfer ${record.id}: ${why}`);
    }
    if (record.sessionHash === undefined) {
      record.sessionHash = session;
      await this.#save(record);
    }
    if (record.mover === undefined && record.identity === undefined && record.ending === undefined) {
      // The agent before this one crashed between the start and writing down which process it was.
      record.identity = await this.#options.launcher.identify(hello.pid);
      if (record.identity !== undefined) {
        await this.#save(record);
        this.#follow(record, await this.#options.launcher.adopt(record.id, record.identity));
      }
    }
    record.attachment?.wake();
    const attachment = new Attachment(record, request, this.#closing.signal);
    record.attachment = attachment;
    record.hasAttached = true;
    record.lastHeardMs = this.#options.clock.nowMs();
    this.#options.log("info", "mover.attached", { transferId: record.id, pid: hello.pid });
    return attachment;
  }

  /** A mover's stream has ended. */
  detach(attachment: Attachment): void {
    const { record } = attachment;
    if (record.attachment === attachment) {
      record.attachment = undefined;
      record.lastHeardMs = this.#options.clock.nowMs();
      this.#options.log("info", "mover.detached", { transferId: record.id });
    }
  }

  /** A mover reports. */
  async report(attachment: Attachment, report: AttachRequest_Report): Promise<void> {
    const { record } = attachment;
    if (record.attachment !== attachment) {
      return; // replaced by a newer stream
    }
    record.lastHeardMs = this.#options.clock.nowMs();
    if (record.ending !== undefined) {
      return;
    }
    if (record.transfer.state === TransferState.STARTING) {
      record.change((transfer) => (transfer.state = TransferState.RUNNING));
      await this.#save(record);
    }
    if (report.requestReceived) {
      await this.#options.requests.remove(record.id);
    }
    if (report.progress !== undefined) {
      record.advance(report.progress, report.warnings, MAX_WARNINGS);
    } else if (report.warnings.length > 0) {
      const { warnings } = report;
      record.change((transfer) => (transfer.warnings = [...transfer.warnings, ...warnings].slice(-MAX_WARNINGS)));
    }
  }

  /** A mover has finished. Resolves when its outcome is durable. */
  async finished(attachment: Attachment, finished: AttachRequest_Finished): Promise<void> {
    const { record } = attachment;
    record.lastHeardMs = this.#options.clock.nowMs();
    await this.#endAsMoverSays(record, finished);
    attachment.finishRecorded();
  }

  /** Looks at the clock: deadlines, silence, and stops that take too long. To be called several times a second. */
  tick(): void {
    const nowMs = this.#options.clock.nowMs();
    for (const record of this.#records.values()) {
      if (!record.isTerminal) {
        this.#inBackground(this.#lookAfter(record, nowMs));
      } else if (record.mover !== undefined && record.killedMs === undefined) {
        if (nowMs - record.lastHeardMs > EXIT_GRACE_MS) {
          this.#kill(record, nowMs, undefined);
        }
      }
    }
    this.#schedule();
  }

  /** Takes no more transfers and starts none; resolves when no mover runs any more, or after `graceMs`. */
  async drain(graceMs: number): Promise<void> {
    this.#isDraining = true;
    const endMs = performance.now() + graceMs;
    while (this.#queue.runningCount > 0) {
      const leftMs = endMs - performance.now();
      if (leftMs <= 0) {
        return;
      }
      await this.#settled.next({ timeoutMs: leftMs });
    }
  }

  /** Ends all streams with UNAVAILABLE. Movers go on. The journal is the caller's to close. */
  close(): void {
    this.#isDraining = true;
    this.#closing.abort(shuttingDown());
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }

  get counts(): { readonly running: number; readonly queued: number } {
    return { running: this.#queue.runningCount, queued: this.#queue.queuedCount };
  }

  async #accept(request: StartRequest, fingerprint: string): Promise<TransferRecord> {
    const { clock, requests, journal, log } = this.#options;
    const { transferId } = request.value;
    const transfer = newTransfer(request, clock.nowMs());
    const spec = request.value.spec;
    if (spec === undefined) {
      throw new BlockmoverError("INVALID_ARGUMENT", "a transfer needs its parameters");
    }
    const exclusiveKeys = await (request.case === "backup"
      ? checkBackupSource(request.value.spec ?? unreachable())
      : checkRestoreTarget(request.value.spec ?? unreachable()));
    const record = new TransferRecord({ transfer, arrival: this.#nextArrival++, fingerprint, exclusiveKeys });
    if (record.deadlineMs !== undefined && record.deadlineMs <= clock.nowMs()) {
      throw deadlinePassed(transferId);
    }
    this.#queue.requireRoom(this.#accepting.size - 1);
    try {
      await requests.put(transferId, request);
      await this.#write(journal.set(transferId, record.toStored()));
    } catch (error) {
      await requests.remove(transferId).catch(() => undefined); // the first failure is the one to tell
      throw error instanceof BlockmoverError
        ? error
        : new BlockmoverError(
            "RESOURCE_EXHAUSTED",
            `transfer ${transferId} cannot be written down: ${messageOf(error)}`,
            {
              cause: error,
              hint: "Make room in the agent's state directory.",
            },
          );
    }
    this.#records.set(transferId, record);
    this.#enqueue(record);
    log("info", "transfer.accepted", { transferId, kind: record.kind });
    this.#schedule();
    return record;
  }

  #enqueue(record: TransferRecord): void {
    this.#queue.add({
      id: record.id,
      priority: record.transfer.priority,
      queuedAtMs: this.#options.clock.nowMs(),
      arrival: record.arrival,
      exclusiveKeys: record.exclusiveKeys,
    });
  }

  #schedule(): void {
    if (this.#isDraining) {
      return;
    }
    for (;;) {
      const id = this.#queue.takeNext(this.#options.clock.nowMs());
      if (id === undefined) {
        return;
      }
      this.#inBackground(this.#launch(this.#require(id)));
    }
  }

  async #launch(record: TransferRecord): Promise<void> {
    const { clock, launcher, log } = this.#options;
    const transferId = record.id;
    const token = randomBytes(32).toString("base64url");
    record.tokenHash = hashOf(token);
    record.lastHeardMs = clock.nowMs();
    record.change((transfer) => {
      transfer.state = TransferState.STARTING;
      transfer.startTime = timestampFromMs(clock.nowMs());
    });
    await this.#save(record);
    if (record.stop !== undefined) {
      await this.#endStopped(record); // before there was anything to stop
      return;
    }
    let mover: RunningMover;
    try {
      mover = await launcher.launch({ transferId, token });
    } catch (error) {
      await this.#end(record, TransferState.FAILED, { case: "error", value: encodeTransferError(error) });
      return;
    }
    log("info", "mover.started", { transferId, pid: mover.identity.pid });
    record.identity = mover.identity;
    this.#follow(record, mover);
    await this.#save(record);
  }

  /** Takes notice when the mover's process is gone. */
  #follow(record: TransferRecord, mover: RunningMover): void {
    record.mover = mover;
    this.#inBackground(
      mover.ended.then(async (report) => {
        if (!this.#closing.signal.aborted) {
          await this.#moverEnded(record, report);
        }
      }),
    );
    if (record.stop !== undefined && !record.hasAttached && record.ending === undefined) {
      this.#kill(record, this.#options.clock.nowMs(), undefined);
    }
  }

  async #moverEnded(record: TransferRecord, report: MoverEndReport): Promise<void> {
    const { launcher, log } = this.#options;
    log("info", "mover.ended", { transferId: record.id, exitCode: report.exitCode, signal: report.signal });
    if (record.ending === undefined) {
      const outcome = await this.#readOutcome(record);
      if (outcome !== undefined) {
        await this.#endAsMoverSays(record, outcome);
      } else if (record.stop !== undefined) {
        await this.#endStopped(record);
      } else {
        const value = record.failure ?? describeEnd(record, report);
        await this.#end(record, TransferState.FAILED, { case: "error", value });
      }
    }
    await record.ending;
    record.mover = undefined;
    await launcher.cleanUp(record.id, { keepLog: record.transfer.state === TransferState.FAILED });
    this.#release(record);
  }

  async #readOutcome(record: TransferRecord): Promise<AttachRequest_Finished | undefined> {
    const json = await this.#options.launcher.readOutcome(record.id);
    if (json === undefined) {
      return undefined;
    }
    try {
      return fromJsonString(AttachRequest_FinishedSchema, json, { ignoreUnknownFields: true });
    } catch (error) {
      this.#options.log("error", "mover.outcome.unreadable", { transferId: record.id, error: messageOf(error) });
      return undefined;
    }
  }

  #endAsMoverSays(record: TransferRecord, { outcome }: AttachRequest_Finished): Promise<void> {
    if (record.ending !== undefined) {
      return record.ending;
    }
    record.endedByMover = true;
    switch (outcome.case) {
      case "backupResult":
      case "restoreResult":
        return this.#end(record, TransferState.COMPLETED, outcome);
      case "error":
        return this.#end(record, TransferState.FAILED, outcome);
      case "cancelled":
        return this.#endStopped(record);
      case undefined:
        return this.#end(record, TransferState.FAILED, {
          case: "error",
          value: errorMessage("INTERNAL", "the data mover finished without saying how"),
        });
    }
  }

  #endStopped(record: TransferRecord): Promise<void> {
    return record.stop === "deadline"
      ? this.#end(record, TransferState.FAILED, {
          case: "error",
          value: encodeTransferError(deadlinePassed(record.id)),
        })
      : this.#end(record, TransferState.CANCELLED, { case: undefined });
  }

  /** The end of a transfer: the first one counts. Resolves when it is durable and visible. */
  #end(record: TransferRecord, state: TransferState, outcome: Transfer["outcome"]): Promise<void> {
    record.ending ??= (async () => {
      const { journal, requests, clock, log } = this.#options;
      const { id: transferId } = record;
      this.#queue.remove(transferId);
      const ended = clone(TransferSchema, record.transfer);
      ended.state = state;
      ended.outcome = outcome;
      ended.endTime = timestampFromMs(clock.nowMs());
      ended.revision++;
      await this.#write(journal.set(transferId, record.toStored(ended)));
      record.transfer = ended;
      record.lastHeardMs = clock.nowMs();
      record.changed.trip();
      await requests.remove(transferId);
      const error = outcome.case === "error" ? outcome.value : undefined;
      log(error === undefined ? "info" : "warn", "transfer.ended", {
        transferId,
        state: TransferState[state],
        code: error?.code,
        error: error?.message,
      });
      if (record.mover === undefined) {
        this.#release(record);
      }
      await this.#remember(record);
    })();
    return record.ending;
  }

  /** Wants the end of a transfer. Resolves when the wish is durable. */
  async #stop(record: TransferRecord, reason: StopReason): Promise<void> {
    const { clock } = this.#options;
    if (record.stop === undefined) {
      record.stop = reason;
      record.stopRequestedMs = clock.nowMs();
      if (this.#queue.remove(record.id)) {
        await this.#endStopped(record);
        return;
      }
      record.change((transfer) => (transfer.state = TransferState.CANCELLING));
    }
    await this.#save(record);
    record.attachment?.wake();
    if (!record.hasAttached && record.mover !== undefined && record.ending === undefined) {
      this.#kill(record, clock.nowMs(), undefined); // it has no request yet: there is nothing to undo
    }
  }

  async #lookAfter(record: TransferRecord, nowMs: number): Promise<void> {
    const { limits } = this.#options;
    if (record.ending !== undefined) {
      return;
    }
    if (record.deadlineMs !== undefined && nowMs >= record.deadlineMs && record.stop === undefined) {
      await this.#stop(record, "deadline");
      return;
    }
    if (record.transfer.state === TransferState.QUEUED) {
      return;
    }
    if (record.killedMs !== undefined) {
      if (nowMs - record.killedMs > KILL_GRACE_MS) {
        await this.#endWithoutMover(record, errorMessage("UNAVAILABLE", "the data mover was killed and does not go"));
      }
      return;
    }
    if (record.stopRequestedMs !== undefined && nowMs - record.stopRequestedMs > limits.stopGraceMs) {
      this.#kill(record, nowMs, undefined);
      return;
    }
    const silentMs = nowMs - record.lastHeardMs;
    if (record.attachment !== undefined) {
      if (silentMs > limits.heartbeatTimeoutMs) {
        this.#kill(record, nowMs, `the data mover hung: nothing was heard of it for ${seconds(silentMs)}`);
      }
    } else if (!record.hasAttached && record.transfer.state === TransferState.STARTING) {
      if (silentMs > limits.attachTimeoutMs) {
        this.#kill(record, nowMs, `the data mover did not attach within ${seconds(silentMs)} of its start`);
      }
    } else if (silentMs > limits.lostContactMs) {
      this.#kill(record, nowMs, `the data mover lost contact with the agent for ${seconds(silentMs)}`);
    }
  }

  #kill(record: TransferRecord, nowMs: number, why: string | undefined): void {
    const { log } = this.#options;
    record.killedMs ??= nowMs;
    if (why !== undefined) {
      record.failure = errorMessage("UNAVAILABLE", why, "Start the transfer again.");
    }
    log("warn", "mover.kill", { transferId: record.id, pid: record.mover?.identity.pid, reason: why ?? record.stop });
    if (record.mover !== undefined) {
      record.mover.kill();
    } else if (record.ending === undefined) {
      // No process is known: there never was one, or it went with the agent before this one.
      this.#inBackground(this.#endWithoutMover(record, record.failure));
    }
  }

  async #endWithoutMover(record: TransferRecord, failure: TransferError | undefined): Promise<void> {
    if (record.stop !== undefined) {
      await this.#endStopped(record);
    } else {
      const value = failure ?? errorMessage("INTERNAL", "the data mover is gone");
      await this.#end(record, TransferState.FAILED, { case: "error", value });
    }
  }

  #release(record: TransferRecord): void {
    this.#queue.release(record.id);
    this.#settled.trip();
    this.#schedule();
  }

  /** Ended transfers stay for a while, so that starting one again finds it; the oldest go first. */
  async #remember(record: TransferRecord): Promise<void> {
    this.#ended.push(record.id);
    while (this.#ended.length > this.#options.limits.maxEnded) {
      const oldest = this.#ended.shift();
      if (oldest !== undefined) {
        this.#records.delete(oldest);
        await this.#options.launcher.cleanUp(oldest, { keepLog: false });
        await this.#options.journal.delete(oldest);
      }
    }
  }

  async #recover(): Promise<void> {
    const { journal, requests, launcher, clock, log } = this.#options;
    const records = [...journal.entries()].map(({ value }) => TransferRecord.fromStored(value));
    records.sort((a, b) => a.arrival - b.arrival);
    for (const record of records) {
      this.#records.set(record.id, record);
      this.#nextArrival = Math.max(this.#nextArrival, record.arrival + 1);
    }
    await requests.removeAllBut((id) => this.#records.get(id)?.isTerminal === false);
    for (const record of records) {
      record.lastHeardMs = clock.nowMs();
      if (record.isTerminal) {
        record.ending = Promise.resolve();
        this.#ended.push(record.id);
        if (record.identity !== undefined) {
          // Its mover may still wait to hear that its end is recorded: it will ask, or be killed after a while.
          this.#follow(record, await launcher.adopt(record.id, record.identity));
        }
        continue;
      }
      if (record.transfer.state === TransferState.QUEUED) {
        if ((await requests.get(record.id, record.kind)) === undefined) {
          await this.#end(record, TransferState.FAILED, {
            case: "error",
            value: errorMessage("DATA_LOSS", "the request was lost while it was queued", "Start the transfer again."),
          });
        } else if (record.stop !== undefined) {
          await this.#endStopped(record);
        } else {
          this.#enqueue(record);
        }
        continue;
      }
      log("info", "transfer.recovered", { transferId: record.id, pid: record.identity?.pid });
      this.#queue.occupy(record.id, record.exclusiveKeys);
      record.hasAttached = record.sessionHash !== undefined;
      record.stopRequestedMs = record.stop === undefined ? undefined : clock.nowMs();
      if (record.identity !== undefined) {
        this.#follow(record, await launcher.adopt(record.id, record.identity));
      }
    }
    this.#schedule();
  }

  async #save(record: TransferRecord): Promise<void> {
    if (record.ending === undefined) {
      await this.#write(this.#options.journal.set(record.id, record.toStored()));
    }
  }

  /** What the journal does not take ends the agent, whoever else hears of it. */
  async #write(written: Promise<void>): Promise<void> {
    this.#inBackground(written);
    await written;
  }

  #require(transferId: string): TransferRecord {
    const record = this.#records.get(transferId);
    if (record === undefined) {
      throw new BlockmoverError("NOT_FOUND", `there is no transfer ${transferId}`, {
        hint: "`blockmover transfer list` shows those that the agent remembers.",
      });
    }
    return record;
  }

  #snapshot(record: TransferRecord): Transfer {
    if (record.transfer.state !== TransferState.QUEUED) {
      return record.snapshot(0);
    }
    const order = this.#queue.inOrder(this.#options.clock.nowMs());
    return record.snapshot(order.findIndex(({ id }) => id === record.id) + 1);
  }

  /** What nobody awaits: if it fails, the agent cannot go on. */
  #inBackground(work: Promise<void>): void {
    work.catch((error: unknown) => {
      if (!this.#closing.signal.aborted) {
        this.#options.log("error", "agent.failed", { error: messageOf(error) });
        this.#options.onFatal(error);
      }
    });
  }
}

/** One stream of a mover, as seen from the agent: what there is to say to it. */
export class Attachment {
  readonly record: TransferRecord;
  /** What it is welcomed with; undefined when it has it. */
  readonly request: StartRequest | undefined;
  readonly #closing: AbortSignal;
  readonly #news = new Latch();
  #isRecorded = false;

  constructor(record: TransferRecord, request: StartRequest | undefined, closing: AbortSignal) {
    this.record = record;
    this.request = request;
    this.#closing = closing;
  }

  wake(): void {
    this.#news.trip();
  }

  finishRecorded(): void {
    this.#isRecorded = true;
    this.wake();
  }

  /**
   * What to tell the mover, in order; ends after "recorded", or when `signal` is aborted.
   *
   * "replaced": another stream has taken its place. @throws BlockmoverError UNAVAILABLE when the agent ends
   */
  async *news(signal: AbortSignal): AsyncGenerator<"stop" | "recorded" | "replaced" | "dismissed"> {
    let hasSaidStop = false;
    const until = AbortSignal.any([signal, this.#closing]);
    while (!signal.aborted) {
      if (this.record.attachment !== this) {
        yield "replaced";
        return;
      }
      if (this.#isRecorded) {
        yield "recorded";
        return;
      }
      if (this.record.ending !== undefined && !this.record.endedByMover) {
        yield "dismissed";
        return;
      }
      if (this.record.stop !== undefined && !hasSaidStop) {
        hasSaidStop = true;
        yield "stop";
        continue;
      }
      if (this.#closing.aborted) {
        throw shuttingDown();
      }
      await this.#news.next({ signal: until });
    }
  }
}

function describeEnd(record: TransferRecord, report: MoverEndReport): TransferError {
  const said = report.lastWords === "" ? "" : `; it said: ${report.lastWords}`;
  const again = "Start the transfer again.";
  if (report.outOfMemory) {
    return errorMessage(
      "RESOURCE_EXHAUSTED",
      "the data mover was killed while the node ran out of memory",
      "Give the node or the agent's memory limit more room, or run fewer transfers at once.",
    );
  }
  if (report.signal !== undefined) {
    return errorMessage("UNAVAILABLE", `the data mover was killed by ${report.signal}${said}`, again);
  }
  if (report.exitCode !== undefined) {
    return errorMessage("INTERNAL", `the data mover ended by itself with exit status ${report.exitCode}${said}`, again);
  }
  const when = record.hasAttached ? "while the agent was away or it ran" : "before it had attached";
  return errorMessage("UNAVAILABLE", `the data mover ended without a result, ${when}${said}`, again);
}

function errorMessage(code: string, message: string, hint?: string): TransferError {
  return create(TransferErrorSchema, { code, message, hint });
}

function deadlinePassed(transferId: string): BlockmoverError {
  return new BlockmoverError("DEADLINE_EXCEEDED", `the deadline of transfer ${transferId} has passed`);
}

function shuttingDown(): BlockmoverError {
  return new BlockmoverError("UNAVAILABLE", "the agent is shutting down", {
    reason: "SHUTTING_DOWN",
    hint: "Try again in a moment; transfers that run go on.",
  });
}

function unreachable(): never {
  throw new BlockmoverError("INTERNAL", "a validated request has its parameters");
}

function hashOf(secret: string | Uint8Array): string {
  return createHash("sha256").update(secret).digest("hex");
}

function equalHashes(a: string | undefined, b: string): boolean {
  return a !== undefined && a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b));
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1000)} s`;
}
