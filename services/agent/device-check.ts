/**
 * What an agent looks at before it accepts a transfer: that the device is there, is of the right kind, and is free; and
 * what names it uses it by, so that no two transfers have the same device at once.
 *
 * Looks only at names and numbers, opens nothing: the data mover's own refusals come on top.
 */
import { constants, type BigIntStats } from "node:fs";
import { access, realpath, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { BlockmoverError, messageOf } from "../common/errors.js";
import type { BackupSpec, RestoreSpec } from "../gen/blockmover/v1/transfer_pb.js";
import { findDeviceUse } from "../datapath/device/device-use.js";

/**
 * @returns keys that no other running transfer may have
 * @throws BlockmoverError NOT_FOUND, INVALID_ARGUMENT, PERMISSION_DENIED
 */
export async function checkBackupSource(spec: BackupSpec): Promise<readonly string[]> {
  const stats = await statOf("device", spec.devicePath);
  if (stats === undefined) {
    throw new BlockmoverError("NOT_FOUND", `device ${spec.devicePath} does not exist`, {
      hint: "Check the path, on the node of the agent, and that the volume is attached.",
    });
  }
  requireVolume("device", spec.devicePath, stats);
  await requireAccess("device", spec.devicePath, constants.R_OK);
  const { repository, source } = spec;
  return [
    ...(await keysOf(spec.devicePath, stats)),
    // Two backups of one volume at once would not know of each other: the second one's parent would be missing.
    `source ${JSON.stringify([repository?.url, source?.userName, source?.host, source?.path])}`,
  ];
}

/**
 * @returns keys that no other running transfer may have
 * @throws BlockmoverError NOT_FOUND, INVALID_ARGUMENT, PERMISSION_DENIED, FAILED_PRECONDITION (in use)
 */
export async function checkRestoreTarget(spec: RestoreSpec): Promise<readonly string[]> {
  const { targetPath } = spec;
  const stats = await statOf("target", targetPath);
  if (stats === undefined) {
    const directory = await statOf("directory", dirname(targetPath));
    if (directory?.isDirectory() !== true) {
      throw new BlockmoverError("NOT_FOUND", `target ${targetPath}: its directory does not exist`, {
        hint: "Check the path, on the node of the agent.",
      });
    }
    return keysOf(targetPath, undefined);
  }
  requireVolume("target", targetPath, stats);
  await requireAccess("target", targetPath, constants.R_OK | constants.W_OK);
  const use = await findDeviceUse(targetPath);
  if (use !== undefined) {
    throw new BlockmoverError("FAILED_PRECONDITION", `target ${targetPath} ${use}`, {
      reason: "TARGET_IN_USE",
      hint: "Stop using it first (umount, swapoff, losetup -d), or choose another target.",
    });
  }
  return keysOf(targetPath, stats);
}

/** By path and by number: a file that a restore makes has no number yet, and a device may have many paths. */
async function keysOf(path: string, stats: BigIntStats | undefined): Promise<readonly string[]> {
  const directory = await realpath(dirname(path)).catch(() => dirname(path));
  const keys = [`path ${stats === undefined ? join(directory, basename(path)) : await realpath(path)}`];
  if (stats?.isBlockDevice() === true) {
    keys.push(`block ${stats.rdev}`);
  } else if (stats !== undefined) {
    keys.push(`file ${stats.dev} ${stats.ino}`);
  }
  return keys;
}

async function statOf(noun: string, path: string): Promise<BigIntStats | undefined> {
  try {
    return await stat(path, { bigint: true });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") {
      return undefined;
    }
    throw new BlockmoverError(
      code === "EACCES" ? "PERMISSION_DENIED" : "INVALID_ARGUMENT",
      `${noun} ${path}: ${messageOf(error)}`,
      { cause: error, hint: "Check the path, on the node of the agent." },
    );
  }
}

function requireVolume(noun: string, path: string, stats: BigIntStats): void {
  if (!stats.isBlockDevice() && !stats.isFile()) {
    throw new BlockmoverError("INVALID_ARGUMENT", `${noun} ${path} is neither a block device nor a file`, {
      reason: "NOT_A_VOLUME",
      hint: "Name a block device or an image file.",
    });
  }
}

async function requireAccess(noun: string, path: string, mode: number): Promise<void> {
  try {
    await access(path, mode);
  } catch (error) {
    throw new BlockmoverError("PERMISSION_DENIED", `${noun} ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: "Run the agent as a user that may open it.",
    });
  }
}
