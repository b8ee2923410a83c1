/**
 * Object IDs: how snapshots and lists refer to data (kopia-format.md §9.1; Kopia `repo/object/objectid.go`).
 *
 * ```
 * I* [Z] [D] content ID
 * │   │   └─ legacy mark of a direct object; read, ignored, never written
 * │   └───── the content begins with a compressor ID and is compressed by it (old object-level compression)
 * └───────── levels of indirection: what remains names the object that holds the list of parts
 * ```
 *
 * `I` and `Z` exclude each other. The empty string is the ID of "no object"; it has no content and is not parsed
 * here: whoever may meet it compares with {@link NO_OBJECT} first. An object of length 0 is not that, but a content
 * with the hash of nothing.
 */

import { assert } from "../../../common/assert.js";
import { BlockmoverError, type ErrorCode, messageOf } from "../../../common/errors.js";
import { type ContentId, parseContentId } from "./content-id.js";

/** A parsed object ID. */
export interface ObjectId {
  /** How many lists lie between this ID and its data; 0 means that the content is the data. */
  readonly indirection: number;
  /** Object-level compression; only from repositories of index version 1. Never together with indirection. */
  readonly compressed: boolean;
  /** The content with the data, or with the outermost list. */
  readonly contentId: ContentId;
}

/** The object ID of "no object". */
export const NO_OBJECT = "";

/**
 * More levels of lists than any real object has: one level covers 100 GiB already. It bounds the recursion of
 * readers; Kopia itself accepts 255.
 */
export const MAX_INDIRECTION = 16;

/**
 * Takes an object ID apart.
 *
 * @param code for the error: DATA_LOSS, for text out of a repository, unless the caller knows better
 * @throws BlockmoverError `code`, also for the empty ID
 * @example parseObjectId("Ix4848cc5ab97a87b70abdc56db132e3b1") // { indirection: 1, compressed: false, … }
 */
export function parseObjectId(text: string, code: ErrorCode = "DATA_LOSS"): ObjectId {
  if (text === NO_OBJECT) {
    throw new BlockmoverError(code, "the object ID is empty: there is no object");
  }
  let position = 0;
  while (text[position] === "I") {
    position++;
  }
  const indirection = position;
  const compressed = text[position] === "Z";
  if (compressed) {
    position++;
  }
  if (text[position] === "D") {
    position++;
  }
  if (indirection > MAX_INDIRECTION) {
    throw new BlockmoverError(
      code,
      `malformed object ID: ${indirection} levels of indirection, at most ${MAX_INDIRECTION} are possible`,
    );
  }
  if (indirection > 0 && compressed) {
    throw new BlockmoverError(code, `malformed object ID ${shorten(text)}: "I" and "Z" exclude each other`);
  }
  try {
    return { indirection, compressed, contentId: parseContentId(text.slice(position), code) };
  } catch (error) {
    throw new BlockmoverError(code, `malformed object ID ${shorten(text)}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * The text of an object ID, the form that Kopia writes (without the legacy `D`).
 *
 * @throws BlockmoverError INTERNAL for what {@link parseObjectId} would refuse
 */
export function formatObjectId(id: ObjectId): string {
  assert(
    Number.isInteger(id.indirection) && id.indirection >= 0 && id.indirection <= MAX_INDIRECTION,
    `an object ID has 0..${MAX_INDIRECTION} levels of indirection, not ${id.indirection}`,
  );
  assert(!(id.compressed && id.indirection > 0), "an object ID is not both indirect and compressed");
  return "I".repeat(id.indirection) + (id.compressed ? "Z" : "") + id.contentId;
}

function shorten(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}
