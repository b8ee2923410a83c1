/** Other people's tools against an agent: the real grpcurl, and curl. */
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import path from "node:path";

import { expect } from "chai";

import { PASSWORD, startAgent } from "../support/agent.js";
import { runCliOrThrow } from "../support/cli.js";
import { Random } from "../support/random-data.js";
import { run, runOrThrow } from "../support/run.js";
import { MiB } from "../support/sizes.js";
import { skipBecause } from "../support/skip.js";
import { useTempDir } from "../support/temp-dir.js";

const grpcurl = path.resolve(import.meta.dirname, "../../.cache/grpcurl");

describe("an agent and other people's tools", () => {
  const temp = useTempDir();

  beforeEach(async () => {
    const env = { BLOCKMOVER_PASSWORD: PASSWORD };
    await runCliOrThrow(["repository", "create", "--repo", temp.file("repo")], { env });
    await writeFile(temp.file("a.img"), new Random(1).bytes(8 * MiB));
  });

  const request = (): string =>
    JSON.stringify({
      transferId: "b1",
      spec: {
        repository: { url: temp.file("repo"), password: PASSWORD },
        devicePath: temp.file("a.img"),
        source: { userName: "default", host: "default", path: "a" },
        parent: { auto: true },
      },
    });

  describe("grpcurl", () => {
    before(function () {
      if (!existsSync(grpcurl)) skipBecause(this, "grpcurl-not-built");
    });

    for (const where of ["unix socket", "TCP in plain text"]) {
      it(`lists, describes and drives a backup to its end over ${where}`, async () => {
        const agent = await startAgent(temp, ["--listen", "127.0.0.1:0", "--plaintext"]);
        const tcp = agent.run.output().match(/http:\/\/(127\.0\.0\.1:\d+)/)?.[1] ?? "";
        const [target, flags] = where === "unix socket" ? [agent.socketPath, ["-unix"]] : [tcp, []];
        const call = (...args: string[]) => runOrThrow(grpcurl, ["-plaintext", ...flags, ...args]);

        expect((await call(target, "list")).split("\n")).to.include.members([
          "blockmover.v1.AgentService",
          "grpc.health.v1.Health",
          "grpc.reflection.v1.ServerReflection",
        ]);
        expect(await call(target, "describe", "blockmover.v1.AgentService")).to.contain("rpc StartBackup");
        expect(await call(target, "describe", "blockmover.v1.BackupSpec")).to.contain("string device_path = 2;");
        expect(await call("-d", "{}", target, "grpc.health.v1.Health/Check")).to.contain("SERVING");

        await call("-d", request(), target, "blockmover.v1.AgentService/StartBackup");
        const events = await call("-d", `{"transferId":"b1"}`, target, "blockmover.v1.AgentService/Progress");
        expect(events).to.contain("TRANSFER_STATE_COMPLETED").and.not.to.contain(PASSWORD);

        const bad = ["-plaintext", ...flags, "-d", "{}", target, "blockmover.v1.AgentService/StartBackup"];
        const refused = await run(grpcurl, bad);
        expect(refused.code).to.equal(64 + 3);
        // The details are known by reflection, too.
        expect(refused.stderr).to.contain(`"field": "transfer_id"`).and.contain(`"reason": "INVALID_REQUEST"`);
      });
    }
  });

  it("lets curl drive a backup with JSON, and tells it of a misspelt field", async () => {
    const agent = await startAgent(temp);
    const call = (method: string, body: string) =>
      runOrThrow("curl", [
        ...["--silent", "--http2-prior-knowledge", "--unix-socket", agent.socketPath],
        ...["--header", "content-type: application/json", "--data", body],
        `http://agent/blockmover.v1.AgentService/${method}`,
      ]);
    const started = JSON.parse(await call("StartBackup", request())) as { transfer: { transferId: string } };
    expect(started.transfer.transferId).to.equal("b1");
    for (let state = ""; state !== "TRANSFER_STATE_COMPLETED";) {
      const got = JSON.parse(await call("GetTransfer", `{"transferId":"b1"}`)) as { transfer: { state: string } };
      state = got.transfer.state;
      expect(state).to.match(/QUEUED|STARTING|RUNNING|COMPLETED/);
    }
    const misspelt = JSON.parse(await call("GetTransfer", `{"transferIdd":"b1"}`)) as object;
    expect(misspelt).to.have.property("code", "invalid_argument");
  });
});
