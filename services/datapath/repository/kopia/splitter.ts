/**
 * Splitters: the names a repository may have for "how objects are cut into contents" (kopia-format.md §9.4; Kopia
 * `repo/splitter/splitter.go`).
 *
 * ```
 * FIXED-<size>              every <size> bytes; the last piece is shorter
 * DYNAMIC-<size>-BUZHASH    by a rolling hash; between <size>/2 and 2 × <size>
 * DYNAMIC-<size>-RABINKARP  likewise
 * FIXED, DYNAMIC            old names of FIXED-4M and DYNAMIC-4M-BUZHASH
 * ```
 *
 * Every object states its own pieces, so reading needs no splitter at all. Volume images are always cut by
 * FIXED-1M, whatever the repository names: equal chunks must meet at equal offsets.
 */

const SIZE_BYTES: Readonly<Record<string, number>> = {
  "128K": 128 << 10,
  "256K": 256 << 10,
  "512K": 512 << 10,
  "1M": 1 << 20,
  "2M": 2 << 20,
  "4M": 4 << 20,
  "8M": 8 << 20,
};

const FIXED_SIZE_BYTES = new Map<string, number>([
  ["FIXED", 4 << 20],
  ...Object.entries(SIZE_BYTES).map(([size, bytes]): [string, number] => [`FIXED-${size}`, bytes]),
]);

const DYNAMIC = ["BUZHASH", "RABINKARP"].flatMap((kind) =>
  Object.keys(SIZE_BYTES).map((size) => `DYNAMIC-${size}-${kind}`),
);

/** The splitter that Kopia gives a new repository. */
export const DEFAULT_SPLITTER = "DYNAMIC-4M-BUZHASH";

/** Every name that Kopia understands. */
export const knownSplitterNames: readonly string[] = [...FIXED_SIZE_BYTES.keys(), ...DYNAMIC, "DYNAMIC"];

const KNOWN = new Set(knownSplitterNames);

/** Whether Kopia opens a repository that names this splitter. Names are case-sensitive. */
export function isKnownSplitter(name: string): boolean {
  return KNOWN.has(name);
}

/**
 * The piece length of a fixed splitter, or undefined for a dynamic or unknown one.
 *
 * @example fixedSplitterSizeBytes("FIXED-1M") // 1048576
 */
export function fixedSplitterSizeBytes(name: string): number | undefined {
  return FIXED_SIZE_BYTES.get(name);
}
