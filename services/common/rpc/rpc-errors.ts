/**
 * Errors on the wire: BlockmoverError to a gRPC status and back, in this one place.
 *
 * What is not a BlockmoverError is a mistake of ours: the caller learns that it happened, the log learns what.
 */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.js";
import { BlockmoverError, isBlockmoverError, type ErrorCode } from "../errors.js";

export const ERROR_DOMAIN = "blockmover";

const codes: Readonly<Record<ErrorCode, Code>> = {
  INVALID_ARGUMENT: Code.InvalidArgument,
  NOT_FOUND: Code.NotFound,
  ALREADY_EXISTS: Code.AlreadyExists,
  FAILED_PRECONDITION: Code.FailedPrecondition,
  PERMISSION_DENIED: Code.PermissionDenied,
  UNAUTHENTICATED: Code.Unauthenticated,
  RESOURCE_EXHAUSTED: Code.ResourceExhausted,
  UNAVAILABLE: Code.Unavailable,
  DEADLINE_EXCEEDED: Code.DeadlineExceeded,
  UNIMPLEMENTED: Code.Unimplemented,
  DATA_LOSS: Code.DataLoss,
  INTERNAL: Code.Internal,
};

/** What a handler throws, as a status with its details. */
export function toConnectError(error: unknown, onUnexpected?: (error: unknown) => void): ConnectError {
  if (error instanceof ConnectError) {
    return error;
  }
  if (!isBlockmoverError(error)) {
    onUnexpected?.(error);
    return new ConnectError("an unexpected error; the agent's log has it", Code.Internal);
  }
  if (error.code === "INTERNAL") {
    onUnexpected?.(error);
  }
  const info = create(ErrorInfoSchema, {
    reason: error.reason ?? error.code,
    domain: ERROR_DOMAIN,
    metadata: error.hint === undefined ? {} : { hint: error.hint },
  });
  const details = [{ desc: ErrorInfoSchema, value: info }];
  const violations = create(BadRequestSchema, { fieldViolations: error.violations.map((each) => ({ ...each })) });
  return new ConnectError(
    error.message,
    codes[error.code],
    undefined,
    error.violations.length > 0 ? [...details, { desc: BadRequestSchema, value: violations }] : details,
    error,
  );
}

/** What a call to another service of ours threw, as the error that it was there. */
export function fromConnectError(thrown: unknown): BlockmoverError {
  if (isBlockmoverError(thrown)) {
    return thrown;
  }
  const error = ConnectError.from(thrown);
  const info = error.findDetails(ErrorInfoSchema)[0];
  const bad = error.findDetails(BadRequestSchema)[0];
  return new BlockmoverError(codeOf(error.code), error.rawMessage, {
    cause: thrown,
    hint: info?.metadata.hint,
    reason: info?.reason,
    violations: bad?.fieldViolations.map(({ field, description }) => ({ field, description })),
  });
}

/** The name of a code as BlockmoverError has it; INTERNAL for those that it has not. */
export function errorCodeNamed(name: string): ErrorCode {
  return name in codes ? (name as ErrorCode) : "INTERNAL";
}

function codeOf(code: Code): ErrorCode {
  const found = (Object.keys(codes) as ErrorCode[]).find((name) => codes[name] === code);
  return found ?? "INTERNAL";
}
