/**
 * Manifests: small JSON items with labels, many to a content. Source: Kopia repo/manifest; kopia-format.md §8.1-8.3.
 *
 *     content m…  =  gzip of  {"entries":[ <item>, … ]} newline
 *
 *     live     {"id":"<32 hex>","labels":{"type":"snapshot",…},"modified":"<time>","data":<any JSON>}
 *     deleted  {"id":"<32 hex>","labels":null,"modified":"<time>","deleted":true,"data":null}
 *
 * Of several items with one id the one modified strictly later counts; a deleted one hides the others. So a tombstone
 * must be later than its victim, to the nanosecond. One malformed content makes Kopia refuse all manifests of the
 * repository: `encodeManifestContent` decodes what it made before it returns it.
 *
 * Data are JavaScript values: integers beyond 2^53 in foreign items (policies have some) are not kept exactly, so
 * foreign items may be read and deleted, but not written again.
 */
import { randomBytes } from "node:crypto";
import { gunzipSync, gzipSync } from "node:zlib";

import { assert } from "../../../common/assert.js";
import { BlockmoverError, messageOf } from "../../../common/errors.js";
import { JsonFields, parseJson, sortedMap, stringifyLikeGo, type JsonValue } from "./go-json.js";
import { formatGoTime } from "./go-time.js";

export type ManifestLabels = Readonly<Record<string, string>>;

export interface ManifestItem {
  readonly id: string;
  /** Empty in a deleted item. */
  readonly labels: ManifestLabels;
  /** Nanoseconds since 1970. */
  readonly modifiedNs: bigint;
  readonly deleted: boolean;
  /** null in a deleted item. */
  readonly data: JsonValue;
}

/** Label that every live item has. */
export const MANIFEST_TYPE_LABEL = "type";

/** More than this a manifest content does not unpack to: a bound on memory, thousands of times what is usual. */
export const MANIFEST_CONTENT_LIMIT_BYTES = 256 * 1024 * 1024;

const MANIFEST_ID_BYTES = 16;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;

/** A fresh id: 16 random bytes in hex. */
export function newManifestId(random: (sizeBytes: number) => Uint8Array = randomBytes): string {
  const bytes = random(MANIFEST_ID_BYTES);
  assert(bytes.length === MANIFEST_ID_BYTES, "a manifest id has 16 bytes");
  return Buffer.from(bytes).toString("hex");
}

/** The item that deletes `victim`, strictly later than it whatever the clock says. */
export function newTombstone(victim: ManifestItem, nowNs: bigint): ManifestItem {
  const modifiedNs = nowNs > victim.modifiedNs ? nowNs : victim.modifiedNs + 1n;
  return { id: victim.id, labels: {}, modifiedNs, deleted: true, data: null };
}

/** The plaintext of a manifest content. Items that Kopia could not read are a mistake of the caller (INTERNAL). */
export function encodeManifestContent(items: readonly ManifestItem[]): Buffer {
  const ids = new Set<string>();
  const entries = items.map((item) => {
    assert(/^[0-9a-f]{32}$/.test(item.id), `manifest id ${JSON.stringify(item.id)}`);
    assert(!ids.has(item.id), `manifest ${item.id} twice in one content`);
    assert(item.deleted || Boolean(item.labels[MANIFEST_TYPE_LABEL]), `manifest ${item.id} has no type`);
    ids.add(item.id);
    return encodeItem(item);
  });
  const content = gzipSync(`${stringifyLikeGo({ entries })}\n`);
  assert(decodeManifestContent(content, "new").length === items.length, "a new manifest content reads back");
  return content;
}

/**
 * The items of a manifest content.
 *
 * @param contentId for messages
 * @throws BlockmoverError DATA_LOSS if anything in it is not as it must be, RESOURCE_EXHAUSTED beyond the limit
 */
export function decodeManifestContent(
  content: Uint8Array,
  contentId: string,
  limitBytes = MANIFEST_CONTENT_LIMIT_BYTES,
): ManifestItem[] {
  const what = `manifest content ${contentId}`;
  const json = unpack(content, what, limitBytes);
  const fields = new JsonFields(parseJson(json.toString("utf8"), what), what);
  // Kopia's streaming reader refuses a second `entries` and stumbles over any other field; JSON.parse would silently
  // keep the last of two.
  if (memberCount(json) > 1) {
    throw new BlockmoverError("DATA_LOSS", `${what}: more than one field at the top`);
  }
  return fields.array("entries").map((entry, index) => decodeItem(entry, `${what}, entry ${index}`));
}

/** The live items of all manifest contents, by id. At equal times the one seen first stays, as in Kopia. */
export function mergeManifests(contents: Iterable<readonly ManifestItem[]>): Map<string, ManifestItem> {
  const merged = new Map<string, ManifestItem>();
  for (const items of contents) {
    for (const item of items) {
      const known = merged.get(item.id);
      if (known === undefined || item.modifiedNs > known.modifiedNs) {
        merged.set(item.id, item);
      }
    }
  }
  for (const item of merged.values()) {
    if (item.deleted) {
      merged.delete(item.id);
    }
  }
  return merged;
}

/** Whether an item has every one of these labels, and perhaps more. */
export function hasLabels(item: ManifestItem, wanted: ManifestLabels): boolean {
  return Object.entries(wanted).every(
    ([name, value]) => Object.hasOwn(item.labels, name) && item.labels[name] === value,
  );
}

function encodeItem(item: ManifestItem): JsonValue {
  const modified = formatGoTime(item.modifiedNs);
  return item.deleted
    ? { id: item.id, labels: null, modified, deleted: true, data: null }
    : { id: item.id, labels: sortedMap(item.labels), modified, data: item.data };
}

function decodeItem(value: JsonValue, what: string): ManifestItem {
  const fields = new JsonFields(value, what);
  const id = fields.string("id");
  if (id === "") {
    throw new BlockmoverError("DATA_LOSS", `${what}: no id`);
  }
  return {
    id,
    labels: fields.stringMap("labels"),
    modifiedNs: fields.time("modified"),
    deleted: fields.boolean("deleted"),
    data: fields.value("data") ?? null,
  };
}

function unpack(content: Uint8Array, what: string, limitBytes: number): Buffer {
  try {
    return gunzipSync(content, { maxOutputLength: limitBytes });
  } catch (error) {
    if (error instanceof RangeError) {
      throw new BlockmoverError("RESOURCE_EXHAUSTED", `${what}: unpacks to more than ${limitBytes} bytes`, {
        cause: error,
      });
    }
    throw new BlockmoverError("DATA_LOSS", `${what}: damaged gzip: ${messageOf(error)}`, { cause: error });
  }
}

/** Members of the object that valid JSON text is: commas directly inside of the outermost braces, plus one. */
function memberCount(json: Buffer): number {
  let depth = 0;
  let commas = 0;
  for (let index = 0; index < json.length; index++) {
    const byte = json[index];
    if (byte === QUOTE) {
      for (index++; index < json.length && json[index] !== QUOTE; index++) {
        if (json[index] === BACKSLASH) {
          index++;
        }
      }
    } else if (byte === 0x7b || byte === 0x5b) {
      depth++;
    } else if (byte === 0x7d || byte === 0x5d) {
      depth--;
    } else if (byte === COMMA && depth === 1) {
      commas++;
    }
  }
  return commas + 1;
}
