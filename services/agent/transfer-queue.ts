/**
 * Who is next: transfers that wait for a place, or for another transfer of the same device or volume.
 *
 * The highest priority first, among equals the one that came first; each minute of waiting raises the priority by one,
 * so that nothing starves. A transfer whose device or volume is busy lets the ones behind it pass. Bounded. Pure: time
 * comes in as an argument.
 */
import { BlockmoverError } from "../common/errors.js";

export interface QueuedTransfer {
  readonly id: string;
  readonly priority: number;
  readonly queuedAtMs: number;
  /** Order of arrival; unique. */
  readonly arrival: number;
  /** What it uses alone: another transfer that has one of these keys must have ended. */
  readonly exclusiveKeys: readonly string[];
}

export interface QueueLimits {
  readonly maxRunning: number;
  readonly maxQueued: number;
}

const AGEING_MS = 60_000;

export class TransferQueue {
  readonly #limits: QueueLimits;
  readonly #queued = new Map<string, QueuedTransfer>();
  readonly #running = new Map<string, readonly string[]>();
  readonly #busyKeys = new Map<string, string>();

  constructor(limits: QueueLimits) {
    this.#limits = limits;
  }

  get queuedCount(): number {
    return this.#queued.size;
  }

  get runningCount(): number {
    return this.#running.size;
  }

  /**
   * @param coming transfers that have been let in and not been added yet
   * @throws BlockmoverError RESOURCE_EXHAUSTED, reason QUEUE_FULL
   */
  requireRoom(coming = 0): void {
    // A transfer that can start at once needs no room in the queue.
    const freePlaces = Math.max(0, this.#limits.maxRunning - this.#running.size);
    if (this.#queued.size + coming >= this.#limits.maxQueued + freePlaces) {
      throw new BlockmoverError(
        "RESOURCE_EXHAUSTED",
        `${this.#queued.size} transfers are queued, and ${this.#running.size} are running: the queue is full`,
        { reason: "QUEUE_FULL", hint: "Try again later, or raise --max-queued or --max-running of the agent." },
      );
    }
  }

  /** Adds without looking for room: transfers that were accepted before a restart are never turned away. */
  add(transfer: QueuedTransfer): void {
    this.#queued.set(transfer.id, transfer);
  }

  /** Takes a transfer out of the queue; false if it was not in there. */
  remove(id: string): boolean {
    return this.#queued.delete(id);
  }

  /** Takes the next transfer that can run, and gives it a place; undefined when there is none. */
  takeNext(nowMs: number): string | undefined {
    if (this.#running.size >= this.#limits.maxRunning) {
      return undefined;
    }
    const next = this.inOrder(nowMs).find(({ exclusiveKeys }) => !exclusiveKeys.some((key) => this.#busyKeys.has(key)));
    if (next === undefined) {
      return undefined;
    }
    this.#queued.delete(next.id);
    this.occupy(next.id, next.exclusiveKeys);
    return next.id;
  }

  /** Gives a place to a transfer that runs already, from before a restart; beyond the limit if need be. */
  occupy(id: string, exclusiveKeys: readonly string[]): void {
    this.#running.set(id, exclusiveKeys);
    for (const key of exclusiveKeys) {
      this.#busyKeys.set(key, id);
    }
  }

  /** Gives the place back. Idempotent. */
  release(id: string): void {
    for (const key of this.#running.get(id) ?? []) {
      if (this.#busyKeys.get(key) === id) {
        this.#busyKeys.delete(key);
      }
    }
    this.#running.delete(id);
  }

  /** The queue as it stands, the next one first. */
  inOrder(nowMs: number): readonly QueuedTransfer[] {
    const urgency = ({ priority, queuedAtMs }: QueuedTransfer): number =>
      priority + Math.floor(Math.max(0, nowMs - queuedAtMs) / AGEING_MS);
    return [...this.#queued.values()].sort((a, b) => urgency(b) - urgency(a) || a.arrival - b.arrival);
  }
}
