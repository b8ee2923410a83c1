/** Damaging a file a little. */
import { open } from "node:fs/promises";

/** Inverts one bit of the byte at `offsetBytes`. */
export async function flipBit(file: string, offsetBytes: number): Promise<void> {
  const handle = await open(file, "r+");
  try {
    const byte = Buffer.alloc(1);
    const { bytesRead } = await handle.read(byte, 0, 1, offsetBytes);
    if (bytesRead !== 1) throw new Error(`${file} has no byte ${offsetBytes}`);
    byte[0]! ^= 0x10;
    await handle.write(byte, 0, 1, offsetBytes);
  } finally {
    await handle.close();
  }
}
