import { create } from "@bufbuild/protobuf";
import { expect } from "chai";

import {
  MAX_RANGES,
  validateListTransfers,
  validateStartBackup,
  validateStartRestore,
  validateTransferId,
} from "../../../services/agent/request-validation.js";
import { BlockmoverError } from "../../../services/common/errors.js";
import { ListTransfersRequestSchema, StartBackupRequestSchema } from "../../../services/gen/blockmover/v1/agent_pb.js";
import { TransferState } from "../../../services/gen/blockmover/v1/transfer_pb.js";
import { backupRequest, restoreRequest } from "../../support/agent-requests.js";

describe("request validation", () => {
  const fieldsOf = (validate: () => void): string[] => {
    try {
      validate();
      return [];
    } catch (error) {
      if (!(error instanceof BlockmoverError)) throw error;
      expect(error.code).to.equal("INVALID_ARGUMENT");
      for (const { field } of error.violations) expect(error.message).to.contain(field);
      return error.violations.map(({ field }) => field);
    }
  };
  const range = (offset: bigint, length: bigint) => ({ offsetBytes: offset, lengthBytes: length });

  it("passes what is right", () => {
    const changes = { baseChangeId: "c1", ranges: [range(0n, 2n ** 53n - 1n)] };
    const changeTracking = { changeId: "c2", volumeId: "v" };
    expect(fieldsOf(() => validateStartBackup(backupRequest("a")))).to.deep.equal([]);
    expect(
      fieldsOf(() => validateStartBackup(backupRequest("a", { changes, changeTracking, volumeId: "v" }))),
    ).to.deep.equal([]);
    expect(fieldsOf(() => validateStartRestore(restoreRequest("A-1.b:c_d")))).to.deep.equal([]);
  });

  it("names every violation at once", () => {
    const empty = create(StartBackupRequestSchema, { spec: {}, priority: -101 });
    expect(fieldsOf(() => validateStartBackup(empty))).to.deep.equal([
      "transfer_id",
      "priority",
      "spec.repository",
      "spec.device_path",
      "spec.source",
      "spec.parent",
    ]);
    expect(fieldsOf(() => validateStartBackup(create(StartBackupRequestSchema, { transferId: "a" })))).to.deep.equal([
      "spec",
    ]);
  });

  it("refuses ids that could be anything but a name", () => {
    for (const id of ["", ".", "..", ".a", "a/b", "a b", "a\0", "ä", "a".repeat(129)]) {
      expect(
        fieldsOf(() => validateTransferId("Cancel", id)),
        id,
      ).to.deep.equal(["transfer_id"]);
    }
  });

  it("checks each part of a backup", () => {
    const cases: readonly (readonly [Parameters<typeof backupRequest>[1], string])[] = [
      [{ repository: { url: "relative", password: "p" } }, "spec.repository.url"],
      [{ repository: { url: "", password: "p" } }, "spec.repository.url"],
      [{ repository: { url: "/a" } }, "spec.repository.password"],
      [{ devicePath: "dev/sda" }, "spec.device_path"],
      [{ devicePath: "/dev/\0" }, "spec.device_path"],
      [{ source: { userName: "u", host: "", path: "p" } }, "spec.source.host"],
      [{ description: "x".repeat(4097) }, "spec.description"],
      [{ parent: { wish: { case: "auto", value: false } } }, "spec.parent.auto"],
      [{ parent: { wish: { case: "snapshotId", value: "" } } }, "spec.parent.snapshot_id"],
      [{ changes: { baseChangeId: "c" } }, "spec.volume_id"],
      [{ volumeId: "v", changeTracking: { changeId: "c", volumeId: "w" } }, "spec.volume_id"],
      [{ changeTracking: { changeId: "c" } }, "spec.change_tracking.volume_id"],
      [{ compression: "rot13" }, "spec.compression"],
      [{ operationId: "x".repeat(257) }, "spec.operation_id"],
    ];
    for (const [spec, field] of cases) {
      expect(fieldsOf(() => validateStartBackup(backupRequest("a", spec)))).to.deep.equal([field]);
    }
  });

  it("bounds the changed ranges, in number and in place", () => {
    const volumeId = "v";
    const withRanges = (ranges: ReturnType<typeof range>[]) =>
      fieldsOf(() => validateStartBackup(backupRequest("a", { volumeId, changes: { baseChangeId: "c", ranges } })));
    expect(withRanges([range(0n, 1n), range(2n ** 53n - 1n, 1n)])).to.deep.equal(["spec.changes.ranges[1]"]);
    expect(withRanges([range(2n ** 64n - 1n, 2n ** 64n - 1n)])).to.deep.equal(["spec.changes.ranges[0]"]);
    expect(withRanges(Array<ReturnType<typeof range>>(MAX_RANGES + 1).fill(range(0n, 1n)))).to.deep.equal([
      "spec.changes.ranges",
    ]);
  });

  it("checks a restore and a list", () => {
    const restore = restoreRequest("a", { snapshotId: "12345", targetPath: "x" });
    expect(fieldsOf(() => validateStartRestore(restore))).to.deep.equal(["spec.snapshot_id", "spec.target_path"]);
    const list = create(ListTransfersRequestSchema, {
      pageSize: 1001,
      pageToken: "-1",
      states: [TransferState.UNSPECIFIED, 99 as unknown as TransferState],
    });
    expect(fieldsOf(() => validateListTransfers(list))).to.deep.equal([
      "states[0]",
      "states[1]",
      "page_size",
      "page_token",
    ]);
  });

  it("never puts a password into an error", () => {
    const request = backupRequest("a", { repository: { url: "relative", password: "hunter2\0" } });
    try {
      validateStartBackup(request);
      expect.fail("it passed");
    } catch (error) {
      expect(JSON.stringify(error) + String(error)).not.to.contain("hunter2");
    }
  });
});
