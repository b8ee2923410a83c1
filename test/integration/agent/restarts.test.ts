import { readdir, stat, truncate, writeFile } from "node:fs/promises";

import { expect } from "chai";

import { TransferState } from "../../../services/gen/blockmover/v1/transfer_pb.js";
import { moverPids, PASSWORD, startAgent, waitForEnd, waitForState, type AgentProcess } from "../../support/agent.js";
import { backupRequest } from "../../support/agent-requests.js";
import { runCli, runCliOrThrow } from "../../support/cli.js";
import { Random } from "../../support/random-data.js";
import { run } from "../../support/run.js";
import { GiB, MiB } from "../../support/sizes.js";
import { useTempDir } from "../../support/temp-dir.js";
import { waitFor } from "../../support/wait-for.js";

describe("restarts of an agent", () => {
  const temp = useTempDir();
  const env = { BLOCKMOVER_PASSWORD: PASSWORD };

  beforeEach(async () => {
    await runCliOrThrow(["repository", "create", "--repo", temp.file("repo")], { env });
  });

  async function backupOf(
    transferId: string,
    options: { readonly sparseBytes: number } | { readonly randomBytes: number },
  ) {
    const image = temp.file(`${transferId}.img`);
    await writeFile(image, "randomBytes" in options ? new Random(1).bytes(options.randomBytes) : "");
    if ("sparseBytes" in options) await truncate(image, options.sparseBytes);
    return backupRequest(transferId, {
      repository: { url: temp.file("repo"), password: PASSWORD },
      devicePath: image,
    });
  }

  async function snapshotCount(): Promise<number> {
    const list = await runCliOrThrow(["snapshot", "list", "--repo", temp.file("repo"), "--json"], { env });
    return (list.jsonResult() as { snapshots: unknown[] }).snapshots.length;
  }

  /** A transfer held still in the middle of its work. */
  async function startAndHold(agent: AgentProcess, transferId: string): Promise<number> {
    await agent.client.startBackup(await backupOf(transferId, { sparseBytes: 4 * GiB }));
    await waitForState(agent.client, transferId, TransferState.RUNNING);
    const [pid] = moverPids(agent.stateDirectory);
    process.kill(pid!, "SIGSTOP");
    return pid!;
  }

  it("finds its transfers again after kill -9: the mover goes on meanwhile, and its result arrives once", async () => {
    const first = await startAgent(temp);
    const pid = await startAndHold(first, "b1");
    await first.end("SIGKILL");
    process.kill(pid, "SIGCONT");
    const second = await startAgent(temp);
    expect((await second.client.getTransfer({ transferId: "b1" })).transfer?.state).to.equal(TransferState.RUNNING);
    const ended = await waitForEnd(second.client, "b1");
    expect(ended.state).to.equal(TransferState.COMPLETED);
    expect(await snapshotCount()).to.equal(1);
    await waitFor(() => moverPids(second.stateDirectory).length === 0, { what: "the data mover to go" });
    await second.end("SIGKILL");

    const third = await startAgent(temp);
    const again = await waitForEnd(third.client, "b1");
    expect(again.outcome).to.deep.equal(ended.outcome);
    expect(again.revision > ended.revision).to.equal(true);
  });

  it("gets the result of a mover that finished and went while nobody was there", async () => {
    const first = await startAgent(temp, ["--away-limit", "5"]);
    const pid = await startAndHold(first, "b1");
    await first.end("SIGKILL");
    process.kill(pid, "SIGCONT");
    await waitFor(() => moverPids(first.stateDirectory).length === 0, { what: "the mover to end", deadlineMs: 30_000 });
    expect(await snapshotCount()).to.equal(1);
    const second = await startAgent(temp);
    const { state, outcome } = await waitForEnd(second.client, "b1");
    expect([state, outcome.case]).to.deep.equal([TransferState.COMPLETED, "backupResult"]);
  });

  it("says so when a mover gave up because its agent stayed away, and no snapshot is there", async () => {
    const first = await startAgent(temp, ["--away-limit", "1"]);
    await first.client.startBackup(await backupOf("b1", { sparseBytes: 256 * GiB }));
    await waitForState(first.client, "b1", TransferState.RUNNING);
    await first.end("SIGKILL");
    await waitFor(() => moverPids(first.stateDirectory).length === 0, { what: "the mover to end", deadlineMs: 30_000 });
    expect(await snapshotCount()).to.equal(0);
    const second = await startAgent(temp);
    const { state, outcome } = await waitForEnd(second.client, "b1");
    expect(state).to.equal(TransferState.FAILED);
    expect(outcome)
      .to.have.nested.property("value.message")
      .that.matches(/^the agent was away for \d+ s/);
  });

  it("fails a transfer whose mover was killed while nobody was there", async () => {
    const first = await startAgent(temp);
    const pid = await startAndHold(first, "b1");
    await first.end("SIGKILL");
    process.kill(pid, "SIGKILL");
    const second = await startAgent(temp);
    const { state, outcome } = await waitForEnd(second.client, "b1");
    expect(state).to.equal(TransferState.FAILED);
    expect(outcome).to.have.nested.property("value.message").that.contains("ended without a result");
    expect(await snapshotCount()).to.equal(0);
  });

  it("runs what was queued when it was killed, and then has no password on disk any more", async () => {
    const first = await startAgent(temp, ["--max-running", "1"]);
    const pid = await startAndHold(first, "b1");
    await first.client.startBackup(await backupOf("b2", { randomBytes: 4 * MiB }));
    const [request] = await readdir(temp.file("state/requests"));
    expect((await stat(temp.file("state/requests", request!))).mode & 0o777).to.equal(0o600);
    await first.end("SIGKILL");
    process.kill(pid, "SIGKILL");
    const second = await startAgent(temp);
    expect((await waitForEnd(second.client, "b1")).state).to.equal(TransferState.FAILED);
    expect((await waitForEnd(second.client, "b2")).state).to.equal(TransferState.COMPLETED);
    expect(await run("grep", ["-rlF", PASSWORD, second.stateDirectory])).to.include({ code: 1, stdout: "" });
    expect(await readdir(temp.file("state/results"))).to.deep.equal([]);
  });

  it("cancels after a restart what was asked to be cancelled before, and what is asked before the mover is back", async () => {
    const first = await startAgent(temp);
    const pid = await startAndHold(first, "b1");
    await first.client.cancel({ transferId: "b1" });
    await first.end("SIGKILL");
    const second = await startAgent(temp);
    expect((await waitForEnd(second.client, "b1")).state).to.equal(TransferState.CANCELLED);
    await waitFor(() => !moverPids(second.stateDirectory).includes(pid), { what: "the mover to be gone" });

    await startAndHold(second, "b2");
    await second.end("SIGKILL");
    const third = await startAgent(temp);
    const startedMs = performance.now();
    await third.client.cancel({ transferId: "b2" });
    expect((await waitForEnd(third.client, "b2")).state).to.equal(TransferState.CANCELLED);
    expect(performance.now() - startedMs).to.be.below(2_000);
    expect(await snapshotCount()).to.equal(0);
  });

  it("drains at SIGTERM: takes nothing more, lets a short transfer finish, and exits with 0", async () => {
    const agent = await startAgent(temp);
    // Held, so that it is still under way when the agent is asked for more.
    const pid = await startAndHold(agent, "b1");
    agent.run.kill("SIGTERM");
    await agent.run.waitForOutput(/agent\.draining/);
    const refused = await agent.client.startBackup(await backupOf("b2", { randomBytes: MiB })).catch(String);
    expect(refused).to.contain("the agent is shutting down");
    process.kill(pid, "SIGCONT");
    expect((await agent.run.done).code).to.equal(0);
    expect(moverPids(agent.stateDirectory)).to.deep.equal([]);
    const next = await startAgent(temp);
    expect((await waitForEnd(next.client, "b1")).state).to.equal(TransferState.COMPLETED);
  });

  it("hands over at SIGTERM what runs longer than the grace", async () => {
    const first = await startAgent(temp, ["--drain-grace", "0"]);
    const pid = await startAndHold(first, "b1");
    expect((await first.end("SIGTERM")).code).to.equal(0);
    expect(moverPids(first.stateDirectory)).to.deep.equal([pid]);
    process.kill(pid, "SIGCONT");
    const second = await startAgent(temp);
    expect((await waitForEnd(second.client, "b1")).state).to.equal(TransferState.COMPLETED);
    expect(await snapshotCount()).to.equal(1);
  });

  it("refuses a second agent on its state directory or its socket, and keeps its socket to its user", async () => {
    const agent = await startAgent(temp);
    expect((await stat(agent.socketPath)).mode & 0o777).to.equal(0o600);
    const sameState = await runCli(["agent", "--socket", temp.file("b.sock"), "--state-dir", agent.stateDirectory]);
    expect(sameState.code).to.equal(1);
    expect(sameState.stderr).to.contain("has the state directory");
    const sameSocket = await runCli(["agent", "--socket", agent.socketPath, "--state-dir", temp.file("other")]);
    expect(sameSocket.code).to.equal(1);
    expect(sameSocket.stderr).to.contain("an agent listens on");
    expect((await agent.client.listTransfers({})).transfers).to.deep.equal([]);
  });

  it("ends a data mover that has no agent to attach to, or no instructions", async () => {
    const nothing = await runCli(["data-mover"], { stdin: "" });
    expect(nothing.code).to.equal(2);
    expect(nothing.stderr).to.contain("standard input does not say which transfer to run");
    const bootstrap = {
      transferId: "b1",
      token: "t",
      agentSocket: temp.file("nobody.sock"),
      resultFile: temp.file("r.json"),
      awayLimitMs: 300,
    };
    expect((await runCli(["data-mover"], { stdin: JSON.stringify(bootstrap) })).code).to.equal(1);
    const { socketPath } = await startAgent(temp);
    const stranger = await runCli(["data-mover"], { stdin: JSON.stringify({ ...bootstrap, agentSocket: socketPath }) });
    expect(stranger.code).to.equal(1);
    expect(stranger.durationMs).to.be.below(10_000);
  });
});
