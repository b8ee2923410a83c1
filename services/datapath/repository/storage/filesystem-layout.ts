/**
 * Where Kopia's file system provider keeps a blob (Kopia repo/blob/sharded, kopia-format.md §1.3).
 *
 *     <root>/.shards                     {"default":[1,3],"maxNonShardedLength":20}\n
 *     <root>/kopia.repository.f          ids of at most maxNonShardedLength characters: in the root
 *     <root>/p/0bb/110664e8….f           longer ones: one directory for each shard length, then the rest
 *
 * Everything here is pure; `filesystem.ts` does the I/O.
 */

import { BlockmoverError } from "../../../common/errors.js";

/** The name of the file with the parameters, in the root. */
export const shardParametersFileName = ".shards";

/** What the name of every complete blob ends in. */
export const blobFileSuffix = ".f";

const maxShardLength = 100;
const maxShardDepth = 16;

/** The content of `.shards`. */
export interface ShardParameters {
  /** Lengths in characters of the directory names on the way to a blob. */
  readonly defaultShards: readonly number[];
  /** Ids up to this length in characters lie in the root. */
  readonly maxNonShardedLength: number;
  /** The first whose prefix matches replaces the default. */
  readonly overrides: readonly { readonly prefix: string; readonly shards: readonly number[] }[];
}

/** What Kopia chooses for a repository that it creates. */
export const newRepositoryShards: ShardParameters = { defaultShards: [1, 3], maxNonShardedLength: 20, overrides: [] };

/** What Kopia assumes of a repository without `.shards`: it is older than that file. */
export const oldRepositoryShards: ShardParameters = { defaultShards: [3, 3], maxNonShardedLength: 20, overrides: [] };

/** The text of `.shards`, as Kopia writes it. */
export function encodeShardParameters(parameters: ShardParameters): string {
  const { defaultShards, maxNonShardedLength, overrides } = parameters;
  const json = { default: defaultShards, maxNonShardedLength, ...(overrides.length > 0 ? { overrides } : {}) };
  return `${JSON.stringify(json)}\n`;
}

/**
 * Reads the text of `.shards`. As in Go, absent or null fields are empty.
 *
 * @param where the path of the file, for the error
 * @throws BlockmoverError DATA_LOSS if it is not what Kopia writes
 */
export function decodeShardParameters(text: string, where: string): ShardParameters {
  const damaged = (why: string, cause?: unknown): BlockmoverError =>
    new BlockmoverError("DATA_LOSS", `${where} is damaged: ${why}`, {
      cause,
      hint: 'It must hold the layout that the repository was created with, most often {"default":[1,3],"maxNonShardedLength":20}.',
    });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw damaged("not JSON", error);
  }
  if (!isRecord(json)) {
    throw damaged("not a JSON object");
  }
  const maxNonShardedLength = json["maxNonShardedLength"] ?? 0;
  if (typeof maxNonShardedLength !== "number" || !Number.isSafeInteger(maxNonShardedLength)) {
    throw damaged("maxNonShardedLength is not a whole number");
  }
  const overrides = json["overrides"] ?? [];
  if (!Array.isArray(overrides)) {
    throw damaged("overrides is not a list");
  }
  return {
    defaultShards: shardLengths(json["default"] ?? [], damaged),
    maxNonShardedLength,
    overrides: overrides.map((item: unknown) => {
      const prefix = isRecord(item) ? (item["prefix"] ?? "") : undefined;
      if (!isRecord(item) || typeof prefix !== "string") {
        throw damaged("an override has no prefix");
      }
      return { prefix, shards: shardLengths(item["shards"] ?? [], damaged) };
    }),
  };
}

/** Where a blob lies: directory names from the root down, then the file. */
export interface BlobPath {
  readonly directories: readonly string[];
  readonly fileName: string;
}

/**
 * The place of the blob `id`.
 *
 * @throws BlockmoverError INVALID_ARGUMENT if it would be outside the repository
 */
export function blobPath(parameters: ShardParameters, id: string): BlobPath {
  const directories: string[] = [];
  let rest = id;
  if (id.length > parameters.maxNonShardedLength) {
    const override = parameters.overrides.find(({ prefix }) => id.startsWith(prefix));
    for (const length of override?.shards ?? parameters.defaultShards) {
      if (rest.length <= length) {
        break;
      }
      const directory = rest.slice(0, length);
      if (directory === "." || directory === "..") {
        throw new BlockmoverError(
          "INVALID_ARGUMENT",
          `blob id ${JSON.stringify(id)} would leave the repository's directory`,
        );
      }
      directories.push(directory);
      rest = rest.slice(length);
    }
  }
  return { directories, fileName: rest + blobFileSuffix };
}

/**
 * The blob that lies at `path`, or undefined if none does: the file is something else, or misplaced, so that reading
 * the blob by its id would not find it.
 */
export function blobIdAt(parameters: ShardParameters, path: BlobPath): string | undefined {
  if (!path.fileName.endsWith(blobFileSuffix)) {
    return undefined;
  }
  const id = path.directories.join("") + path.fileName.slice(0, -blobFileSuffix.length);
  const expected = blobPath(parameters, id);
  const inPlace =
    expected.directories.length === path.directories.length &&
    expected.directories.every((directory, depth) => directory === path.directories[depth]);
  return inPlace ? id : undefined;
}

/** Whether `name`, a directory below `parents`, can hold blobs whose id starts with `prefix`. */
export function canHoldBlobs(
  parameters: ShardParameters,
  parents: readonly string[],
  name: string,
  prefix: string,
): boolean {
  const depth = parents.length;
  const isShard = [parameters.defaultShards, ...parameters.overrides.map(({ shards }) => shards)].some(
    (shards) => shards[depth] === name.length,
  );
  if (!isShard) {
    return false; // such as lost+found, which we may not even read
  }
  const beginning = parents.join("") + name;
  return beginning.startsWith(prefix) || prefix.startsWith(beginning);
}

function shardLengths(value: unknown, damaged: (why: string) => BlockmoverError): readonly number[] {
  if (!Array.isArray(value) || value.length > maxShardDepth) {
    throw damaged(`shards are not a list of at most ${maxShardDepth} lengths`);
  }
  return value.map((length: unknown) => {
    if (typeof length !== "number" || !Number.isSafeInteger(length) || length < 1 || length > maxShardLength) {
      throw damaged(`a shard length is not a whole number between 1 and ${maxShardLength}`);
    }
    return length;
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
