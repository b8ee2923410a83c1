/**
 * The data mover as a process of its own: runs one transfer for an agent, over one Attach stream at a time.
 *
 * - The work does not depend on the stream: while the agent is away it goes on, and the mover dials until the agent is
 *   back. After `awayLimitMs` without it, the work is given up cleanly.
 * - The outcome is written to the result file before it is sent, so that it is never lost, even if the agent comes
 *   back after this process has gone.
 * - A mover that its agent does not want any more (the transfer ended without it) stops, and leaves nothing.
 * - What it sends is bounded: progress is looked at when it can be sent, warnings are the last few.
 */
import { randomBytes } from "node:crypto";
import { create, toJsonString } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { isCancelled, sleep } from "../common/cancellation.js";
import { BlockmoverError } from "../common/errors.js";
import { Latch } from "../common/latch.js";
import { openAgentTransport } from "../common/rpc/agent-address.js";
import { writeFileDurably } from "../common/write-file-durably.js";
import {
  AttachRequest_FinishedSchema,
  AttachRequestSchema,
  MoverService,
  type AttachRequest,
  type AttachRequest_Finished,
  type AttachResponse,
} from "../gen/blockmover/v1/mover_pb.js";
import type { TransferProgress } from "../gen/blockmover/v1/transfer_pb.js";
import { runBackup, runRestore, type TransferObserver } from "./data-mover.js";
import type { MoverBootstrap } from "./mover-bootstrap.js";
import {
  decodeBackupSpec,
  decodeRestoreSpec,
  encodeBackupResult,
  encodeProgress,
  encodeRestoreResult,
  encodeTransferError,
} from "./transfer-messages.js";
import type { BackupType } from "./uploader/backup.js";
import type { Progress } from "./uploader/progress.js";

/** How often progress is looked at; the agent passes on at most 10 a second. */
const REPORT_INTERVAL_MS = 100;
const DEFAULT_HEARTBEAT_MS = 1_000;
const FIRST_REDIAL_MS = 50;
const MAX_REDIAL_MS = 1_000;
const MAX_WARNINGS = 16;

type Work = NonNullable<Extract<AttachResponse["message"], { case: "welcome" }>["value"]["request"]>;

/** How a mover's life ended: what it did is recorded by the agent, or is only in the result file, or was unwanted. */
export type MoverEnd = "recorded" | "unrecorded" | "dismissed";

/**
 * Runs the transfer that `bootstrap` names until its outcome is recorded, or the agent has been away too long.
 *
 * @param stop aborted to end it early: the transfer fails with the signal's reason
 */
export async function runAttachedMover(bootstrap: MoverBootstrap, stop: AbortSignal): Promise<MoverEnd> {
  return new AttachedMover(bootstrap, stop).run();
}

class AttachedMover {
  readonly #bootstrap: MoverBootstrap;
  readonly #session = randomBytes(32);
  readonly #cancelled = new AbortController();
  /** Ends the work for a reason that is not a cancel. */
  readonly #givenUp = new AbortController();
  readonly #changed = new Latch();
  #work: Promise<void> | undefined;
  #progress: { readonly progress: Progress; readonly type: BackupType | undefined } | undefined;
  #warnings: string[] = [];
  #requestReceived = false;
  #heartbeatMs = DEFAULT_HEARTBEAT_MS;
  #outcome: AttachRequest_Finished | undefined;
  #recorded = false;
  #dismissed = false;

  constructor(bootstrap: MoverBootstrap, stop: AbortSignal) {
    this.#bootstrap = bootstrap;
    const onStop = (): void => this.#givenUp.abort(stop.reason);
    if (stop.aborted) {
      onStop();
    }
    stop.addEventListener("abort", onStop, { once: true });
  }

  async run(): Promise<MoverEnd> {
    const { awayLimitMs } = this.#bootstrap;
    let lastSeenMs = performance.now();
    let redialMs = FIRST_REDIAL_MS;
    for (;;) {
      const wasWelcome = await this.#attachOnce();
      if (this.#recorded) {
        await this.#work;
        return "recorded";
      }
      if (this.#dismissed) {
        this.#givenUp.abort(new BlockmoverError("FAILED_PRECONDITION", "the agent has no use for this data mover"));
        await this.#work;
        return "dismissed";
      }
      if (wasWelcome) {
        lastSeenMs = performance.now();
        redialMs = FIRST_REDIAL_MS;
      }
      if (this.#work === undefined && this.#givenUp.signal.aborted) {
        return "dismissed";
      }
      const awayMs = performance.now() - lastSeenMs;
      if (awayMs > awayLimitMs) {
        const seconds = Math.round(awayMs / 1000);
        this.#givenUp.abort(
          new BlockmoverError("UNAVAILABLE", `the agent was away for ${seconds} s, so the transfer was given up`, {
            hint: "Start it again when the agent is back.",
          }),
        );
        await this.#work;
        return "unrecorded";
      }
      await sleep(redialMs);
      redialMs = Math.min(redialMs * 2, MAX_REDIAL_MS);
    }
  }

  /** One stream from hello to its end, however it ends; says whether the agent welcomed this mover. */
  async #attachOnce(): Promise<boolean> {
    // A transport of its own: a broken HTTP/2 session must not outlive the stream.
    const transport = openAgentTransport({ kind: "unix", path: this.#bootstrap.agentSocket });
    const ended = new AbortController();
    let isWelcome = false;
    try {
      const client = createClient(MoverService, transport);
      for await (const { message } of client.attach(this.#outgoing(ended.signal), { signal: ended.signal })) {
        switch (message.case) {
          case "welcome":
            isWelcome = true;
            if (message.value.heartbeatInterval !== undefined) {
              this.#heartbeatMs = durationMs(message.value.heartbeatInterval);
            }
            this.#begin(message.value.request);
            break;
          case "cancel":
            this.#cancelled.abort(new DOMException("cancelled by the agent", "AbortError"));
            break;
          case "finishedRecorded":
            this.#recorded = true;
            return isWelcome;
          case undefined:
            break; // from a newer agent
        }
      }
    } catch (error) {
      const { code } = ConnectError.from(error);
      this.#dismissed ||= code === Code.Unauthenticated || code === Code.NotFound || code === Code.FailedPrecondition;
    } finally {
      ended.abort();
      this.#changed.trip();
    }
    return isWelcome;
  }

  /** What this side says on one stream. */
  async *#outgoing(signal: AbortSignal): AsyncGenerator<AttachRequest> {
    const { transferId, token } = this.#bootstrap;
    yield create(AttachRequestSchema, {
      message: {
        case: "hello",
        value: {
          transferId,
          token,
          session: this.#session,
          hasRequest: this.#requestReceived,
          pid: process.pid,
        },
      },
    });
    let sentMs = performance.now();
    let sentProgress = "";
    let confirmed = false;
    let hasSaidFinished = false;
    while (!signal.aborted) {
      // Once it is there, the progress that follows is the last: it goes ahead of the outcome.
      const outcome = this.#outcome;
      if (outcome !== undefined && hasSaidFinished) {
        await this.#changed.next({ signal }); // until the stream ends
        continue;
      }
      const progress = this.#progress && encodeProgress(this.#progress.progress.snapshot(), this.#progress.type);
      const fingerprint = progress === undefined ? "" : fingerprintOf(progress);
      const isNew = fingerprint !== sentProgress || this.#warnings.length > 0 || confirmed !== this.#requestReceived;
      if (isNew || performance.now() - sentMs >= this.#heartbeatMs) {
        const warnings = this.#warnings;
        this.#warnings = [];
        confirmed = this.#requestReceived;
        sentProgress = fingerprint;
        sentMs = performance.now();
        yield create(AttachRequestSchema, {
          message: { case: "report", value: { progress, warnings, requestReceived: confirmed } },
        });
      }
      if (outcome !== undefined) {
        hasSaidFinished = true;
        yield create(AttachRequestSchema, { message: { case: "finished", value: outcome } });
      } else {
        await this.#changed.next({ signal, timeoutMs: REPORT_INTERVAL_MS });
      }
    }
  }

  #begin(request: Work): void {
    if (this.#work !== undefined || request.case === undefined) {
      return;
    }
    this.#requestReceived = true;
    this.#work = this.#transfer(request);
    this.#changed.trip();
  }

  /** The transfer from beginning to end; never rejects. */
  async #transfer(request: Work): Promise<void> {
    const outcome = await this.#outcomeOf(request);
    const finished = create(AttachRequest_FinishedSchema, { outcome });
    try {
      await writeFileDurably(this.#bootstrap.resultFile, toJsonString(AttachRequest_FinishedSchema, finished));
    } catch (error) {
      // The stream is left to tell it; standard error goes to the transfer's log.
      process.stderr.write(`the outcome could not be written to ${this.#bootstrap.resultFile}: ${String(error)}\n`);
    }
    this.#outcome = finished;
    this.#changed.trip();
  }

  async #outcomeOf(request: Work): Promise<AttachRequest_Finished["outcome"]> {
    const signal = AbortSignal.any([this.#cancelled.signal, this.#givenUp.signal]);
    const observer: TransferObserver = {
      onBackupStart: (progress, type) => {
        this.#progress = { progress, type };
      },
      onRestoreStart: (progress) => {
        this.#progress = { progress, type: undefined };
      },
      onWarning: (message) => {
        this.#warnings = [...this.#warnings, message].slice(-MAX_WARNINGS);
      },
    };
    try {
      signal.throwIfAborted();
      switch (request.case) {
        case "backup": {
          if (request.value.spec === undefined) {
            throw new BlockmoverError("INTERNAL", "the agent sent a backup without its parameters");
          }
          const result = await runBackup(decodeBackupSpec(request.value.spec), observer, signal);
          return { case: "backupResult", value: encodeBackupResult(result) };
        }
        case "restore": {
          if (request.value.spec === undefined) {
            throw new BlockmoverError("INTERNAL", "the agent sent a restore without its parameters");
          }
          const result = await runRestore(decodeRestoreSpec(request.value.spec), observer, signal);
          return { case: "restoreResult", value: encodeRestoreResult(result) };
        }
        default:
          throw new BlockmoverError("UNIMPLEMENTED", "the agent sent a kind of transfer that is not known here");
      }
    } catch (error) {
      if (isCancelled(error, this.#cancelled.signal)) {
        return { case: "cancelled", value: true };
      }
      return { case: "error", value: encodeTransferError(error) };
    }
  }
}

/** What makes two reports differ; the rate alone does not. */
function fingerprintOf(progress: TransferProgress): string {
  return `${progress.phase} ${progress.doneBytes} ${progress.incrementalBytes} ${progress.totalBytes}`;
}
