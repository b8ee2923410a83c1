/**
 * What a request must be before anything is done about it. Every violation is named, not only the first.
 *
 * The rules are those that the comments of the `.proto` files promise. Nothing here touches the world: whether a device
 * exists is not a question of form.
 */
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { BlockmoverError, type FieldViolation } from "../common/errors.js";
import { TransferState } from "../gen/blockmover/v1/transfer_pb.js";
import type { BackupSpec, RepositoryLocation, RestoreSpec } from "../gen/blockmover/v1/transfer_pb.js";
import type { ListTransfersRequest, StartBackupRequest, StartRestoreRequest } from "../gen/blockmover/v1/agent_pb.js";
import { writableCompressionNames } from "../datapath/repository/kopia/compression.js";

export const MAX_RANGES = 100_000;
const MAX_TEXT_BYTES = 4096;
const MAX_OPERATION_ID_BYTES = 256;
const MAX_PRIORITY = 100;
export const MAX_PAGE_SIZE = 1000;

/** @throws BlockmoverError INVALID_ARGUMENT with all violations */
export function validateStartBackup(request: StartBackupRequest): void {
  const found = new Violations();
  checkStart(found, request);
  if (found.require("spec", request.spec)) {
    checkBackup(found, request.spec);
  }
  found.throwIfAny("StartBackup");
}

/** @throws BlockmoverError INVALID_ARGUMENT with all violations */
export function validateStartRestore(request: StartRestoreRequest): void {
  const found = new Violations();
  checkStart(found, request);
  if (found.require("spec", request.spec)) {
    checkRestore(found, request.spec);
  }
  found.throwIfAny("StartRestore");
}

/** @throws BlockmoverError INVALID_ARGUMENT */
export function validateTransferId(call: string, transferId: string): void {
  const found = new Violations();
  checkTransferId(found, transferId);
  found.throwIfAny(call);
}

/** @throws BlockmoverError INVALID_ARGUMENT with all violations */
export function validateListTransfers(request: ListTransfersRequest): void {
  const found = new Violations();
  request.states.forEach((state, index) => {
    if (state === TransferState.UNSPECIFIED || !(state in TransferState)) {
      found.add(`states[${index}]`, "is not a state");
    }
  });
  if (request.pageSize > MAX_PAGE_SIZE) {
    found.add("page_size", `is ${request.pageSize}, at most ${MAX_PAGE_SIZE}`);
  }
  if (!/^\d{0,15}$/.test(request.pageToken)) {
    found.add("page_token", "is not one that this agent gave");
  }
  found.throwIfAny("ListTransfers");
}

class Violations {
  readonly #found: FieldViolation[] = [];

  add(field: string, description: string): void {
    this.#found.push({ field, description });
  }

  require<T>(field: string, value: T | undefined): value is T {
    if (value === undefined) {
      this.add(field, "is required");
    }
    return value !== undefined;
  }

  text(field: string, value: string, options: { readonly optional?: boolean; readonly maxBytes?: number } = {}): void {
    const { optional = false, maxBytes = MAX_TEXT_BYTES } = options;
    if (value === "" && !optional) {
      this.add(field, "is required");
    } else if (value.includes("\0")) {
      this.add(field, "holds a zero byte");
    } else if (Buffer.byteLength(value) > maxBytes) {
      this.add(field, `is longer than ${maxBytes} bytes`);
    }
  }

  path(field: string, value: string): void {
    this.text(field, value);
    if (value !== "" && !value.startsWith("/")) {
      this.add(field, "is not an absolute path");
    }
  }

  throwIfAny(call: string): void {
    if (this.#found.length > 0) {
      const list = this.#found.map(({ field, description }) => `${field} ${description}`).join("; ");
      throw new BlockmoverError("INVALID_ARGUMENT", `${call}: ${list}`, {
        reason: "INVALID_REQUEST",
        violations: this.#found,
      });
    }
  }
}

function checkStart(found: Violations, request: StartBackupRequest | StartRestoreRequest): void {
  checkTransferId(found, request.transferId);
  if (Math.abs(request.priority) > MAX_PRIORITY) {
    found.add("priority", `is ${request.priority}, must be between -${MAX_PRIORITY} and ${MAX_PRIORITY}`);
  }
  if (request.deadline !== undefined && !Number.isSafeInteger(Math.floor(timestampMs(request.deadline)))) {
    found.add("deadline", "is not a time");
  }
}

function checkTransferId(found: Violations, transferId: string): void {
  if (transferId === "") {
    found.add("transfer_id", "is required");
  } else if (!/^[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,127}$/.test(transferId)) {
    found.add("transfer_id", "must be 1 to 128 letters, digits, or any of . _ : - and not begin with a dot");
  }
}

function checkBackup(found: Violations, spec: BackupSpec): void {
  checkRepository(found, spec.repository);
  found.path("spec.device_path", spec.devicePath);
  if (found.require("spec.source", spec.source)) {
    found.text("spec.source.user_name", spec.source.userName);
    found.text("spec.source.host", spec.source.host);
    found.text("spec.source.path", spec.source.path);
  }
  found.text("spec.description", spec.description, { optional: true });
  checkParent(found, spec.parent);
  checkChanges(found, spec);
  if (spec.changeTracking !== undefined) {
    found.text("spec.change_tracking.change_id", spec.changeTracking.changeId);
    found.text("spec.change_tracking.volume_id", spec.changeTracking.volumeId);
  }
  const names: readonly string[] = writableCompressionNames;
  if (spec.compression !== "" && !names.includes(spec.compression)) {
    found.add("spec.compression", `is none of ${names.join(", ")}`);
  }
  found.text("spec.operation_id", spec.operationId, { optional: true, maxBytes: MAX_OPERATION_ID_BYTES });
}

function checkRestore(found: Violations, spec: RestoreSpec): void {
  checkRepository(found, spec.repository);
  if (!/^[0-9a-f]{6,64}$/.test(spec.snapshotId)) {
    found.add("spec.snapshot_id", spec.snapshotId === "" ? "is required" : "is not 6 to 64 hexadecimal digits");
  }
  found.path("spec.target_path", spec.targetPath);
}

function checkRepository(found: Violations, repository: RepositoryLocation | undefined): void {
  if (!found.require("spec.repository", repository)) {
    return;
  }
  const { url } = repository;
  found.text("spec.repository.url", url);
  // A relative path would be relative to the agent, which the caller knows nothing of.
  if (url !== "" && !url.startsWith("/") && !/^[a-z][a-z0-9+.-]*:\/\//i.test(url)) {
    found.add("spec.repository.url", "is neither an absolute path nor a URL");
  }
  found.text("spec.repository.password", repository.password);
}

function checkParent(found: Violations, parent: BackupSpec["parent"]): void {
  switch (parent?.wish.case) {
    case "snapshotId":
      found.text("spec.parent.snapshot_id", parent.wish.value);
      break;
    case "auto":
    case "none":
      if (!parent.wish.value) {
        found.add(`spec.parent.${parent.wish.case}`, "is false: choose another wish instead");
      }
      break;
    default:
      found.add("spec.parent", "is required: auto, none, or snapshot_id");
  }
}

function checkChanges(found: Violations, { changes, changeTracking, volumeId }: BackupSpec): void {
  found.text("spec.volume_id", volumeId, { optional: changes === undefined });
  if (changeTracking !== undefined && volumeId !== "" && volumeId !== changeTracking.volumeId) {
    found.add("spec.volume_id", "differs from spec.change_tracking.volume_id");
  }
  if (changes === undefined) {
    return;
  }
  found.text("spec.changes.base_change_id", changes.baseChangeId);
  if (changes.ranges.length > MAX_RANGES) {
    found.add("spec.changes.ranges", `has ${changes.ranges.length} ranges, at most ${MAX_RANGES}`);
    return;
  }
  const outside = changes.ranges.findIndex(
    ({ offsetBytes, lengthBytes }) => offsetBytes + lengthBytes > BigInt(Number.MAX_SAFE_INTEGER),
  );
  if (outside >= 0) {
    found.add(`spec.changes.ranges[${outside}]`, "ends beyond 2^53 - 1");
  }
}
