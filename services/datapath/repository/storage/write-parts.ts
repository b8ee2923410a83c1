/**
 * Writes a list of byte ranges one after the other, with gathered writes and without copying them.
 *
 * The kernel takes at most IOV_MAX (1024) ranges a call and may write less than it was given; both are handled here.
 * A call is also limited in bytes, so that an abort is noticed between two of them.
 */

import { throwIfAborted } from "../../../common/cancellation.js";
import { assert } from "../../../common/assert.js";

/** IOV_MAX of Linux. */
export const maxPartsPerCall = 1024;

/**
 * 9 MiB a call: a few milliseconds into the page cache, and large enough that the calls cost nothing. Eight sealed
 * chunks, a little over 8 MiB, are read by one call.
 */
export const maxBytesPerCall = 9 * 1024 * 1024;

/** Writes `parts` at `positionBytes` of the file; returns how many bytes of them it wrote, at least one. */
export type GatheredWrite = (parts: Uint8Array[], positionBytes: number) => Promise<number>;

/**
 * Writes all of `parts` from position 0 on.
 *
 * @returns the number of bytes written
 * @throws what `write` throws; the signal's reason
 */
export async function writeParts(
  write: GatheredWrite,
  parts: readonly Uint8Array[],
  signal?: AbortSignal,
): Promise<number> {
  let positionBytes = 0;
  let next = 0; // the first part that is not yet written …
  let skipBytes = 0; // … and how much of it is
  for (;;) {
    throwIfAborted(signal);
    const batch: Uint8Array[] = [];
    let batchBytes = 0;
    for (
      let index = next;
      index < parts.length && batch.length < maxPartsPerCall && batchBytes < maxBytesPerCall;
      index++
    ) {
      const part = parts[index];
      assert(part !== undefined, "a part is missing");
      const begin = index === next ? skipBytes : 0;
      const end = Math.min(part.length, begin + maxBytesPerCall - batchBytes);
      if (end > begin) {
        batch.push(part.subarray(begin, end));
        batchBytes += end - begin;
      }
    }
    if (batchBytes === 0) {
      return positionBytes;
    }
    const written = await write(batch, positionBytes);
    assert(written > 0 && written <= batchBytes, `a write of ${batchBytes} bytes returned ${written}`);
    positionBytes += written;
    skipBytes += written;
    for (let part = parts[next]; part !== undefined && skipBytes >= part.length; part = parts[next]) {
      skipBytes -= part.length;
      next++;
    }
  }
}
