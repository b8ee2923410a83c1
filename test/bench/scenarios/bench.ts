/** What every scenario gets: where, with what, how often, how large. */
import type { Blockmover, BlockmoverRun } from "../blockmover.js";
import { measure } from "../measure.js";
import type { Place } from "../place.js";
import type { Measured, Report } from "../report.js";

export interface Sizes {
  /** Volume of the full backup, the restore and the zeros. */
  readonly volume: number;
  /** Volume of the increments: large, so that start-up does not hide what an increment saves. */
  readonly increment: number;
  /** Apparent size of the sparse volume in the memory scenario. */
  readonly sparse: number;
}

export interface Bench {
  readonly place: Place;
  readonly report: Report;
  readonly rounds: number;
  readonly seed: number;
  readonly sizes: Sizes;
  /** The tree under test first; others are variants of it to compare with. */
  readonly blockmovers: readonly [Blockmover, ...Blockmover[]];
  /** Version of the Kopia to compare with, if one has been built. */
  readonly kopiaVersion: string | undefined;
  /** The native ceiling, if it could be built. */
  readonly ceiling: string | undefined;
}

export function measuredOf(run: BlockmoverRun): Measured {
  const { wallMs, transferMs, cpuMs, peakRssBytes, foreignShare, stolenShare, report } = run;
  const { eventLoopUtilization } = report;
  return { wallMs, transferMs, cpuMs, peakRssBytes, foreignShare, stolenShare, eventLoopUtilization };
}

/** One run of the native ceiling; it measures itself, without the start of its process. */
export async function runCeiling(program: string, args: readonly string[]): Promise<Measured> {
  const { stdout, cpuMs, peakRssBytes, foreignShare, stolenShare } = await measure(program, args);
  const { seconds } = JSON.parse(stdout) as { seconds: number };
  return { wallMs: seconds * 1000, cpuMs, peakRssBytes, foreignShare, stolenShare };
}

/** Reads a device as plainly as can be. */
export async function runDd(device: string): Promise<Measured> {
  return measure("dd", [`if=${device}`, "of=/dev/null", "iflag=direct", "bs=8M", "status=none"]);
}
