/** Opening a volume for reading: never exclusive, because a snapshot may have several readers. */
import { BlockmoverError } from "../../common/errors.js";
import type { BlockDevice } from "./block-device.js";
import { NativeDevice } from "./native-device.js";

/**
 * Opens a block device or an image file for reading: the writing calls of the result fail.
 *
 * @throws BlockmoverError NOT_FOUND, PERMISSION_DENIED, or INVALID_ARGUMENT for a directory or an empty path
 * @example
 * const source = await openSource("/dev/vdb");
 * try { await source.read(buffer, 0); } finally { await source.close(); }
 */
export async function openSource(path: string): Promise<BlockDevice> {
  if (path === "") {
    throw new BlockmoverError("INVALID_ARGUMENT", "the source path is empty", {
      hint: "Name a block device or an image file.",
    });
  }
  return NativeDevice.open(path, { access: "read" });
}
