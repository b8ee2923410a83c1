/**
 * Opening the target of a restore: an existing block device, an existing image file, or a new file.
 *
 * Guarantees before the first byte is written: it is large enough, nothing that this machine knows of uses it, and
 * nobody else holds it exclusively. A file with something in it is overwritten only by force. Does not look at what
 * a block device holds: naming it is the consent.
 */
import { stat, unlink } from "node:fs/promises";
import { resolve } from "node:path";
import type { BigIntStats } from "node:fs";
import { assert } from "../../common/assert.js";
import { BlockmoverError, messageOf } from "../../common/errors.js";
import type { BlockDevice } from "./block-device.js";
import { findDeviceUse } from "./device-use.js";
import { NativeDevice } from "./native-device.js";

export interface OpenTargetOptions {
  /** What the restore will write; the target must have at least this. */
  readonly sizeBytes: number;
  /** Overwrite an existing file that is not empty. Never overrides that something uses it. */
  readonly force?: boolean;
}

export interface BlockTarget {
  readonly device: BlockDevice;

  /** Whether openTarget made the file: all of it is a hole then, so zeros need not be written. */
  readonly isNew: boolean;

  /**
   * Gives up: closes the device, and deletes the file if openTarget made it, so that no half-restored image is left
   * that looks whole. A device or an older file stays as it is, partly overwritten.
   */
  discard(): Promise<void>;
}

/**
 * Opens or creates a restore target. A file that does not exist is created sparse, with mode 0600.
 *
 * @throws BlockmoverError FAILED_PRECONDITION (too small, mounted, busy, not empty), INVALID_ARGUMENT (not a device
 * or file), NOT_FOUND (missing directory or device), PERMISSION_DENIED, RESOURCE_EXHAUSTED
 * @example
 * const target = await openTarget("/dev/vdc", { sizeBytes });
 */
export async function openTarget(path: string, options: OpenTargetOptions): Promise<BlockTarget> {
  const { sizeBytes, force = false } = options;
  assert(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0, `target size ${sizeBytes} is a byte count`);
  if (path === "") {
    throw new BlockmoverError("INVALID_ARGUMENT", "the target path is empty", {
      hint: "Name a block device, or a file to create.",
    });
  }
  const existing = await statIfExists(path);
  if (existing === undefined) return createTarget(path, sizeBytes);

  if (existing.isBlockDevice() || existing.isFile()) {
    const use = await findDeviceUse(path);
    if (use !== undefined) {
      throw new BlockmoverError("FAILED_PRECONDITION", `target ${path} ${use}`, {
        hint: "Stop using it first (umount, swapoff, losetup -d), or choose another target.",
      });
    }
  }
  if (existing.isFile()) {
    requireSize(path, Number(existing.size), sizeBytes, "file");
    if (existing.size > 0n && !force) {
      throw new BlockmoverError("FAILED_PRECONDITION", `target file ${path} exists and is not empty`, {
        hint: "Restore to a new file, remove this one, or overwrite it with --force.",
      });
    }
  }
  const device = await NativeDevice.open(path, { access: "read-write", exclusive: true });
  try {
    requireSize(path, device.info.sizeBytes, sizeBytes, device.info.kind === "block" ? "device" : "file");
  } catch (error) {
    await device.close();
    throw error;
  }
  return newTarget(device, false);
}

async function createTarget(path: string, sizeBytes: number): Promise<BlockTarget> {
  if (resolve(path).startsWith("/dev/") && !resolve(path).startsWith("/dev/shm/")) {
    // A mistyped device name must not become a file in the machine's memory.
    throw new BlockmoverError("NOT_FOUND", `target ${path} does not exist; files are not created below /dev`, {
      hint: "Check the device name and that the volume is attached.",
    });
  }
  const device = await NativeDevice.open(path, { access: "read-write", exclusive: true, createSizeBytes: sizeBytes });
  return newTarget(device, true);
}

function requireSize(path: string, actualBytes: number, neededBytes: number, noun: string): void {
  if (actualBytes >= neededBytes) return;
  throw new BlockmoverError(
    "FAILED_PRECONDITION",
    `target ${noun} ${path} has ${actualBytes} bytes, the restore needs ${neededBytes}`,
    { hint: noun === "file" ? "Remove the file, so that it is created in full size." : "Choose a larger volume." },
  );
}

async function statIfExists(path: string): Promise<BigIntStats | undefined> {
  try {
    return await stat(path, { bigint: true });
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT") return undefined;
    if (code === "EACCES") {
      throw new BlockmoverError("PERMISSION_DENIED", `target ${path}: ${messageOf(error)}`, {
        cause: error,
        hint: "Run as a user that may search its directory.",
      });
    }
    throw new BlockmoverError("INVALID_ARGUMENT", `target ${path}: ${messageOf(error)}`, {
      cause: error,
      hint: "Check the path.",
    });
  }
}

function newTarget(device: BlockDevice, isNew: boolean): BlockTarget {
  return {
    device,
    isNew,
    async discard() {
      try {
        await device.close();
      } finally {
        if (isNew) await unlinkIncomplete(device.path);
      }
    },
  };
}

async function unlinkIncomplete(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return; // somebody was faster
    throw new BlockmoverError("FAILED_PRECONDITION", `incomplete target ${path} was not deleted`, {
      cause: error,
      hint: "Delete the file: what it holds is not a whole volume.",
    });
  }
}
