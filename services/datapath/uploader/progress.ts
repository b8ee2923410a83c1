/**
 * How far a transfer is: monotone counters, and the rate over the last few seconds.
 *
 * All counters are bytes of the volume, never of the repository. The clock is injected.
 */

export interface ProgressSnapshot {
  readonly phase: TransferPhase;
  readonly volumeSizeBytes: number;
  /** What this transfer has to look at: the whole volume for a full, the changed chunks for an increment. */
  readonly totalBytes: number;
  readonly doneBytes: number;
  /** Bytes that this backup found changed or the restore wrote. */
  readonly incrementalBytes: number;
  readonly zeroBytes: number;
  readonly bytesPerSecond: number;
  /** Milliseconds to go at the present rate; undefined while there is no rate. */
  readonly remainingMs: number | undefined;
}

export type TransferPhase = "opening" | "transferring" | "flushing" | "done";

/** The rate is measured over this long, so that it follows changes but does not flicker. */
const RATE_WINDOW_MS = 5_000;
const SAMPLE_INTERVAL_MS = 250;

export class Progress {
  phase: TransferPhase = "opening";
  readonly volumeSizeBytes: number;
  totalBytes: number;
  doneBytes = 0;
  incrementalBytes = 0;
  zeroBytes = 0;
  readonly #nowMs: () => number;
  readonly #samples: { readonly atMs: number; readonly doneBytes: number }[] = [];

  constructor(options: { volumeSizeBytes: number; totalBytes: number; nowMs?: () => number }) {
    this.volumeSizeBytes = options.volumeSizeBytes;
    this.totalBytes = options.totalBytes;
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#samples.push({ atMs: this.#nowMs(), doneBytes: 0 });
  }

  advance(doneBytes: number): void {
    this.doneBytes += doneBytes;
    const nowMs = this.#nowMs();
    const last = this.#samples[this.#samples.length - 1];
    if (last === undefined || nowMs - last.atMs >= SAMPLE_INTERVAL_MS) {
      this.#samples.push({ atMs: nowMs, doneBytes: this.doneBytes });
      while (this.#samples.length > 2 && nowMs - (this.#samples[0]?.atMs ?? nowMs) > RATE_WINDOW_MS) {
        this.#samples.shift();
      }
    }
  }

  snapshot(): ProgressSnapshot {
    const oldest = this.#samples[0];
    const elapsedMs = oldest === undefined ? 0 : this.#nowMs() - oldest.atMs;
    const moved = this.doneBytes - (oldest?.doneBytes ?? 0);
    const bytesPerSecond = elapsedMs > 0 ? (moved * 1000) / elapsedMs : 0;
    const left = Math.max(0, this.totalBytes - this.doneBytes);
    return {
      phase: this.phase,
      volumeSizeBytes: this.volumeSizeBytes,
      totalBytes: this.totalBytes,
      doneBytes: this.doneBytes,
      incrementalBytes: this.incrementalBytes,
      zeroBytes: this.zeroBytes,
      bytesPerSecond,
      remainingMs: bytesPerSecond > 0 ? (left * 1000) / bytesPerSecond : undefined,
    };
  }
}
