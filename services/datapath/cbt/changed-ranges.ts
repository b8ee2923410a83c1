/**
 * What changed on a volume since a base, as told by someone else: `rbd diff`, `thin_delta`, `zfs`, a CSI driver.
 *
 * The source vouches for it: whatever no range touches is taken over from the parent without being read. So the base
 * is named by its change id, and a backup uses the ranges only with the parent that carries the same id.
 */
import { createReadStream } from "node:fs";
import type { Readable } from "node:stream";
import { BlockmoverError, messageOf } from "../../common/errors.js";

export interface ByteRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Changes of a volume relative to one base. */
export interface ChangedRanges {
  /** The change id of the base: the parent must carry the same. */
  readonly baseChangeId: string;
  /** Ends well or throws; what it gave before it threw is not used. */
  ranges(signal?: AbortSignal): AsyncIterable<ByteRange>;
}

/** A line of JSON is an object with two numbers; anything longer is not such a line. */
const MAX_LINE_LENGTH = 4096;

/**
 * Reads ranges from JSON lines `{"offset":…,"length":…}`, in bytes; empty lines are skipped, other members ignored.
 *
 * @param path a file, or "-" for standard input
 * @throws BlockmoverError INVALID_ARGUMENT naming the line
 * @example for await (const { offsetBytes, lengthBytes } of readChangedRanges("-")) …
 */
export async function* readChangedRanges(path: string, signal?: AbortSignal): AsyncGenerator<ByteRange> {
  signal?.throwIfAborted();
  const name = path === "-" ? "standard input" : path;
  const input: Readable = path === "-" ? process.stdin : createReadStream(path);
  // Whoever writes the ranges may take its time: an abort does not wait for its next line, or for its end.
  const onAbort = (): void => void input.destroy();
  signal?.addEventListener("abort", onAbort, { once: true });
  let lineNumber = 0;
  try {
    // Leaving the loop destroys the input, so that nothing waits for the end of what is not read.
    for await (const line of linesOf(input)) {
      lineNumber++;
      if (line.trim() !== "") {
        yield parseRange(line, `${name}, line ${lineNumber}`);
      }
    }
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof BlockmoverError) {
      throw error;
    }
    throw new BlockmoverError("INVALID_ARGUMENT", `cannot read the changed ranges from ${name}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

/** The lines of a text, the last with or without its end; of a line that is too long, as much as shows that it is. */
async function* linesOf(input: Readable): AsyncGenerator<string> {
  input.setEncoding("utf8");
  let rest = "";
  for await (const chunk of input as AsyncIterable<string>) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
    if (rest.length > MAX_LINE_LENGTH) {
      yield rest;
      return;
    }
  }
  if (rest !== "") {
    yield rest;
  }
}

function parseRange(line: string, where: string): ByteRange {
  const malformed = (why: string): BlockmoverError =>
    new BlockmoverError("INVALID_ARGUMENT", `${where}: ${why}: ${line.slice(0, 80)}`, {
      hint: 'Each line is a JSON object such as {"offset":1048576,"length":4096}, both in bytes.',
    });
  if (line.length > MAX_LINE_LENGTH) {
    throw malformed("too long for a range");
  }
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw malformed("not JSON");
  }
  if (typeof value !== "object" || value === null) {
    throw malformed("not an object");
  }
  const { offset, length } = value as { offset?: unknown; length?: unknown };
  if (!isByteCount(offset) || !isByteCount(length)) {
    throw malformed("offset and length must be whole numbers of bytes, 0 or more");
  }
  return { offsetBytes: offset, lengthBytes: length };
}

function isByteCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
