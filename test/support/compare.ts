/**
 * Comparing files and devices byte by byte, streaming.
 *
 * The verdict is about every byte, never about a checksum or a size alone.
 */
import { open, type FileHandle } from "node:fs/promises";

const blockBytes = 4 * 1024 * 1024;

export type Difference =
  | { readonly kind: "byte"; readonly offsetBytes: number; readonly left: number; readonly right: number }
  | { readonly kind: "length"; readonly leftBytes: number; readonly rightBytes: number };

export interface CompareOptions {
  /** Compare only the first this many bytes of both; both must have them. Default: all, and the lengths. */
  readonly lengthBytes?: number;
}

/** The first difference of two files or block devices, or `undefined` when they are equal. */
export async function firstDifference(
  left: string,
  right: string,
  options: CompareOptions = {},
): Promise<Difference | undefined> {
  const leftFile = await open(left, "r");
  try {
    const rightFile = await open(right, "r");
    try {
      return await compareHandles(leftFile, rightFile, options.lengthBytes);
    } finally {
      await rightFile.close();
    }
  } finally {
    await leftFile.close();
  }
}

/** @throws Error that says where they differ, in bytes and in the 1 MiB chunk */
export async function assertSameBytes(left: string, right: string, options: CompareOptions = {}): Promise<void> {
  const difference = await firstDifference(left, right, options);
  if (difference === undefined) return;
  if (difference.kind === "length") {
    throw new Error(
      `${left} ends at ${difference.leftBytes}, ${right} at ${difference.rightBytes} bytes (equal so far)`,
    );
  }
  const { offsetBytes } = difference;
  throw new Error(
    `${left} and ${right} differ first at byte ${offsetBytes} (chunk ${Math.floor(offsetBytes / 2 ** 20)} + ` +
      `${offsetBytes % 2 ** 20}): ${difference.left} and ${difference.right}`,
  );
}

/** Whether every byte of `[offsetBytes, offsetBytes + lengthBytes)` is there and zero. */
export async function isZeroRange(file: string, offsetBytes: number, lengthBytes: number): Promise<boolean> {
  const handle = await open(file, "r");
  try {
    const block = Buffer.allocUnsafe(blockBytes);
    const zeros = Buffer.alloc(blockBytes);
    for (let done = 0; done < lengthBytes;) {
      const part = block.subarray(0, Math.min(blockBytes, lengthBytes - done));
      const bytesRead = await readFull(handle, part, offsetBytes + done);
      if (bytesRead < part.length || !part.equals(zeros.subarray(0, part.length))) return false;
      done += part.length;
    }
    return true;
  } finally {
    await handle.close();
  }
}

async function compareHandles(
  left: FileHandle,
  right: FileHandle,
  lengthBytes = Number.MAX_SAFE_INTEGER,
): Promise<Difference | undefined> {
  const leftBlock = Buffer.allocUnsafe(blockBytes);
  const rightBlock = Buffer.allocUnsafe(blockBytes);
  for (let at = 0; at < lengthBytes; at += blockBytes) {
    const wanted = Math.min(blockBytes, lengthBytes - at);
    const [leftRead, rightRead] = await Promise.all([
      readFull(left, leftBlock.subarray(0, wanted), at),
      readFull(right, rightBlock.subarray(0, wanted), at),
    ]);
    const common = Math.min(leftRead, rightRead);
    if (!leftBlock.subarray(0, common).equals(rightBlock.subarray(0, common))) {
      for (let i = 0; i < common; i++) {
        const [leftByte = 0, rightByte = 0] = [leftBlock[i], rightBlock[i]];
        if (leftByte !== rightByte) return { kind: "byte", offsetBytes: at + i, left: leftByte, right: rightByte };
      }
    }
    const isShort = leftRead < wanted || rightRead < wanted;
    const lengthMatters = lengthBytes !== Number.MAX_SAFE_INTEGER || leftRead !== rightRead;
    if (isShort && lengthMatters) return { kind: "length", leftBytes: at + leftRead, rightBytes: at + rightRead };
    if (isShort) return undefined;
  }
  return undefined;
}

async function readFull(handle: FileHandle, target: Buffer, offsetBytes: number): Promise<number> {
  let done = 0;
  while (done < target.length) {
    const { bytesRead } = await handle.read(target, done, target.length - done, offsetBytes + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}
