/**
 * Comparing sparse files by the extents that hold data, so that 100 GiB with a few megabytes of data take no time.
 *
 * The file system tells where data may be (SEEK_DATA, asked through xfs_io of xfsprogs, which works on any of them);
 * what it calls a hole reads as zeros. Whatever either file has is compared byte by byte.
 */
import { open, stat, type FileHandle } from "node:fs/promises";

import { runOrThrow } from "./run.js";

export interface Extent {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

const blockBytes = 1024 * 1024;

/** Where a regular file may hold something else than zeros, ascending. */
export async function dataExtents(file: string): Promise<Extent[]> {
  const { size } = await stat(file);
  const extents: Extent[] = [];
  let start: number | undefined;
  for (const line of (await runOrThrow("xfs_io", ["-r", "-c", "seek -a -r 0", file])).split("\n").slice(1)) {
    const match = /^(DATA|HOLE)\s+(\d+)$/.exec(line);
    if (match === null) continue; // "EOF"
    const at = Number(match[2]);
    if (match[1] === "DATA") {
      start = at;
    } else if (start !== undefined) {
      extents.push({ offsetBytes: start, lengthBytes: at - start });
      start = undefined;
    }
  }
  if (start !== undefined) extents.push({ offsetBytes: start, lengthBytes: size - start });
  return extents;
}

/**
 * @param options.lengthBytes compare only this much from the start; by default all, and the lengths too
 * @throws Error that says where the files differ
 */
export async function assertSameSparseBytes(
  left: string,
  right: string,
  options: { readonly lengthBytes?: number } = {},
): Promise<void> {
  const [leftSize, rightSize] = [(await stat(left)).size, (await stat(right)).size];
  if (options.lengthBytes === undefined && leftSize !== rightSize) {
    throw new Error(`${left} has ${leftSize} bytes, ${right} ${rightSize}`);
  }
  const end = options.lengthBytes ?? leftSize;
  if (Math.min(leftSize, rightSize) < end) throw new Error(`${left} or ${right} is shorter than ${end} bytes`);
  const [leftFile, rightFile] = [await open(left, "r"), await open(right, "r")];
  try {
    for (const { offsetBytes, lengthBytes } of [...(await dataExtents(left)), ...(await dataExtents(right))]) {
      for (let at = offsetBytes; at < Math.min(offsetBytes + lengthBytes, end); at += blockBytes) {
        const wanted = Math.min(blockBytes, offsetBytes + lengthBytes - at, end - at);
        const [a, b] = [await readAt(leftFile, at, wanted), await readAt(rightFile, at, wanted)];
        if (!a.equals(b)) {
          const first = a.findIndex((byte, position) => byte !== b[position]);
          throw new Error(`${left} and ${right} differ first at byte ${at + first}: ${a[first]} and ${b[first]}`);
        }
      }
    }
  } finally {
    await leftFile.close();
    await rightFile.close();
  }
}

async function readAt(file: FileHandle, offsetBytes: number, lengthBytes: number): Promise<Buffer> {
  const block = Buffer.alloc(lengthBytes);
  for (let done = 0; done < lengthBytes;) {
    const { bytesRead } = await file.read(block, done, lengthBytes - done, offsetBytes + done);
    if (bytesRead === 0) throw new Error(`end of file at ${offsetBytes + done}`);
    done += bytesRead;
  }
  return block;
}
