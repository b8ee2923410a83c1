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
  | "DEADLINE_EXCEEDED" // it had not ended by the time that the caller set
  | "UNIMPLEMENTED" // an algorithm or feature that this build does not have
  | "DATA_LOSS" // damaged or missing repository data, device read error
  | "INTERNAL"; // a broken invariant: our mistake

export interface ErrorOptions {
  /** What made it fail; logged, never needed to understand the message. */
  readonly cause?: unknown;
  /** What the user can do about it, as a full sentence. */
  readonly hint?: string;
  /** Tells failures of one code apart, for programs: capitals and underscores, stable. */
  readonly reason?: string;
  /** What is malformed in a request, all of it. */
  readonly violations?: readonly FieldViolation[];
}

/** One mistake in a request. */
export interface FieldViolation {
  /** Path to the field, such as `spec.repository.url`. */
  readonly field: string;
  readonly description: string;
}

/** A failure with a code, a message that stands alone, and a hint. */
export class BlockmoverError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly reason: string | undefined;
  readonly violations: readonly FieldViolation[];

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "BlockmoverError";
    this.code = code;
    this.hint = options.hint;
    this.reason = options.reason;
    this.violations = options.violations ?? [];
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
