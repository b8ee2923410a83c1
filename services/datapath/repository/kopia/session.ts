/**
 * Sessions: how a writer tells maintenance that its packs are not garbage yet (kopia-format.md §10.1; Kopia
 * `repo/content/sessions.go`).
 *
 * ```
 * session ID     s │ 16 hex digits, random │ hex of the 30-day periods since 2000-01-01       s531bea9f2b3eaa72147
 * pack names     p<32 hex>-<session ID>
 * marker blob    s<hash>-<session ID>     {"id":…,"startTime":…,"checkpointTime":…,"username":…,"hostname":…}, sealed
 *                                         as every hashed blob (blob-crypto.ts)
 * ```
 *
 * The marker is stored before the first pack and deleted after the last index blob of the session. While its
 * `checkpointTime` is less than 96 h old, maintenance leaves packs of the session alone. A marker that cannot be
 * read stops maintenance for everyone, so what is encoded here is decoded again before anyone stores it.
 */

import { randomBytes as cryptoRandomBytes } from "node:crypto";

import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";

/** Prefix of marker blobs. */
export const SESSION_BLOB_PREFIX = "s";

/** What a session marker says. Times have whole milliseconds; what is finer is cut, here and in Kopia's markers. */
export interface SessionMarker {
  readonly id: string;
  readonly startTimeMs: number;
  /** When the writer was last known to be alive; the latest marker of a session counts. */
  readonly checkpointTimeMs: number;
  readonly username: string;
  readonly hostname: string;
}

const RANDOM_BYTES = 8;
const FIRST_PERIOD_MS = Date.UTC(2000, 0, 1);
const PERIOD_MS = 30 * 24 * 3600 * 1000;
const SESSION_ID_PATTERN = /^s[0-9a-f]{16}[0-9a-f]+$/;

/** Go's RFC 3339: fraction of any length, `Z` or an offset. Date.parse alone takes far more than that. */
const TIME_PATTERN = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)$/;
/** Years that RFC 3339 can write. */
const MIN_TIME_MS = Date.parse("0000-01-01T00:00:00Z");
const MAX_TIME_MS = Date.parse("9999-12-31T23:59:59.999Z");

/** A marker has about 200 bytes; this bounds what is parsed. */
const MAX_MARKER_BYTES = 64 << 10;

/**
 * A session ID that nobody had before: 64 random bits in each period of 30 days.
 *
 * @param nowMs the time, after 2000
 */
export function newSessionId(
  nowMs: number,
  randomBytes: (sizeBytes: number) => Uint8Array = cryptoRandomBytes,
): string {
  assert(nowMs >= FIRST_PERIOD_MS, "the clock is set to a time after the year 2000");
  const random = Buffer.from(randomBytes(RANDOM_BYTES)).toString("hex");
  const period = Math.floor((nowMs - FIRST_PERIOD_MS) / PERIOD_MS);
  return `s${random}${period.toString(16)}`;
}

/** Whether `text` has the form of an ID of {@link newSessionId}. */
export function isSessionId(text: string): boolean {
  return SESSION_ID_PATTERN.test(text);
}

/**
 * The session that a blob belongs to, or undefined: the first part after a dash that begins with `s`.
 *
 * @example sessionIdOfBlob("pf0db…-s531bea9f2b3eaa72147") // "s531bea9f2b3eaa72147"
 */
export function sessionIdOfBlob(blobId: string): string | undefined {
  return blobId
    .split("-")
    .slice(1)
    .find((part) => part.startsWith("s"));
}

/**
 * The plaintext of a session marker.
 *
 * @throws BlockmoverError INTERNAL for an ID or time that cannot be
 */
export function encodeSessionMarker(marker: SessionMarker): Buffer {
  assert(isSessionId(marker.id), `session ID ${JSON.stringify(marker.id)} is well-formed`);
  const bytes = Buffer.from(
    JSON.stringify({
      id: marker.id,
      startTime: formatTime(marker.startTimeMs),
      checkpointTime: formatTime(marker.checkpointTimeMs),
      username: marker.username,
      hostname: marker.hostname,
    }),
    "utf8",
  );
  const decoded = decodeSessionMarker(bytes, "the marker just encoded");
  assert(
    decoded.id === marker.id && decoded.checkpointTimeMs === Math.floor(marker.checkpointTimeMs),
    "a session marker reads back as it was written",
  );
  return bytes;
}

/**
 * Reads a session marker.
 *
 * @param blobId names the blob in errors
 * @throws BlockmoverError DATA_LOSS when it is malformed
 */
export function decodeSessionMarker(plaintext: Uint8Array, blobId: string): SessionMarker {
  const fields = fieldsOf(plaintext, blobId);
  return {
    id: stringField(fields, "id", blobId),
    startTimeMs: timeField(fields, "startTime", blobId),
    checkpointTimeMs: timeField(fields, "checkpointTime", blobId),
    username: stringField(fields, "username", blobId),
    hostname: stringField(fields, "hostname", blobId),
  };
}

/** Fields by lower-case name, as Go matches them; null counts as absent. */
function fieldsOf(plaintext: Uint8Array, blobId: string): ReadonlyMap<string, unknown> {
  if (plaintext.length > MAX_MARKER_BYTES) {
    throw malformed(blobId, `${plaintext.length} bytes are too many`);
  }
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(plaintext).toString("utf8"));
  } catch (error) {
    throw malformed(blobId, "not JSON", error);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw malformed(blobId, "not a JSON object");
  }
  return new Map(
    Object.entries(value)
      .filter(([, field]) => field !== null)
      .map(([name, field]) => [name.toLowerCase(), field as unknown]),
  );
}

/** Absent is the empty string, as in Go. */
function stringField(fields: ReadonlyMap<string, unknown>, name: string, blobId: string): string {
  const value = fields.get(name.toLowerCase()) ?? "";
  if (typeof value !== "string") {
    throw malformed(blobId, `"${name}" is not a string`);
  }
  return value;
}

/** Absent is the year 1, as in Go. */
function timeField(fields: ReadonlyMap<string, unknown>, name: string, blobId: string): number {
  const text = fields.get(name.toLowerCase()) ?? "0001-01-01T00:00:00Z";
  // V8 cuts the fraction to milliseconds, whatever its length.
  const timeMs = typeof text === "string" && TIME_PATTERN.test(text) ? Date.parse(text) : NaN;
  if (Number.isNaN(timeMs)) {
    throw malformed(blobId, `"${name}" is not an RFC 3339 time`);
  }
  return timeMs;
}

function formatTime(timeMs: number): string {
  assert(timeMs >= MIN_TIME_MS && timeMs <= MAX_TIME_MS, `${timeMs} is a time in milliseconds that RFC 3339 can write`);
  return new Date(Math.floor(timeMs)).toISOString();
}

function malformed(blobId: string, problem: string, cause?: unknown): BlockmoverError {
  return new BlockmoverError("DATA_LOSS", `session marker ${blobId}: ${problem}`, {
    cause,
    hint: "Maintenance stops at a marker it cannot read; delete the blob once no writer of that session is left.",
  });
}
