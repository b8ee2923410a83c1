import { stat, truncate, writeFile } from "node:fs/promises";
import { execFileSync } from "node:child_process";

import { Code, ConnectError } from "@connectrpc/connect";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { expect } from "chai";

import { fromConnectError } from "../../../services/common/rpc/rpc-errors.js";
import { TransferState, type Transfer } from "../../../services/gen/blockmover/v1/transfer_pb.js";
import { moverPids, PASSWORD, startAgent, visibleTo, waitForEnd, waitForState } from "../../support/agent.js";
import { backupRequest, restoreRequest } from "../../support/agent-requests.js";
import { runCli, runCliOrThrow, startCli } from "../../support/cli.js";
import { Random } from "../../support/random-data.js";
import { run } from "../../support/run.js";
import { GiB, MiB } from "../../support/sizes.js";
import { useTempDir } from "../../support/temp-dir.js";

describe("transfers of an agent", () => {
  const temp = useTempDir();
  const env = { BLOCKMOVER_PASSWORD: PASSWORD };

  beforeEach(async () => {
    await runCliOrThrow(["repository", "create", "--repo", temp.file("repo")], { env });
  });

  const repository = () => ({ url: temp.file("repo"), password: PASSWORD });

  /** A backup that takes a while and little room: a sparse volume has to be read all the same. */
  async function longBackup(transferId: string, image = `${transferId}.img`) {
    await writeFile(temp.file(image), "");
    await truncate(temp.file(image), 256 * GiB);
    return backupRequest(transferId, { repository: repository(), devicePath: temp.file(image) });
  }

  async function shortBackup(transferId: string, sizeBytes = 8 * MiB) {
    const image = temp.file(`${transferId}.img`);
    await writeFile(image, new Random(7).bytes(sizeBytes));
    return backupRequest(transferId, { repository: repository(), devicePath: image });
  }

  async function snapshotCount(): Promise<number> {
    const { snapshots } = (
      await runCliOrThrow(["snapshot", "list", "--repo", temp.file("repo"), "--json"], { env })
    ).jsonResult() as { snapshots: unknown[] };
    return snapshots.length;
  }

  async function failureOf(call: Promise<unknown>) {
    try {
      await call;
    } catch (error) {
      return fromConnectError(error);
    }
    throw new Error("the call succeeded");
  }

  it("backs up and restores, with progress from the first state to one terminal state, never going back", async () => {
    const { client } = await startAgent(temp);
    const request = await shortBackup("b1", 48 * MiB);
    await client.startBackup(request);
    const seen: Transfer[] = [];
    for await (const { transfer } of client.progress({ transferId: "b1" })) seen.push(transfer!);
    const backup = seen.at(-1)!;
    expect(backup.state).to.equal(TransferState.COMPLETED);
    expect(seen.filter(({ state }) => state >= TransferState.COMPLETED)).to.have.length(1);
    for (const [index, transfer] of seen.entries()) {
      const before = seen[index - 1];
      expect(transfer.revision > (before?.revision ?? 0n)).to.equal(true);
      expect((transfer.progress?.doneBytes ?? 0n) >= (before?.progress?.doneBytes ?? 0n)).to.equal(true);
    }
    expect(backup.progress?.doneBytes).to.equal(BigInt(48 * MiB));
    if (backup.outcome.case !== "backupResult") throw new Error("no result");

    const { snapshotId } = backup.outcome.value;
    await client.startRestore(
      restoreRequest("r1", { repository: repository(), snapshotId, targetPath: temp.file("out.img") }),
    );
    const restore = await waitForEnd(client, "r1");
    expect(restore.outcome.case).to.equal("restoreResult");
    execFileSync("cmp", [temp.file("b1.img"), temp.file("out.img")]);
    // Someone who comes late sees the end at once.
    expect((await waitForEnd(client, "b1")).state).to.equal(TransferState.COMPLETED);
  });

  it("starts nothing twice: the same request finds its transfer, another one with its id is refused", async () => {
    const { client } = await startAgent(temp);
    const request = await shortBackup("b1");
    const [first, second] = await Promise.all([client.startBackup(request), client.startBackup(request)]);
    expect(first.transfer?.createTime).to.deep.equal(second.transfer?.createTime);
    await waitForEnd(client, "b1");
    expect((await client.startBackup(request)).transfer?.state).to.equal(TransferState.COMPLETED);
    request.spec!.repository!.password = "not compared";
    expect((await client.startBackup(request)).transfer?.state).to.equal(TransferState.COMPLETED);
    expect(await snapshotCount()).to.equal(1);

    request.spec!.description = "another";
    const failure = await failureOf(client.startBackup(request));
    expect([failure.code, failure.reason]).to.deep.equal(["ALREADY_EXISTS", "PARAMETERS_DIFFER"]);
  });

  it("lets nobody see the password: no argument, environment, log or file of a running transfer has it", async () => {
    const agent = await startAgent(temp);
    await agent.client.startBackup(await longBackup("b1"));
    const transfer = await waitForState(agent.client, "b1", TransferState.RUNNING);
    expect(
      JSON.stringify(transfer, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value)),
    ).not.to.contain(PASSWORD);
    const [pid] = moverPids(agent.stateDirectory);
    expect(visibleTo(pid!)).to.contain("data-mover").and.not.to.contain(PASSWORD);
    const grep = await run("grep", ["-rlF", PASSWORD, agent.stateDirectory]);
    expect(grep).to.include({ code: 1, stdout: "" });
    await agent.client.cancel({ transferId: "b1" });
    await waitForEnd(agent.client, "b1");
    expect((await agent.end("SIGTERM")).stderr).not.to.contain(PASSWORD);
    expect((await stat(agent.stateDirectory)).mode & 0o777).to.equal(0o700);
  });

  it("tells a wrong password as the failure of the transfer", async () => {
    const { client } = await startAgent(temp);
    const request = await shortBackup("b1");
    request.spec!.repository!.password = "wrong";
    await client.startBackup(request);
    const { state, outcome } = await waitForEnd(client, "b1");
    expect(state).to.equal(TransferState.FAILED);
    expect(outcome).to.have.nested.property("value.code", "UNAUTHENTICATED");
  });

  it("cancels a running transfer within 2 s, leaving no snapshot, however often it is asked", async () => {
    const { client, stateDirectory } = await startAgent(temp);
    await client.startBackup(await longBackup("b1"));
    await waitForState(client, "b1", TransferState.RUNNING);
    const startedMs = performance.now();
    await client.cancel({ transferId: "b1" });
    await client.cancel({ transferId: "b1" });
    const ended = await waitForEnd(client, "b1");
    expect(performance.now() - startedMs).to.be.below(2_000);
    expect(ended.state).to.equal(TransferState.CANCELLED);
    expect(ended.outcome.case).to.equal(undefined);
    expect((await client.cancel({ transferId: "b1" })).transfer?.state).to.equal(TransferState.CANCELLED);
    expect(await snapshotCount()).to.equal(0);
    expect(moverPids(stateDirectory)).to.deep.equal([]);
  });

  it("cancels within 2 s even a data mover that does not answer", async () => {
    const { client, stateDirectory } = await startAgent(temp);
    await client.startBackup(await longBackup("b1"));
    await waitForState(client, "b1", TransferState.RUNNING);
    process.kill(moverPids(stateDirectory)[0]!, "SIGSTOP");
    const startedMs = performance.now();
    await client.cancel({ transferId: "b1" });
    expect((await waitForEnd(client, "b1")).state).to.equal(TransferState.CANCELLED);
    expect(performance.now() - startedMs).to.be.below(2_000);
  });

  it("queues beyond its limit, refuses beyond its queue, and starts the next when a place is free", async () => {
    const { client } = await startAgent(temp, ["--max-running", "1", "--max-queued", "2"]);
    await client.startBackup(await longBackup("b1"));
    const [second, third, fourth] = [await shortBackup("b2"), await shortBackup("b3"), await shortBackup("b4")];
    await client.startBackup(second);
    third.priority = 5;
    expect((await client.startBackup(third)).transfer?.queuePosition).to.equal(1);
    expect((await client.getTransfer({ transferId: "b2" })).transfer?.queuePosition).to.equal(2);
    const failure = await failureOf(client.startBackup(fourth));
    expect([failure.code, failure.reason]).to.deep.equal(["RESOURCE_EXHAUSTED", "QUEUE_FULL"]);
    expect((await failureOf(client.getTransfer({ transferId: "b4" }))).code).to.equal("NOT_FOUND");

    expect((await client.cancel({ transferId: "b2" })).transfer?.state).to.equal(TransferState.CANCELLED);
    await client.cancel({ transferId: "b1" });
    expect((await waitForEnd(client, "b3")).state).to.equal(TransferState.COMPLETED);
    const { transfers } = await client.listTransfers({});
    expect(transfers.map(({ transferId }) => transferId)).to.deep.equal(["b1", "b2", "b3"]);
    const { transfers: page, nextPageToken } = await client.listTransfers({ pageSize: 2 });
    expect(page.map(({ transferId }) => transferId)).to.deep.equal(["b1", "b2"]);
    const { transfers: rest } = await client.listTransfers({ pageSize: 2, pageToken: nextPageToken });
    expect(rest.map(({ transferId }) => transferId)).to.deep.equal(["b3"]);
  });

  it("never has two transfers of one device at once, and lets another device pass", async () => {
    const { client } = await startAgent(temp);
    await client.startBackup(await longBackup("b1", "same.img"));
    const again = backupRequest("b2", { repository: repository(), devicePath: temp.file("same.img") });
    expect((await client.startBackup(again)).transfer?.state).to.equal(TransferState.QUEUED);
    await client.startBackup(await shortBackup("b3"));
    expect((await waitForEnd(client, "b3")).state).to.equal(TransferState.COMPLETED);
    expect((await client.getTransfer({ transferId: "b2" })).transfer?.state).to.equal(TransferState.QUEUED);
    await client.cancel({ transferId: "b1" });
    await waitForState(client, "b2", TransferState.RUNNING);
    await client.cancel({ transferId: "b2" });
    expect((await waitForEnd(client, "b2")).state).to.equal(TransferState.CANCELLED);
  });

  it("fails a transfer whose deadline passes, running or queued", async () => {
    const { client } = await startAgent(temp, ["--max-running", "1"]);
    const [running, queued] = [await longBackup("b1"), await longBackup("b2")];
    running.deadline = queued.deadline = timestampFromMs(Date.now() + 2_500);
    await client.startBackup(running);
    await client.startBackup(queued);
    for (const id of ["b1", "b2"]) {
      const { state, outcome } = await waitForEnd(client, id);
      expect(state, id).to.equal(TransferState.FAILED);
      expect(outcome, id).to.have.nested.property("value.code", "DEADLINE_EXCEEDED");
    }
    const late = await shortBackup("b3");
    late.deadline = timestampFromMs(Date.now() - 1);
    expect((await failureOf(client.startBackup(late))).code).to.equal("DEADLINE_EXCEEDED");
    expect(await snapshotCount()).to.equal(0);
  });

  it("refuses what cannot work with the right status, and starts nothing", async () => {
    const { client } = await startAgent(temp);
    const backup = await shortBackup("b1");
    backup.spec!.devicePath = temp.file("missing");
    expect((await failureOf(client.startBackup(backup))).code).to.equal("NOT_FOUND");
    backup.spec!.devicePath = temp.path;
    expect((await failureOf(client.startBackup(backup))).reason).to.equal("NOT_A_VOLUME");
    backup.spec!.devicePath = "relative";
    backup.priority = 101;
    const { code, violations } = await failureOf(client.startBackup(backup));
    expect(code).to.equal("INVALID_ARGUMENT");
    expect(violations.map(({ field }) => field)).to.deep.equal(["priority", "spec.device_path"]);
    const restore = restoreRequest("r1", { repository: repository(), targetPath: temp.file("no/such/directory") });
    expect((await failureOf(client.startRestore(restore))).code).to.equal("NOT_FOUND");
    expect((await failureOf(client.cancel({ transferId: "b1" }))).code).to.equal("NOT_FOUND");
    expect((await client.listTransfers({})).transfers).to.deep.equal([]);

    const huge = await shortBackup("b1");
    huge.spec!.description = "x".repeat(5 * MiB);
    const refused = await client.startBackup(huge).catch((error: unknown) => ConnectError.from(error));
    expect(refused).to.have.property("code", Code.ResourceExhausted);
  });

  it("makes a clear failure of a data mover that is killed, and of it alone", async () => {
    const { client, stateDirectory } = await startAgent(temp);
    await client.startBackup(await longBackup("b1"));
    await waitForState(client, "b1", TransferState.RUNNING);
    process.kill(moverPids(stateDirectory)[0]!, "SIGKILL");
    const { state, outcome } = await waitForEnd(client, "b1");
    expect(state).to.equal(TransferState.FAILED);
    expect(outcome).to.have.nested.property("value.message", "the data mover was killed by SIGKILL");
    await client.startBackup(await shortBackup("b2"));
    expect((await waitForEnd(client, "b2")).state).to.equal(TransferState.COMPLETED);
    expect(await snapshotCount()).to.equal(1);
  });

  it("serves the command line: backup, restore, list, watch and cancel", async () => {
    const { address: agent, client } = await startAgent(temp);
    await writeFile(temp.file("a.img"), new Random(3).bytes(4 * MiB));
    const common = ["--repo", temp.file("repo"), "--agent", agent, "--json"];
    const backup = (
      await runCliOrThrow(["backup", temp.file("a.img"), "--source", "shop/db", "--transfer-id", "b1", ...common], {
        env,
      })
    ).jsonResult();
    expect(backup).to.include({ backupType: "full", volumeSizeBytes: 4 * MiB, incrementalBytes: 4 * MiB });
    await runCliOrThrow(["restore", String(backup.snapshotId), temp.file("b.img"), ...common], { env });
    execFileSync("cmp", [temp.file("a.img"), temp.file("b.img")]);
    const failed = await runCli(["restore", "ffffffff", temp.file("c.img"), ...common], { env });
    expect(failed.code).to.equal(1);
    expect(failed.jsonLines().at(-1)).to.include({ type: "error", code: "NOT_FOUND" });

    const list = await runCliOrThrow(["transfer", "list", "--agent", agent]);
    expect(list.stdout).to.match(/^b1 +backup +completed +4\.00 MiB of 4\.00 MiB +\//m);
    expect((await runCliOrThrow(["transfer", "watch", "b1", "--agent", agent])).stdout).to.contain("b1: completed");
    await client.startBackup(await longBackup("b2"));
    const watch = runCli(["transfer", "watch", "b2", "--agent", agent]);
    expect((await runCliOrThrow(["transfer", "cancel", "b2", "--agent", agent])).stdout).to.contain("b2: cancelled");
    expect((await watch).code).to.equal(130);
  });

  it("passes changed ranges on, so that an agent makes increments", async () => {
    const { address: agent } = await startAgent(temp);
    const image = temp.file("a.img");
    await writeFile(image, new Random(3).bytes(8 * MiB));
    const common = ["backup", image, "--source", "shop/db", "--volume-id", "v", "--repo", temp.file("repo")];
    await runCliOrThrow([...common, "--change-id", "c1", "--agent", agent], { env });
    const changes = [
      "--changed-ranges",
      "-",
      "--base-change-id",
      "c1",
      "--change-id",
      "c2",
      "--agent",
      agent,
      "--json",
    ];
    const stdin = `{"offset":3145728,"length":512}\n`;
    const result = (await runCliOrThrow([...common, ...changes], { env, stdin })).jsonResult();
    expect(result).to.include({ backupType: "incremental", incrementalBytes: MiB });
  });

  it("cancels its transfer when the command that waits for it is interrupted", async () => {
    const agent = await startAgent(temp);
    await longBackup("x");
    const args = ["backup", temp.file("x.img"), "--repo", temp.file("repo"), "--agent", agent.address];
    const waiting = startCli([...args, "--transfer-id", "b1"], { env });
    await waitForStateOnceThere(() => waitForState(agent.client, "b1", TransferState.RUNNING));
    waiting.kill("SIGINT");
    expect((await waiting.done).code).to.equal(130);
    expect((await agent.client.getTransfer({ transferId: "b1" })).transfer?.state).to.equal(TransferState.CANCELLED);
  });
});

/** The transfer may not have been asked for yet. */
async function waitForStateOnceThere<T>(look: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await look();
    } catch (error) {
      if (attempt === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
