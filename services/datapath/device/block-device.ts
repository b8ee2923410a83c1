/**
 * What the data path needs of a volume: positioned, parallel reads and writes of a fixed number of bytes.
 *
 * `open-source.ts` and `open-target.ts` give real ones; tests give one that fails where they say. Every method
 * rejects with a BlockmoverError: DATA_LOSS for a medium that fails (EIO), RESOURCE_EXHAUSTED for one that is full.
 */
import type { DeviceInfo, ZeroMethod } from "../../../native/index.js";

export type { DeviceInfo, ZeroMethod };

export interface BlockDevice {
  readonly path: string;
  readonly info: DeviceInfo;

  /** Fills `target` from `offsetBytes`; returns how much there was, less than asked for only at the end. */
  read(target: Uint8Array, offsetBytes: number): Promise<number>;

  /**
   * Reads and says which chunks are all zero (bit i of `zeroChunks`: chunk i of `target`); at most 31 chunks.
   *
   * What lies past the end is filled with zeros.
   */
  readChunks(
    target: Uint8Array,
    offsetBytes: number,
    chunkSizeBytes: number,
  ): Promise<{ bytesRead: number; zeroChunks: number }>;

  /** Writes all of `source`; the range must lie within the device. */
  write(source: Uint8Array, offsetBytes: number): Promise<void>;

  /** Makes the range read as zeros, without allocating it where the device can do that. */
  zeroRange(offsetBytes: number, lengthBytes: number): Promise<ZeroMethod>;

  /** What was written before is on stable storage when it resolves. */
  flush(): Promise<void>;

  /** After the running calls have ended. Idempotent. Does not flush. */
  close(): Promise<void>;
}
