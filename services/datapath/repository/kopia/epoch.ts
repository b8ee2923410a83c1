/**
 * Which index blobs a reader must load, decided from their names alone. Source: Kopia internal/epoch,
 * internal/completeset; kopia-format.md §7.1-7.4.
 *
 *     xe<E>                              epoch E has begun; the largest E is the epoch to write into (W), 0 if none
 *     xn<E>_<hash>-<session>-c<N>        index written in epoch E                      all count
 *     xs<E>_<hash>-s<random>-c<N>        all of epoch E, compacted                     complete sets only
 *     xr<A>_<B>_<hash>-s<random>-c<N>    all of epochs A..B, compacted                 complete sets only
 *     xw<seconds>                        deletions up to here are final; the largest counts
 *
 *     epochs  0 ········ B │ B+1 ··· W−2 │ W−1   W   W+1
 *             range chain  │ xs, else xn │ always xn: writers may be an epoch behind
 *
 * No I/O here. A caller lists `xe`, `xw`, `xs`, `xr`, calls `epochState`, lists what `uncompactedPrefixes` says, and
 * calls `chooseIndexBlobs`. Blobs listed twice count once. Loading more than needed is harmless, since a compaction
 * keeps the winner of every content; loading less loses data, so in doubt this takes more.
 */

/** Anything with a blob's name; what the storage lists is passed through. */
export interface NamedBlob {
  readonly id: string;
}

/** A set of blobs that together hold everything indexed in the epochs `firstEpoch` to `lastEpoch`. */
export interface RangeCompaction<B extends NamedBlob> {
  readonly firstEpoch: number;
  readonly lastEpoch: number;
  readonly blobs: readonly B[];
}

export interface EpochState<B extends NamedBlob> {
  /** Epoch that a flush writes its index into. */
  readonly writeEpoch: number;
  /** Deletions of this time or earlier are final; 0 if there is no watermark. */
  readonly watermarkSeconds: number;
  /** Complete compactions of single epochs. */
  readonly single: ReadonlyMap<number, readonly B[]>;
  /** Adjacent ranges from epoch 0 on. */
  readonly ranges: readonly RangeCompaction<B>[];
}

/** What the storage lists for each prefix, in any order. */
export interface EpochListing<B extends NamedBlob> {
  /** `xe` */
  readonly epochMarkers: Iterable<NamedBlob>;
  /** `xw` */
  readonly watermarks: Iterable<NamedBlob>;
  /** `xs` */
  readonly single: Iterable<B>;
  /** `xr` */
  readonly ranges: Iterable<B>;
}

/** What the name of an index blob says. */
export type EpochBlobName =
  | { readonly kind: "epoch-marker"; readonly epoch: number }
  | { readonly kind: "uncompacted"; readonly epoch: number }
  | { readonly kind: "single"; readonly epoch: number }
  | { readonly kind: "range"; readonly firstEpoch: number; readonly lastEpoch: number }
  | { readonly kind: "watermark"; readonly seconds: number };

export const EPOCH_MARKER_PREFIX = "xe";
export const WATERMARK_PREFIX = "xw";
export const UNCOMPACTED_PREFIX = "xn";
export const SINGLE_PREFIX = "xs";
export const RANGE_PREFIX = "xr";

/** With more epochs to list than this, one listing of all of them is cheaper and bounded. */
const EPOCH_LISTING_LIMIT = 16;

/** Prefix of the index blobs written in an epoch, with the underscore: `xn1` alone would match `xn10_…` too. */
export function uncompactedPrefix(epoch: number): string {
  return `${UNCOMPACTED_PREFIX}${epoch}_`;
}

/** What follows the hash and a dash in the name of an index blob that a session writes. */
export function indexBlobSuffix(sessionId: string, shardCount: number): string {
  return `${sessionId}-c${shardCount}`;
}

export function epochMarkerName(epoch: number): string {
  return `${EPOCH_MARKER_PREFIX}${epoch}`;
}

export function watermarkName(seconds: number): string {
  return `${WATERMARK_PREFIX}${seconds}`;
}

/** Reads the name of an index blob; undefined for any other name. */
export function parseEpochBlobName(id: string): EpochBlobName | undefined {
  const match = /^x(?:(e|w)(\d{1,15})|(n|s)(\d{1,15})_.*|r(\d{1,15})_(\d{1,15})_.*)$/s.exec(id);
  if (match === null) {
    return undefined;
  }
  const [, marker, markerNumber, single, epoch, firstEpoch, lastEpoch] = match;
  if (marker !== undefined) {
    return marker === "e"
      ? { kind: "epoch-marker", epoch: Number(markerNumber) }
      : { kind: "watermark", seconds: Number(markerNumber) };
  }
  if (single !== undefined) {
    return { kind: single === "n" ? "uncompacted" : "single", epoch: Number(epoch) };
  }
  return { kind: "range", firstEpoch: Number(firstEpoch), lastEpoch: Number(lastEpoch) };
}

/** The state of the epochs, from the small listings. Names that do not parse are ignored, as Kopia does. */
export function epochState<B extends NamedBlob>(listing: EpochListing<B>): EpochState<B> {
  let writeEpoch = 0;
  for (const { id } of listing.epochMarkers) {
    const name = parseEpochBlobName(id);
    if (name?.kind === "epoch-marker") {
      writeEpoch = Math.max(writeEpoch, name.epoch);
    }
  }
  let watermarkSeconds = 0;
  for (const { id } of listing.watermarks) {
    const name = parseEpochBlobName(id);
    if (name?.kind === "watermark") {
      watermarkSeconds = Math.max(watermarkSeconds, name.seconds);
    }
  }
  return {
    writeEpoch,
    watermarkSeconds,
    single: completeSingles(listing.single),
    ranges: longestChain(completeRanges(listing.ranges)),
  };
}

/** Prefixes to list before `chooseIndexBlobs`: at most a handful, or `xn` as a whole if there would be more. */
export function uncompactedPrefixes(state: EpochState<NamedBlob>): string[] {
  const first = firstEpochAfterRanges(state);
  const last = state.writeEpoch + 1;
  const prefixes: string[] = [];
  for (let epoch = first; epoch <= last; epoch++) {
    if (!isTakenCompacted(state, epoch)) {
      prefixes.push(uncompactedPrefix(epoch));
      if (prefixes.length > EPOCH_LISTING_LIMIT) {
        return [UNCOMPACTED_PREFIX];
      }
    }
  }
  return prefixes;
}

/** Every index blob a reader must load, given what the `uncompactedPrefixes` list; blobs not needed are passed over. */
export function chooseIndexBlobs<B extends NamedBlob>(state: EpochState<B>, uncompacted: Iterable<B>): B[] {
  const first = firstEpochAfterRanges(state);
  const chosen = new Map<string, B>();
  const choose = (blob: B) => chosen.set(blob.id, blob);

  for (const range of state.ranges) {
    range.blobs.forEach(choose);
  }
  for (const [epoch, blobs] of state.single) {
    if (epoch >= first && isTakenCompacted(state, epoch)) {
      blobs.forEach(choose);
    }
  }
  for (const blob of uncompacted) {
    const name = parseEpochBlobName(blob.id);
    const isNeeded =
      name?.kind === "uncompacted" &&
      name.epoch >= first &&
      name.epoch <= state.writeEpoch + 1 &&
      !isTakenCompacted(state, name.epoch);
    if (isNeeded) {
      choose(blob);
    }
  }
  return [...chosen.values()];
}

/**
 * The first set, in the order given, of which all members are there.
 *
 * A name `<any>-s<set>-c<count>` belongs to set `s<set>`, complete with `count` members; any other name is a complete
 * set by itself.
 */
export function firstCompleteSet<B extends NamedBlob>(blobs: Iterable<B>): readonly B[] | undefined {
  const sets = new Map<string, Map<string, B>>();
  for (const blob of blobs) {
    const [, setName, countName] = blob.id.split("-");
    const count = /^c(\d{1,15})$/.exec(countName ?? "")?.[1];
    if (setName?.startsWith("s") !== true || count === undefined) {
      return [blob];
    }
    // By name: a blob that a listing shows twice must not complete a set.
    const members = sets.get(setName) ?? new Map<string, B>();
    sets.set(setName, members.set(blob.id, blob));
    if (members.size === Number(count)) {
      return [...members.values()];
    }
  }
  return undefined;
}

/** An epoch is settled, hence read compacted if it is, two epochs after its own (kopia-format.md §7.4). */
function isTakenCompacted(state: EpochState<NamedBlob>, epoch: number): boolean {
  return epoch <= state.writeEpoch - 2 && state.single.has(epoch);
}

/** First epoch to be taken one by one. Unsettled epochs always are, even if a range claims them. */
function firstEpochAfterRanges(state: EpochState<NamedBlob>): number {
  const last = state.ranges.at(-1);
  return last === undefined ? 0 : Math.min(last.lastEpoch + 1, Math.max(0, state.writeEpoch - 1));
}

function completeSingles<B extends NamedBlob>(blobs: Iterable<B>): Map<number, readonly B[]> {
  const byEpoch = new Map<number, B[]>();
  for (const blob of blobs) {
    const name = parseEpochBlobName(blob.id);
    if (name?.kind === "single") {
      append(byEpoch, name.epoch, blob);
    }
  }
  const complete = new Map<number, readonly B[]>();
  for (const [epoch, candidates] of byEpoch) {
    const set = firstCompleteSet(candidates);
    if (set !== undefined) {
      complete.set(epoch, set);
    }
  }
  return complete;
}

function completeRanges<B extends NamedBlob>(blobs: Iterable<B>): RangeCompaction<B>[] {
  const byRange = new Map<string, { firstEpoch: number; lastEpoch: number; candidates: B[] }>();
  for (const blob of blobs) {
    const name = parseEpochBlobName(blob.id);
    if (name?.kind === "range" && name.firstEpoch <= name.lastEpoch) {
      const { firstEpoch, lastEpoch } = name;
      const range = byRange.get(`${firstEpoch}_${lastEpoch}`) ?? { firstEpoch, lastEpoch, candidates: [] };
      range.candidates.push(blob);
      byRange.set(`${firstEpoch}_${lastEpoch}`, range);
    }
  }
  const complete: RangeCompaction<B>[] = [];
  for (const { firstEpoch, lastEpoch, candidates } of byRange.values()) {
    const set = firstCompleteSet(candidates);
    if (set !== undefined) {
      complete.push({ firstEpoch, lastEpoch, blobs: set });
    }
  }
  return complete;
}

interface Chain<B extends NamedBlob> {
  readonly reach: number;
  readonly count: number;
  readonly head: RangeCompaction<B>;
  readonly rest: Chain<B> | undefined;
}

/** Adjacent ranges from epoch 0 that reach the highest epoch; of those, the fewest. */
function longestChain<B extends NamedBlob>(ranges: readonly RangeCompaction<B>[]): RangeCompaction<B>[] {
  // From the highest beginning down, the best continuation of each range is known when the range is looked at.
  const best = new Map<number, Chain<B>>();
  for (const head of [...ranges].sort((left, right) => right.firstEpoch - left.firstEpoch)) {
    const rest = best.get(head.lastEpoch + 1);
    const chain = { reach: rest?.reach ?? head.lastEpoch, count: 1 + (rest?.count ?? 0), head, rest };
    const known = best.get(head.firstEpoch);
    if (
      known === undefined ||
      chain.reach > known.reach ||
      (chain.reach === known.reach && chain.count < known.count)
    ) {
      best.set(head.firstEpoch, chain);
    }
  }
  const result: RangeCompaction<B>[] = [];
  for (let chain = best.get(0); chain !== undefined; chain = chain.rest) {
    result.push(chain.head);
  }
  return result;
}

function append<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const values = map.get(key);
  if (values === undefined) {
    map.set(key, [value]);
  } else {
    values.push(value);
  }
}
