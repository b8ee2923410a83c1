/** Requests to an agent, as tests need them. */
import { create, type DescMessage, type MessageInitShape } from "@bufbuild/protobuf";

import {
  StartBackupRequestSchema,
  StartRestoreRequestSchema,
  type StartBackupRequest,
  type StartRestoreRequest,
} from "../../services/gen/blockmover/v1/agent_pb.js";
import type { BackupSpecSchema, RestoreSpecSchema } from "../../services/gen/blockmover/v1/transfer_pb.js";

/** Some fields of a message, as plain objects. */
type Fields<Schema extends DescMessage> = Omit<
  Exclude<MessageInitShape<Schema>, { $typeName: string }>,
  "$typeName" | "$unknown"
>;

/** A valid backup; `spec` replaces parts of it. */
export function backupRequest(
  transferId: string,
  spec: Fields<typeof BackupSpecSchema> = {},
  rest: Fields<typeof StartBackupRequestSchema> = {},
): StartBackupRequest {
  return create(StartBackupRequestSchema, {
    transferId,
    spec: {
      repository: { url: "/srv/repository", password: "a secret" },
      devicePath: "/dev/null-volume",
      source: { userName: "default", host: "default", path: `volumes/${transferId}` },
      description: "a test",
      parent: { wish: { case: "auto", value: true } },
      ...spec,
    },
    ...rest,
  });
}

/** A valid restore; `spec` replaces parts of it. */
export function restoreRequest(transferId: string, spec: Fields<typeof RestoreSpecSchema> = {}): StartRestoreRequest {
  return create(StartRestoreRequestSchema, {
    transferId,
    spec: {
      repository: { url: "/srv/repository", password: "a secret" },
      snapshotId: "0123456789abcdef",
      targetPath: "/srv/target",
      ...spec,
    },
  });
}
