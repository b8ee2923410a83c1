/** Transfers of an agent as text and as JSON. Apart from the commands, so that only they load Protobuf. */
import { toJson } from "@bufbuild/protobuf";
import { TransferSchema, TransferState, type Transfer } from "../gen/blockmover/v1/transfer_pb.js";
import { formatBytes, formatTable, type JsonObject, type Output } from "./output.js";

/** Ends a command with how a transfer has ended. */
export function showEnd(output: Output, transfer: Transfer): void {
  const json = toJson(TransferSchema, transfer) as JsonObject;
  output.result({ transfer: json }, `Transfer ${transfer.transferId}: ${stateOf(transfer)}\n`);
}

/** Ends a command with a list of transfers. */
export function showList(output: Output, transfers: readonly Transfer[]): void {
  output.result({ transfers: transfers.map((each) => toJson(TransferSchema, each)) }, tableOf(transfers));
}

function tableOf(transfers: readonly Transfer[]): string {
  if (transfers.length === 0) {
    return "No transfers.\n";
  }
  const rows = transfers.map((transfer) => [
    transfer.transferId,
    transfer.spec.case ?? "",
    stateOf(transfer),
    progressOf(transfer),
    volumeOf(transfer),
  ]);
  return formatTable([["TRANSFER", "KIND", "STATE", "DONE", "VOLUME"], ...rows]);
}

function stateOf(transfer: Transfer): string {
  const state = TransferState[transfer.state].toLowerCase();
  return transfer.queuePosition > 0 ? `${state} (${transfer.queuePosition})` : state;
}

function progressOf({ progress }: Transfer): string {
  if (progress === undefined) {
    return "-";
  }
  return `${formatBytes(Number(progress.doneBytes))} of ${formatBytes(Number(progress.totalBytes))}`;
}

function volumeOf({ spec }: Transfer): string {
  switch (spec.case) {
    case "backup":
      return spec.value.devicePath;
    case "restore":
      return `${spec.value.snapshotId} to ${spec.value.targetPath}`;
    case undefined:
      return "";
  }
}
