/**
 * What an errno means for a blob store on a file system: one table, so that "worth another try" is decided once.
 */

import { BlockmoverError, type ErrorCode } from "../../../common/errors.js";

/** What was being done: the same errno can mean another thing. */
export interface FailedAccess {
  readonly kind: "read" | "write";
  /** The beginning of the message, such as `cannot read blob p1a2 in /srv/backup`. */
  readonly message: string;
}

interface Meaning {
  readonly code: ErrorCode;
  readonly hint?: string;
}

/** Network file systems and passing shortages; a later try opens everything anew. */
const transient = new Set([
  "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EINTR", "EMFILE", "ENETDOWN",
  "ENETUNREACH", "ENFILE", "ENOLCK", "ENOMEM", "ENOTCONN", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "ETXTBSY",
]); // prettier-ignore

/**
 * The BlockmoverError for a failed call to the file system. Anything that is no errno is returned as it is.
 *
 * NOT_FOUND and ALREADY_EXISTS are not decided here: only the caller knows which file was missing.
 */
export function filesystemError(error: unknown, access: FailedAccess): unknown {
  const errno = errnoOf(error);
  if (errno === undefined || !(error instanceof Error)) {
    return error;
  }
  const { code, hint } = meaningOf(errno, access.kind);
  return new BlockmoverError(code, `${access.message}: ${error.message}`, { cause: error, hint });
}

/** The name of the errno of a failed system call, such as `ENOENT`; undefined for every other error. */
export function errnoOf(error: unknown): string | undefined {
  if (error instanceof Error && "syscall" in error && "code" in error && typeof error.code === "string") {
    return error.code;
  }
  return undefined;
}

function meaningOf(errno: string, kind: FailedAccess["kind"]): Meaning {
  if (transient.has(errno)) {
    return { code: "UNAVAILABLE" };
  }
  switch (errno) {
    case "EIO":
      // A bad sector stays bad, so a read is lost. A write goes to a new file elsewhere each time: another try may do.
      return kind === "read"
        ? { code: "DATA_LOSS", hint: "The disk or the network storage reported a read error; check its logs." }
        : { code: "UNAVAILABLE", hint: "The disk or the network storage reported a write error; check its logs." };
    case "ENOSPC":
      return {
        code: "RESOURCE_EXHAUSTED",
        hint: "The file system is full: free space or inodes there, or make it larger.",
      };
    case "EDQUOT":
      return { code: "RESOURCE_EXHAUSTED", hint: "The disk quota is used up: raise it, or free space." };
    case "EFBIG":
      return {
        code: "RESOURCE_EXHAUSTED",
        hint: "The file is larger than the file system or the limits of this process allow.",
      };
    case "EACCES":
    case "EPERM":
      return {
        code: "PERMISSION_DENIED",
        hint: "Check the owner and the mode of the repository's directories and files.",
      };
    case "EROFS":
      return { code: "FAILED_PRECONDITION", hint: "The file system is mounted read-only." };
    case "ENAMETOOLONG":
      return { code: "INVALID_ARGUMENT" };
    default:
      return { code: "FAILED_PRECONDITION" };
  }
}
