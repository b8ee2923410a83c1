/**
 * What every store checks about its arguments, so that all of them refuse the same things in the same words.
 *
 * Ids and ranges can come out of a damaged or hostile index; they are errors, not assertions.
 */

import { BlockmoverError } from "../../../common/errors.js";
import type { ByteRange } from "./blob-storage.js";

/** No store takes more: S3 keys end at 1024 bytes with their prefix, file names at 255. */
const maxIdLength = 512;

/** Printable ASCII without the slash: what Kopia writes, and what neither paths nor object keys give a meaning. */
const idPattern = /^[\x21-\x2e\x30-\x7e]+$/;

/** Whether `id` can be the name of a blob. */
export function isBlobId(id: string): boolean {
  return id.length <= maxIdLength && idPattern.test(id);
}

/** @throws BlockmoverError INVALID_ARGUMENT if `id` cannot be the name of a blob */
export function checkBlobId(id: string): void {
  if (!isBlobId(id)) {
    const shown = JSON.stringify(id.length > 80 ? `${id.slice(0, 80)}…` : id);
    throw new BlockmoverError(
      "INVALID_ARGUMENT",
      `${shown} cannot be a blob id (1 to ${maxIdLength} printable ASCII characters, no slash)`,
    );
  }
}

/** @throws BlockmoverError INVALID_ARGUMENT unless both numbers are whole, not negative, and end below 2^53 */
export function checkRange(id: string, range: ByteRange): void {
  const { offsetBytes, lengthBytes } = range;
  const whole = Number.isSafeInteger(offsetBytes) && Number.isSafeInteger(lengthBytes);
  if (!whole || offsetBytes < 0 || lengthBytes < 0 || !Number.isSafeInteger(offsetBytes + lengthBytes)) {
    throw new BlockmoverError(
      "INVALID_ARGUMENT",
      `blob ${id}: ${lengthBytes} bytes at offset ${offsetBytes} is no byte range`,
    );
  }
}

/**
 * The memory to read `lengthBytes` into: the beginning of `target`, or new memory.
 *
 * @throws BlockmoverError INVALID_ARGUMENT if `target` is too short
 */
export function readTarget(id: string, lengthBytes: number, target: Uint8Array | undefined): Uint8Array {
  if (target === undefined) {
    // Not from Buffer's shared pool: the caller may keep a small read for long, or hand its memory to a worker.
    return Buffer.allocUnsafeSlow(lengthBytes);
  }
  if (target.length < lengthBytes) {
    throw new BlockmoverError(
      "INVALID_ARGUMENT",
      `blob ${id}: ${lengthBytes} bytes do not fit into the ${target.length} bytes given`,
    );
  }
  return target.subarray(0, lengthBytes);
}

/** The error for a blob that ends before `range` does. */
export function blobTooShort(id: string, where: string, range: ByteRange, actualLengthBytes: number): BlockmoverError {
  return new BlockmoverError(
    "DATA_LOSS",
    `blob ${id} in ${where} is damaged: expected at least ${range.offsetBytes + range.lengthBytes} bytes ` +
      `(${range.lengthBytes} at offset ${range.offsetBytes}), found ${actualLengthBytes}`,
  );
}

/** The error for a blob that is not there. */
export function blobNotFound(id: string, where: string, cause?: unknown): BlockmoverError {
  return new BlockmoverError("NOT_FOUND", `blob ${id} does not exist in ${where}`, { cause });
}

/** The error for a put with `onlyIfAbsent` of a blob that is there. */
export function blobExists(id: string, where: string, cause?: unknown): BlockmoverError {
  return new BlockmoverError("ALREADY_EXISTS", `blob ${id} exists already in ${where}`, { cause });
}

/** The sum of the lengths of `parts`. */
export function totalLengthBytes(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, part) => sum + part.length, 0);
}
