/** A BlockDevice over the addon's DeviceFile: the same calls, with system errors turned into BlockmoverErrors. */
import { DeviceFile, NativeError, type DeviceInfo, type OpenOptions, type ZeroMethod } from "../../../native/index.js";
import { BlockmoverError, type ErrorCode } from "../../common/errors.js";
import type { BlockDevice } from "./block-device.js";

export class NativeDevice implements BlockDevice {
  readonly #file: DeviceFile;

  private constructor(file: DeviceFile) {
    this.#file = file;
  }

  /** @throws BlockmoverError that names the path and says what to do */
  static async open(path: string, options: OpenOptions): Promise<NativeDevice> {
    return new NativeDevice(await mapped(DeviceFile.open(path, options)));
  }

  get path(): string {
    return this.#file.path;
  }

  get info(): DeviceInfo {
    return this.#file.info;
  }

  read(target: Uint8Array, offsetBytes: number): Promise<number> {
    return mapped(this.#file.read(target, offsetBytes));
  }

  readChunks(
    target: Uint8Array,
    offsetBytes: number,
    chunkSizeBytes: number,
  ): Promise<{ bytesRead: number; zeroChunks: number }> {
    return mapped(this.#file.readChunks(target, offsetBytes, chunkSizeBytes));
  }

  write(source: Uint8Array, offsetBytes: number): Promise<void> {
    return mapped(this.#file.write(source, offsetBytes));
  }

  zeroRange(offsetBytes: number, lengthBytes: number): Promise<ZeroMethod> {
    return mapped(this.#file.zeroRange(offsetBytes, lengthBytes));
  }

  flush(): Promise<void> {
    return mapped(this.#file.flush());
  }

  close(): Promise<void> {
    return mapped(this.#file.close());
  }
}

async function mapped<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    if (!(error instanceof NativeError)) throw error; // a wrong argument: our mistake
    const { code, hint } = meaningOf(error);
    throw new BlockmoverError(code, error.message, { cause: error, hint });
  }
}

function meaningOf(error: NativeError): { code: ErrorCode; hint?: string } {
  switch (error.errno) {
    case "ENOENT":
    case "ENOTDIR":
      return { code: "NOT_FOUND", hint: "Check the path; a volume must be attached to this machine or pod." };
    case "EACCES":
    case "EPERM":
      return {
        code: "PERMISSION_DENIED",
        hint: "Run as a user that may open it: block devices usually need root or the group disk.",
      };
    case "EBUSY":
    case "ETXTBSY":
    case "EAGAIN":
      return {
        code: "FAILED_PRECONDITION",
        hint: "Something else holds it (a mount, LVM, RAID, a loop device or another transfer); stop that first.",
      };
    case "EROFS":
      return { code: "FAILED_PRECONDITION", hint: "It is read-only; make it writable or choose another target." };
    case "EEXIST":
      return { code: "ALREADY_EXISTS", hint: "Choose another path or remove what is there." };
    case "EISDIR":
    case "ENOTBLK":
      return { code: "INVALID_ARGUMENT", hint: "Name a block device or a regular file." };
    case "ENAMETOOLONG":
    case "ELOOP":
      return { code: "INVALID_ARGUMENT", hint: "Check the path." };
    case "ENOSPC":
    case "EDQUOT":
    case "EFBIG":
      return { code: "RESOURCE_EXHAUSTED", hint: "Free space below the target or choose a larger one." };
    case "ENOMEM":
    case "EMFILE":
    case "ENFILE":
      return { code: "RESOURCE_EXHAUSTED", hint: "Raise the memory or open-file limit of this process." };
    case "EIO":
    case "EREMOTEIO":
    case "ENODATA":
    case "EUCLEAN":
    case "EBADMSG":
      return { code: "DATA_LOSS", hint: "The medium failed; look at the kernel log (dmesg) and check the device." };
    case "ENXIO":
    case "ENODEV":
    case "ENOMEDIUM":
    case "ESTALE":
      return { code: "FAILED_PRECONDITION", hint: "The device is gone; attach it again." };
    case "ETIMEDOUT":
    case "EHOSTDOWN":
    case "EHOSTUNREACH":
    case "ENOLINK":
      return { code: "UNAVAILABLE", hint: "The storage did not answer; try again when it does." };
    default:
      return { code: "INTERNAL" };
  }
}
