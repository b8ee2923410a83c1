/**
 * How an agent gets a data mover to run: as a process beside it now, as a pod later.
 *
 * A mover outlives its agent. So what identifies it can be written down, and found again by the next agent.
 */

export interface LaunchRequest {
  readonly transferId: string;
  /** One-time token for MoverService.Attach; a secret. */
  readonly token: string;
}

export interface MoverLauncher {
  /** Starts a mover. Resolves when it has been given its token; whether it attaches is another matter. */
  launch(request: LaunchRequest): Promise<RunningMover>;
  /** Finds a mover that an earlier agent started; one that has gone is found as ended. */
  adopt(transferId: string, identity: MoverIdentity): Promise<RunningMover>;
  /** The identity of a mover that attached before its start was written down. */
  identify(pid: number): Promise<MoverIdentity | undefined>;
  /** What the mover wrote down as its outcome, as JSON; undefined without one. */
  readOutcome(transferId: string): Promise<string | undefined>;
  /** Removes what a mover that has ended left. Idempotent. */
  cleanUp(transferId: string, options: { readonly keepLog: boolean }): Promise<void>;
}

/** Tells one process from every other that ever ran on this machine. */
export interface MoverIdentity {
  readonly pid: number;
  /** When it started, in clock ticks since boot: process ids come again. */
  readonly startTicks: string;
  readonly bootId: string;
}

export interface RunningMover {
  readonly identity: MoverIdentity;
  /** Settles when the process is gone; never rejects. */
  readonly ended: Promise<MoverEndReport>;
  /** At once and for good. Idempotent, and harmless when it has ended. */
  kill(): void;
}

/** What is known of the end of a process. */
export interface MoverEndReport {
  /** Undefined when a signal ended it, or when nobody was there to see. */
  readonly exitCode: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
  /** The kernel ran out of memory while it lived, and killed somebody. */
  readonly outOfMemory: boolean;
  /** The last line of its log, cut to a readable length; empty without one. */
  readonly lastWords: string;
}
