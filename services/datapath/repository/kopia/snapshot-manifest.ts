/**
 * Snapshot manifests: the data and labels of a manifest item of type `snapshot`. Source: Kopia snapshot/manifest.go,
 * snapshot/stats.go, snapshot/source.go; kopia-format.md §8.8.
 *
 *     labels  type=snapshot hostname username path, and every tag
 *     data    {"id":"","source":{"host","userName","path"},"description","startTime","endTime","stats":{…},
 *              "incomplete","rootEntry":{…},"tags":{…},"pins":[…]}       incomplete, tags and pins left out when empty
 *
 * Two mistakes here reach the whole repository: a manifest without a readable root makes garbage collection fail for
 * everybody, and one that does not parse is skipped by it, so that its data are deleted. Hence encoding checks
 * everything, and decodes what it made. Decoding accepts what other writers leave out (names, summaries, counters).
 *
 * The id in the data is empty; the snapshot's id is the manifest item's.
 */
import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";
import { directoryEntryFromJson, directoryEntryToJson, type DirectoryEntry } from "./directory.js";
import { JsonFields, sortedMap, type JsonValue } from "./go-json.js";
import { formatGoTime, parseGoTime } from "./go-time.js";
import { MANIFEST_TYPE_LABEL, type ManifestLabels } from "./manifest.js";

export interface SnapshotSource {
  readonly host: string;
  /** `userName` here, `username` in the labels. */
  readonly userName: string;
  readonly path: string;
}

/** Counters, in the order Kopia writes them; all are always written. */
export interface SnapshotStats {
  readonly totalSize: number;
  readonly excludedTotalSize: number;
  readonly fileCount: number;
  readonly cachedFiles: number;
  readonly nonCachedFiles: number;
  readonly dirCount: number;
  readonly excludedFileCount: number;
  readonly excludedDirCount: number;
  readonly ignoredErrorCount: number;
  readonly errorCount: number;
}

export interface SnapshotManifest {
  readonly source: SnapshotSource;
  readonly description: string;
  readonly startTime: string;
  readonly endTime: string;
  readonly stats: SnapshotStats;
  /** Absent for a complete snapshot; `checkpoint` and others otherwise. */
  readonly incomplete?: string;
  /** Absent only in what others wrote badly; encoding insists on it. */
  readonly rootEntry?: DirectoryEntry;
  readonly tags: Readonly<Record<string, string>>;
  /** A snapshot with a pin is never expired by a policy. */
  readonly pins: readonly string[];
}

/** A snapshot as it lies in a repository. */
export interface StoredSnapshot {
  /** The manifest item's id: what `kopia snapshot list` shows. */
  readonly id: string;
  readonly manifest: SnapshotManifest;
}

export const SNAPSHOT_TYPE = "snapshot";

/** The reason of a snapshot that exists only to keep an unfinished backup's data alive. */
export const INCOMPLETE_CHECKPOINT = "checkpoint";

export const EMPTY_STATS: SnapshotStats = {
  totalSize: 0,
  excludedTotalSize: 0,
  fileCount: 0,
  cachedFiles: 0,
  nonCachedFiles: 0,
  dirCount: 0,
  excludedFileCount: 0,
  excludedDirCount: 0,
  ignoredErrorCount: 0,
  errorCount: 0,
};

const STATS_FIELDS = Object.keys(EMPTY_STATS) as readonly (keyof SnapshotStats)[];

/**
 * The labels of a snapshot's manifest item: its source and all of its tags.
 *
 * @throws BlockmoverError INVALID_ARGUMENT if a tag has the name of another label
 */
export function snapshotLabels({ source, tags }: SnapshotManifest): ManifestLabels {
  const labels = { [MANIFEST_TYPE_LABEL]: SNAPSHOT_TYPE, ...sourceLabels(source) };
  for (const name of Object.keys(tags)) {
    if (Object.hasOwn(labels, name) || name === "") {
      throw new BlockmoverError("INVALID_ARGUMENT", `a snapshot tag cannot be named ${JSON.stringify(name)}`, {
        hint: `These names are taken: ${Object.keys(labels).join(", ")}.`,
      });
    }
  }
  return sortedMap({ ...labels, ...tags });
}

/** The labels that every snapshot of a source has: what to search by. */
export function sourceLabels({ host, userName, path }: SnapshotSource): ManifestLabels {
  return { hostname: host, username: userName, path };
}

/** The data of a snapshot's manifest item. A manifest that Kopia could not use is a mistake of ours (INTERNAL). */
export function encodeSnapshotManifest(manifest: SnapshotManifest): JsonValue {
  const { source, rootEntry, stats } = manifest;
  assert(source.host !== "" && source.userName !== "" && source.path !== "", "a snapshot's source is complete");
  assert(rootEntry !== undefined, "a snapshot has a root");
  for (const field of STATS_FIELDS) {
    assert(Number.isSafeInteger(stats[field]), `stats.${field} is ${stats[field]}`);
  }
  const data: JsonValue = {
    id: "",
    source: { host: source.host, userName: source.userName, path: source.path },
    description: manifest.description,
    startTime: formatGoTime(parseGoTime(manifest.startTime)),
    endTime: formatGoTime(parseGoTime(manifest.endTime)),
    stats: Object.fromEntries(STATS_FIELDS.map((field) => [field, stats[field]])),
    incomplete: manifest.incomplete || undefined,
    rootEntry: directoryEntryToJson(rootEntry),
    tags: Object.keys(manifest.tags).length > 0 ? sortedMap(manifest.tags) : undefined,
    pins: manifest.pins.length > 0 ? manifest.pins : undefined,
  };
  decodeSnapshotManifest(snapshotLabels(manifest), data);
  return data;
}

/**
 * Reads the data of a manifest item of type `snapshot`.
 *
 * @throws BlockmoverError DATA_LOSS if a field has a wrong type, or the labels say it is something else
 */
export function decodeSnapshotManifest(labels: ManifestLabels, data: JsonValue): SnapshotManifest {
  const label = (name: string) => (Object.hasOwn(labels, name) ? (labels[name] ?? "") : "");
  const fields = new JsonFields(data, `snapshot manifest of ${label("path") || "an unknown source"}`);
  if (label(MANIFEST_TYPE_LABEL) !== SNAPSHOT_TYPE) {
    throw new BlockmoverError("DATA_LOSS", `a manifest of type ${label(MANIFEST_TYPE_LABEL)} is not a snapshot`);
  }
  const source = fields.object("source");
  const stats = fields.object("stats");
  const rootEntry = fields.object("rootEntry");
  const incomplete = fields.optionalString("incomplete");
  return {
    source: {
      host: source?.optionalString("host") ?? label("hostname"),
      userName: source?.optionalString("userName") ?? label("username"),
      path: source?.optionalString("path") ?? label("path"),
    },
    description: fields.string("description"),
    startTime: formatGoTime(fields.time("startTime")),
    endTime: formatGoTime(fields.time("endTime")),
    stats: Object.fromEntries(
      STATS_FIELDS.map((field) => [field, stats?.integer(field) ?? 0]),
    ) as unknown as SnapshotStats,
    ...(incomplete !== undefined && { incomplete }),
    ...(rootEntry && { rootEntry: directoryEntryFromJson(rootEntry) }),
    tags: fields.stringMap("tags"),
    pins: fields.strings("pins"),
  };
}
