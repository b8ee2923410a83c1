/**
 * The one error class of Blockmover.
 *
 * An error is made where the failure happens, with a code from a closed list, a message that says what failed,
 * on what and why, and, where it helps, a hint that says what to do. It is mapped to an exit status or a gRPC
 * status in exactly one place each. Cancellation is not an error: see `cancellation.ts`.
 */

/** Closed list of failure kinds; the names are the canonical gRPC codes. */
export type ErrorCode =
  | "INVALID_ARGUMENT" // the caller asked for something malformed
  | "NOT_FOUND" // the named thing does not exist
  | "ALREADY_EXISTS" // it exists and must not
  | "FAILED_PRECONDITION" // the world is not in the state this needs (device busy, repository locked)
  | "PERMISSION_DENIED" // the system refused access
  | "UNAUTHENTICATED" // wrong password or credentials
  | "RESOURCE_EXHAUSTED" // disk full, quota, limit
  | "UNAVAILABLE" // transient: trying again may help
  | "UNIMPLEMENTED" // an algorithm or feature that this build does not have
  | "DATA_LOSS" // damaged or missing repository data, device read error
  | "INTERNAL"; // a broken invariant: our mistake

export interface ErrorOptions {
  /** What made it fail; logged, never needed to understand the message. */
  readonly cause?: unknown;
  /** What the user can do about it, as a full sentence. */
  readonly hint?: string;
}

/** A failure with a code, a message that stands alone, and a hint. */
export class BlockmoverError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "BlockmoverError";
    this.code = code;
    this.hint = options.hint;
  }
}

/** Whether `error` is a BlockmoverError, of `code` if given. */
export function isBlockmoverError(error: unknown, code?: ErrorCode): error is BlockmoverError {
  return error instanceof BlockmoverError && (code === undefined || error.code === code);
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
