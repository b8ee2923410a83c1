/**
 * Agents and data movers killed at random times: every transfer ends exactly once, and what it says is true.
 *
 * SEED=… replays a run; RUNS=… makes more of them (default 5).
 */
import { readdir, truncate, writeFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { expect } from "chai";

import { TransferState, type Transfer } from "../../services/gen/blockmover/v1/transfer_pb.js";
import { moverPids, PASSWORD, startAgent, waitForEnd, type AgentProcess } from "../support/agent.js";
import { backupRequest } from "../support/agent-requests.js";
import { runCliOrThrow } from "../support/cli.js";
import { Random, testSeed } from "../support/random-data.js";
import { GiB, MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait-for.js";

const env = { BLOCKMOVER_PASSWORD: PASSWORD };
const transferCount = 5;

describe("an agent whose processes are killed", () => {
  const temp = useTempDir();
  const first = testSeed();

  for (let seed = first; seed < first + Number(process.env.RUNS ?? 5); seed++) {
    it(`ends each transfer exactly once, truthfully, and leaves nothing behind (SEED=${seed})`, async function () {
      this.timeout(120_000);
      const random = new Random(seed);
      await runCliOrThrow(["repository", "create", "--repo", temp.file("repo")], { env });
      let agent = await startAgent(temp, ["--max-running", "2"]);
      const requests = await Promise.all(
        Array.from({ length: transferCount }, async (_, n) => {
          await writeFile(temp.file(`t${n}.img`), random.fork(n).bytes(random.between(1, 8) * MiB));
          await truncate(temp.file(`t${n}.img`), random.between(1, 3) * GiB);
          return backupRequest(`t${n}`, {
            repository: { url: temp.file("repo"), password: PASSWORD },
            devicePath: temp.file(`t${n}.img`),
          });
        }),
      );
      const ends = new Map<string, Transfer>();
      const lookFor = async (from: AgentProcess): Promise<void> => {
        for (const transfer of (await from.client.listTransfers({})).transfers) {
          const { transferId, endTime } = transfer;
          if (endTime === undefined) {
            expect(ends.has(transferId), `${transferId} has ended before`).to.equal(false);
          } else if (ends.has(transferId)) {
            expect(transfer.state).to.equal(ends.get(transferId)?.state);
            expect(transfer.outcome).to.deep.equal(ends.get(transferId)?.outcome);
          } else {
            ends.set(transferId, transfer);
          }
        }
      };
      const accepted = new Set<string>();
      const cancelled = new Set<string>();
      for (let round = 0; round < 6; round++) {
        for (const request of requests) {
          // Again and again, as a caller that never knows whether it was heard.
          if (random.below(2) === 0) {
            await agent.client.startBackup(request);
            accepted.add(request.transferId);
          }
        }
        await sleep(random.between(0, 600));
        switch (random.below(4)) {
          case 0: {
            const pids = moverPids(agent.stateDirectory);
            const pid = pids[random.below(Math.max(1, pids.length))];
            if (pid !== undefined) process.kill(pid, "SIGKILL");
            break;
          }
          case 1: {
            const [transferId] = [...accepted].slice(random.below(accepted.size + 1));
            if (transferId !== undefined) {
              await agent.client.cancel({ transferId });
              cancelled.add(transferId);
            }
            break;
          }
          default:
            await agent.end("SIGKILL");
            await sleep(random.between(0, 300));
            agent = await startAgent(temp, ["--max-running", "2"]);
        }
        await lookFor(agent);
      }
      for (const transferId of accepted) await waitForEnd(agent.client, transferId);
      await lookFor(agent);

      expect([...ends.keys()].sort()).to.deep.equal([...accepted].sort());
      const list = await runCliOrThrow(["snapshot", "list", "--repo", temp.file("repo"), "--json"], { env });
      const snapshots = (list.jsonResult() as { snapshots: { snapshotId: string }[] }).snapshots.map(
        ({ snapshotId }) => snapshotId,
      );
      const completed = [...ends.values()].filter(({ state }) => state === TransferState.COMPLETED);
      const claimed = completed.map(({ outcome }) => (outcome.case === "backupResult" ? outcome.value.snapshotId : ""));
      expect(snapshots.sort()).to.deep.equal(claimed.sort());
      for (const [transferId, { state }] of ends) {
        if (state === TransferState.CANCELLED) expect(cancelled.has(transferId), transferId).to.equal(true);
      }
      await waitFor(() => moverPids(agent.stateDirectory).length === 0, { what: "all data movers to be gone" });
      await waitFor(async () => (await readdir(temp.file("state/results"))).length === 0, {
        what: "results to be gone",
      });
      expect(await readdir(temp.file("state/requests"))).to.deep.equal([]);
    });
  }
});
