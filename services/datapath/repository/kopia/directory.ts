/**
 * Directories: the object behind a snapshot's root. Source: Kopia snapshot/manifest.go, snapshot/snapshotfs,
 * fs/entry.go; kopia-format.md §8.9, §8.10.
 *
 *     {"stream":"kopia:directory","entries":[ <entry>, … ],"summary":{ … }} newline          prefix k
 *
 *     entry    name type mode size mtime uid gid obj summ          in this order, each but obj left out when zero
 *     summary  size files symlinks dirs maxTime incomplete numFailed numIgnoredErrors errors
 *
 * Encoding gives the bytes Kopia gives (order of fields, escapes, no spaces, newline), so that equal directories are one
 * content. The types below have the shape of the JSON: times are RFC 3339 text, modes octal text.
 */
import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";
import { JsonFields, parseJson, stringifyLikeGo, type JsonValue } from "./go-json.js";
import { formatGoTime, parseGoTime } from "./go-time.js";
import { parseObjectId } from "./object-id.js";

/** `d` directory, `f` file, `s` symbolic link; anything else is an entry that could not be read. */
export type DirectoryEntryType = "d" | "f" | "s";

export interface DirectoryEntry {
  /** Absent for an unnamed root. */
  readonly name?: string;
  readonly type?: string;
  /** Permission bits as octal text with a leading zero, `"0755"`; see `formatMode`. A number would lose the snapshot. */
  readonly mode?: string;
  /** Bytes. */
  readonly size?: number;
  /** Absent means 1970. */
  readonly mtime?: string;
  readonly uid?: number;
  readonly gid?: number;
  /** Object id. */
  readonly obj: string;
  /** Directories only. */
  readonly summ?: DirectorySummary;
}

/** For display; no reader depends on it. */
export interface DirectorySummary {
  readonly size: number;
  readonly files: number;
  readonly symlinks: number;
  /** The directory itself included. */
  readonly dirs: number;
  readonly maxTime: string;
  readonly incomplete?: string;
  readonly numFailed: number;
  readonly numIgnoredErrors?: number;
  readonly errors?: readonly EntryError[];
}

export interface EntryError {
  readonly path: string;
  readonly error: string;
}

export interface Directory {
  readonly entries: readonly DirectoryEntry[];
  /** Velero's block mover writes none. */
  readonly summary?: DirectorySummary;
}

const STREAM_TYPE = "kopia:directory";

/** Permission bits as Kopia writes them; undefined for none. */
export function formatMode(permissions: number): string | undefined {
  assert(Number.isInteger(permissions) && permissions >= 0 && permissions < 2 ** 31, `permissions ${permissions}`);
  return permissions === 0 ? undefined : `0${permissions.toString(8)}`;
}

/** Permission bits of a mode; 0 for undefined. @throws BlockmoverError DATA_LOSS */
export function parseMode(mode: string | undefined): number {
  if (mode === undefined) {
    return 0;
  }
  if (!/^0[0-7]{0,10}$/.test(mode)) {
    throw new BlockmoverError("DATA_LOSS", `mode ${JSON.stringify(mode)} is not octal with a leading zero`);
  }
  return Number.parseInt(mode, 8);
}

/** The bytes of a directory: entries put in Kopia's order, directories first, then by name. */
export function encodeDirectory(directory: Directory): Buffer {
  const entries = directory.entries.map((entry) => ({
    entry,
    isFile: entry.type === "d" ? 0 : 1,
    name: Buffer.from(entry.name ?? ""),
  }));
  entries.sort((left, right) => left.isFile - right.isFile || Buffer.compare(left.name, right.name));
  const names = new Set(directory.entries.map((entry) => entry.name));
  assert(names.size === entries.length && !names.has(undefined) && !names.has(""), "names in a directory are unique");
  return Buffer.from(
    `${stringifyLikeGo({
      stream: STREAM_TYPE,
      entries: entries.map(({ entry }) => directoryEntryToJson(entry)),
      summary: directory.summary === undefined ? null : directorySummaryToJson(directory.summary),
    })}\n`,
  );
}

/**
 * @param what which directory it is, for messages: its object id
 * @throws BlockmoverError DATA_LOSS
 */
export function decodeDirectory(bytes: Uint8Array, what: string): Directory {
  const name = `directory ${what}`;
  const fields = new JsonFields(parseJson(Buffer.from(bytes).toString("utf8"), name), name);
  if (fields.string("stream") !== STREAM_TYPE) {
    throw new BlockmoverError("DATA_LOSS", `${name}: not a directory stream`);
  }
  const summary = fields.object("summary");
  return {
    entries: fields
      .array("entries")
      .map((entry, index) => directoryEntryFromJson(new JsonFields(entry, `${name}, entry ${index}`))),
    ...(summary && { summary: directorySummaryFromJson(summary) }),
  };
}

/** An entry with its fields in Kopia's order, times in UTC. */
export function directoryEntryToJson(entry: DirectoryEntry): JsonValue {
  parseMode(entry.mode);
  parseObjectId(entry.obj, "INTERNAL");
  const mtime = entry.mtime === undefined ? 0n : parseGoTime(entry.mtime);
  return {
    name: entry.name || undefined,
    type: entry.type || undefined,
    mode: entry.mode,
    size: nonZero(entry.size),
    mtime: mtime === 0n ? undefined : formatGoTime(mtime),
    uid: nonZero(entry.uid),
    gid: nonZero(entry.gid),
    obj: entry.obj,
    summ: entry.summ === undefined ? undefined : directorySummaryToJson(entry.summ),
  };
}

/** @throws BlockmoverError DATA_LOSS */
export function directoryEntryFromJson(fields: JsonFields): DirectoryEntry {
  const mtime = fields.optionalString("mtime");
  if (mtime !== undefined) {
    fields.time("mtime");
  }
  const summary = fields.object("summ");
  return withoutUndefined({
    name: fields.optionalString("name"),
    type: fields.optionalString("type"),
    mode: fields.optionalString("mode"),
    size: nonZero(fields.integer("size")),
    mtime,
    uid: nonZero(fields.integer("uid")),
    gid: nonZero(fields.integer("gid")),
    obj: fields.string("obj"),
    summ: summary && directorySummaryFromJson(summary),
  });
}

function directorySummaryToJson(summary: DirectorySummary): JsonValue {
  return {
    size: integer(summary.size),
    files: integer(summary.files),
    symlinks: integer(summary.symlinks),
    dirs: integer(summary.dirs),
    maxTime: formatGoTime(parseGoTime(summary.maxTime)),
    incomplete: summary.incomplete || undefined,
    numFailed: integer(summary.numFailed),
    numIgnoredErrors: nonZero(summary.numIgnoredErrors),
    errors: summary.errors?.length ? summary.errors.map(({ path, error }) => ({ path, error })) : undefined,
  };
}

function directorySummaryFromJson(fields: JsonFields): DirectorySummary {
  const errors = fields.array("errors").map((value) => {
    const error = new JsonFields(value, "summary, field errors");
    return { path: error.string("path"), error: error.string("error") };
  });
  return withoutUndefined({
    size: fields.integer("size"),
    files: fields.integer("files"),
    symlinks: fields.integer("symlinks"),
    dirs: fields.integer("dirs"),
    maxTime: fields.value("maxTime") === undefined ? formatGoTime(0n) : formatGoTime(fields.time("maxTime")),
    incomplete: fields.optionalString("incomplete"),
    numFailed: fields.integer("numFailed"),
    numIgnoredErrors: nonZero(fields.integer("numIgnoredErrors")),
    errors: errors.length > 0 ? errors : undefined,
  });
}

function integer(value: number): number {
  assert(Number.isSafeInteger(value), `${value} is not an integer that JSON carries exactly`);
  return value;
}

/** The number, left out when zero. */
function nonZero(value: number | undefined): number | undefined {
  return value === undefined || value === 0 ? undefined : integer(value);
}

/** Absent fields are absent, not present as undefined: what was read compares equal to what was written. */
function withoutUndefined<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as T;
}
