/** Several programs doing the same work in turn, so that a slow minute of the machine hits all of them. */
import type { Place } from "./place.js";
import type { Measured, Report, Row } from "./report.js";
import { ratiosOf, type Spread } from "./statistics.js";

/** A measurement that others disturbed more than this is taken again … */
const MAX_FOREIGN_SHARE = 0.08;

/** … at most so often, and the quieter one counts. */
const MAX_REPEATS = 1;

export interface Contestant {
  readonly name: string;
  /** Brings what is about to be read from disk, but not measured, into the cache: the program. */
  readonly warm?: () => Promise<unknown>;
  /** Done before each measurement and not measured. */
  readonly prepare?: () => Promise<unknown>;
  readonly run: () => Promise<Measured>;
  /** Done after each measurement and not measured, also when it failed. */
  readonly clean?: () => Promise<unknown>;
}

export class Standings {
  readonly #rows: readonly Row[];

  constructor(rows: readonly Row[]) {
    this.#rows = rows;
  }

  /** All measurements of a contestant, in order of the rounds. */
  times(name: string, kind: "wallMs" | "transferMs" = "wallMs"): number[] {
    return this.row(name).measured.map((each) => each[kind] ?? each.wallMs);
  }

  row(name: string): Row {
    const row = this.#rows.find((each) => each.name === name);
    if (row === undefined) throw new Error(`no contestant ${name}`);
    return row;
  }

  has(name: string): boolean {
    return this.#rows.some((each) => each.name === name);
  }

  /** How many times as long `slower` took as `faster`, round by round. */
  ratio(slower: readonly number[], faster: readonly number[]): Spread {
    return ratiosOf(slower, faster);
  }

  /** Of several contestants the one with the best time in most rounds: its times. */
  best(names: readonly string[]): { readonly name: string; readonly times: number[] } {
    const known = names.filter((name) => this.has(name));
    const sums = known.map((name) => ({ name, times: this.times(name) }));
    const [best] = sums.sort((a, b) => total(a.times) - total(b.times));
    if (best === undefined) throw new Error("no contestant to choose from");
    return best;
  }
}

export async function contest(options: {
  readonly title: string;
  readonly place: Place;
  readonly report: Report;
  readonly rounds: number;
  readonly bytes: number;
  readonly contestants: readonly Contestant[];
}): Promise<Standings> {
  const { title, place, report, rounds, bytes, contestants } = options;
  const measured = new Map<string, Measured[]>(contestants.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    // Each round begins with another one, so that nobody always comes after the same neighbour.
    const turn = contestants.map((_, index) => contestants[(index + round) % contestants.length] as Contestant);
    for (const contestant of turn) {
      measured.get(contestant.name)?.push(await measureQuietly(contestant, place));
    }
  }
  const rows = contestants.map(({ name }): Row => ({ name, bytes, measured: measured.get(name) ?? [] }));
  report.add({ title, place: place.name, rows });
  return new Standings(rows);
}

async function measureQuietly(contestant: Contestant, place: Place): Promise<Measured> {
  let best: Measured | undefined;
  for (let attempt = 0; attempt <= MAX_REPEATS; attempt++) {
    let measured: Measured;
    try {
      await contestant.prepare?.();
      await place.settle(contestant.warm);
      measured = await contestant.run();
    } finally {
      await contestant.clean?.();
    }
    if (best === undefined || (measured.foreignShare ?? 0) < (best.foreignShare ?? 0)) best = measured;
    if ((best.foreignShare ?? 0) <= MAX_FOREIGN_SHARE) break;
  }
  if (best === undefined) throw new Error("nothing was measured");
  return best;
}

function total(times: readonly number[]): number {
  return times.reduce((sum, each) => sum + each, 0);
}
