/** Medians and spreads of a few repeated measurements. */

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly count: number;
}

/** @throws Error when there is nothing to summarise */
export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  const before = sorted[Math.ceil(sorted.length / 2) - 1];
  const [min, max] = [sorted[0], sorted.at(-1)];
  if (middle === undefined || before === undefined || min === undefined || max === undefined) {
    throw new Error("a median of nothing");
  }
  return { median: (before + middle) / 2, min, max, count: sorted.length };
}

/**
 * How often `right` fits into `left`, round by round: the spread of the ratios, not the ratio of the medians.
 *
 * The host is shared and drifts from minute to minute; two measurements of one round saw about the same machine.
 */
export function ratiosOf(left: readonly number[], right: readonly number[]): Spread {
  return spreadOf(left.slice(0, right.length).map((value, round) => value / (right[round] ?? Number.NaN)));
}
