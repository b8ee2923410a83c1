/**
 * JSON as Go's encoding/json writes and reads it, where JavaScript differs.
 *
 * Writing: `<`, `>`, `&`, U+2028 and U+2029 inside strings become \u escapes. Kopia names contents by the hash of such
 * text, so every byte counts.
 *
 * Reading: an absent field and `null` are the zero value, unknown fields are ignored, and a value of another type than
 * the field's is an error. Not copied: that Go matches names regardless of case.
 */
import { BlockmoverError, messageOf } from "../../../common/errors.js";
import { GO_ZERO_TIME_NS, parseGoTime } from "./go-time.js";

export type JsonValue =
  null | boolean | number | string | readonly JsonValue[] | { readonly [name: string]: JsonValue | undefined };

/** Compact JSON in Go's escaping; fields in the order of the object, `undefined` ones left out. */
export function stringifyLikeGo(value: JsonValue): string {
  return JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * @param what whose text it is, for the message
 * @throws BlockmoverError DATA_LOSS if it is no JSON
 */
export function parseJson(text: string, what: string): JsonValue {
  try {
    return JSON.parse(text) as JsonValue;
  } catch (error) {
    throw new BlockmoverError("DATA_LOSS", `${what}: not JSON: ${messageOf(error)}`, { cause: error });
  }
}

/** A string map with its names in byte order, as Go writes maps. */
export function sortedMap(map: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(map).sort(([left], [right]) => Buffer.compare(Buffer.from(left), Buffer.from(right))),
  );
}

/**
 * The fields of a JSON object, by type.
 *
 * @throws BlockmoverError DATA_LOSS, in every method, for a value of another type; the message names the field
 */
export class JsonFields {
  readonly #fields: Readonly<Record<string, JsonValue | undefined>>;
  readonly #what: string;

  constructor(value: JsonValue | undefined, what: string) {
    if (!isObject(value)) {
      throw new BlockmoverError("DATA_LOSS", `${what}: not a JSON object`);
    }
    this.#fields = value;
    this.#what = what;
  }

  /** The value, whatever it is; undefined for absent and null. */
  value(name: string): JsonValue | undefined {
    return Object.hasOwn(this.#fields, name) ? (this.#fields[name] ?? undefined) : undefined;
  }

  /** "" if absent. */
  string(name: string): string {
    const value = this.value(name) ?? "";
    return typeof value === "string" ? value : this.#fail(name, "a string");
  }

  /** undefined if absent or empty, as Go leaves out empty strings. */
  optionalString(name: string): string | undefined {
    return this.string(name) || undefined;
  }

  /** 0 if absent. Exact or an error: what a double cannot hold is refused. */
  integer(name: string): number {
    const value = this.value(name) ?? 0;
    return typeof value === "number" && Number.isSafeInteger(value) ? value : this.#fail(name, "an integer below 2^53");
  }

  boolean(name: string): boolean {
    const value = this.value(name) ?? false;
    return typeof value === "boolean" ? value : this.#fail(name, "true or false");
  }

  /** A time as nanoseconds since 1970; Go's zero time if absent. */
  time(name: string): bigint {
    const text = this.optionalString(name);
    return text === undefined ? GO_ZERO_TIME_NS : parseGoTime(text, `${this.#what}, field ${name}`);
  }

  /** The fields of a nested object, undefined if absent. */
  object(name: string): JsonFields | undefined {
    const value = this.value(name);
    return value === undefined ? undefined : new JsonFields(value, `${this.#what}, field ${name}`);
  }

  /** Empty if absent. */
  array(name: string): readonly JsonValue[] {
    const value = this.value(name) ?? [];
    return isArray(value) ? value : this.#fail(name, "a list");
  }

  /** Empty if absent. */
  strings(name: string): readonly string[] {
    return this.array(name).map((value) => (typeof value === "string" ? value : this.#fail(name, "a list of strings")));
  }

  /** Empty if absent. */
  stringMap(name: string): Readonly<Record<string, string>> {
    const value = this.value(name) ?? {};
    if (!isObject(value)) {
      return this.#fail(name, "an object");
    }
    // fromEntries, not assignment: a label named __proto__ must stay a label.
    return Object.fromEntries(
      Object.entries(value).map(([key, text]): [string, string] => [
        key,
        typeof text === "string" ? text : text === null ? "" : this.#fail(name, "an object of strings"),
      ]),
    );
  }

  #fail(name: string, expected: string): never {
    throw new BlockmoverError("DATA_LOSS", `${this.#what}: field ${name} is not ${expected}`);
  }
}

function isArray(value: JsonValue | undefined): value is readonly JsonValue[] {
  return Array.isArray(value);
}

function isObject(value: JsonValue | undefined): value is Readonly<Record<string, JsonValue | undefined>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
