import { writeFile } from "node:fs/promises";

import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { expect } from "chai";

import { Agent, defaultLimits, type AgentLimits, type Attachment } from "../../../services/agent/agent.js";
import { Journal } from "../../../services/agent/journal.js";
import { RequestStore } from "../../../services/agent/request-store.js";
import { isBlockmoverError } from "../../../services/common/errors.js";
import { silentLog } from "../../../services/common/log.js";
import {
  AttachRequest_FinishedSchema,
  AttachRequest_HelloSchema,
  AttachRequest_ReportSchema,
} from "../../../services/gen/blockmover/v1/mover_pb.js";
import { TransferState, type Transfer } from "../../../services/gen/blockmover/v1/transfer_pb.js";
import { backupRequest } from "../../support/agent-requests.js";
import { useTempDir } from "../../support/temp-dir.js";
import { waitFor } from "../../support/wait-for.js";
import { FakeLauncher, type FakeMover } from "./fake-launcher.js";

describe("Agent", () => {
  const temp = useTempDir();
  let launcher: FakeLauncher;
  let nowMs: number;
  let fatal: unknown;

  beforeEach(async () => {
    launcher = new FakeLauncher();
    nowMs = 1_000_000;
    fatal = undefined;
    for (const name of ["a", "b", "c"]) await writeFile(temp.file(name), "volume");
  });

  afterEach(() => expect(fatal).to.equal(undefined));

  async function openAgent(limits: Partial<AgentLimits> = {}): Promise<Agent & { crash(): Promise<void> }> {
    const journal = await Journal.open(temp.file("journal"));
    const agent = await Agent.open({
      journal,
      requests: await RequestStore.open(temp.file("requests")),
      launcher,
      limits: { ...defaultLimits, ...limits },
      clock: { nowMs: () => nowMs, after: () => () => undefined },
      log: silentLog,
      onFatal: (error) => (fatal = error),
    });
    let open = true;
    const crash = async (): Promise<void> => {
      if (!open) return;
      open = false;
      agent.close();
      await journal.close();
    };
    temp.defer(crash);
    return Object.assign(agent, { crash });
  }

  const start = (agent: Agent, id: string, rest: Parameters<typeof backupRequest>[2] = {}) =>
    agent.start({ case: "backup", value: backupRequest(id, { devicePath: temp.file(id.slice(0, 1)) }, rest) });

  const moverOf = (id: string): Promise<FakeMover> =>
    waitFor(() => launcher.movers.get(id), { what: `the mover of ${id}` });

  const hello = (transferId: string, token: string, session = "s".repeat(16), hasRequest = false) =>
    create(AttachRequest_HelloSchema, { transferId, token, session: Buffer.from(session), hasRequest, pid: 1 });

  async function attachMover(agent: Agent, id: string): Promise<{ mover: FakeMover; attachment: Attachment }> {
    const mover = await moverOf(id);
    const attachment = await agent.attach(hello(id, mover.token));
    await agent.report(attachment, create(AttachRequest_ReportSchema, { requestReceived: true }));
    return { mover, attachment };
  }

  const stateOf = (agent: Agent, id: string, ...states: TransferState[]): Promise<Transfer> =>
    waitFor(
      () => {
        const transfer = agent.get(id);
        return states.includes(transfer.state) ? transfer : undefined;
      },
      { what: `${id} to be ${states.map((state) => TransferState[state]).join()}` },
    );

  const codeOf = async (call: Promise<unknown>): Promise<string> => {
    try {
      await call;
      return "OK";
    } catch (error) {
      return isBlockmoverError(error) ? error.code : String(error);
    }
  };

  const finished = create(AttachRequest_FinishedSchema, {
    outcome: { case: "backupResult", value: { snapshotId: "5" } },
  });

  it("gives a transfer to one session only: the token's first", async () => {
    const agent = await openAgent();
    await start(agent, "a");
    const mover = await moverOf("a");
    expect(await codeOf(agent.attach(hello("a", "guess")))).to.equal("UNAUTHENTICATED");
    expect(await codeOf(agent.attach(hello("a", mover.token, "short")))).to.equal("UNAUTHENTICATED");
    expect(await codeOf(agent.attach(hello("x", mover.token)))).to.equal("NOT_FOUND");
    const attachment = await agent.attach(hello("a", mover.token));
    expect(attachment.request?.value.spec?.repository?.password).to.equal("a secret");
    expect(await codeOf(agent.attach(hello("a", mover.token, "t".repeat(16))))).to.equal("UNAUTHENTICATED");
    // Its welcome was lost: the same session gets it again.
    const again = await agent.attach(hello("a", mover.token));
    expect(again.request?.value.transferId).to.equal("a");
    const news = attachment.news(new AbortController().signal);
    expect((await news.next()).value).to.equal("replaced");
  });

  it("calls a mover hung that is silent, kills it, and frees the place", async () => {
    const agent = await openAgent({ maxRunning: 1 });
    await start(agent, "a");
    await start(agent, "b");
    const { mover, attachment } = await attachMover(agent, "a");
    nowMs += defaultLimits.heartbeatTimeoutMs - 1;
    agent.tick();
    await agent.report(attachment, create(AttachRequest_ReportSchema, {}));
    nowMs += defaultLimits.heartbeatTimeoutMs;
    agent.tick();
    expect(mover.killed).to.equal(false);
    nowMs += 1;
    agent.tick();
    const { outcome } = await stateOf(agent, "a", TransferState.FAILED);
    expect(outcome).to.have.nested.property("value.message", "the data mover hung: nothing was heard of it for 30 s");
    await moverOf("b");
  });

  it("fails a transfer whose mover never attaches, or lives and lost contact", async () => {
    const agent = await openAgent();
    await start(agent, "a");
    await start(agent, "b");
    await moverOf("a");
    const { attachment } = await attachMover(agent, "b");
    agent.detach(attachment);
    nowMs += defaultLimits.attachTimeoutMs + 1;
    agent.tick();
    expect((await stateOf(agent, "a", TransferState.FAILED)).outcome)
      .to.have.nested.property("value.message")
      .that.contains("did not attach");
    expect(agent.get("b").state).to.equal(TransferState.RUNNING);
    nowMs += defaultLimits.lostContactMs;
    agent.tick();
    expect((await stateOf(agent, "b", TransferState.FAILED)).outcome)
      .to.have.nested.property("value.message")
      .that.contains("lost contact");
  });

  it("tells an out-of-memory kill, a crash and a failed start from each other", async () => {
    const agent = await openAgent();
    await start(agent, "a");
    await start(agent, "b");
    (await moverOf("a")).end({ signal: "SIGKILL", outOfMemory: true });
    (await moverOf("b")).end({ exitCode: 7, lastWords: "Error: boom" });
    const [a, b] = [await stateOf(agent, "a", TransferState.FAILED), await stateOf(agent, "b", TransferState.FAILED)];
    expect(a.outcome).to.have.nested.property("value.code", "RESOURCE_EXHAUSTED");
    expect(b.outcome)
      .to.have.nested.property("value.message")
      .that.equals("the data mover ended by itself with exit status 7; it said: Error: boom");
    launcher.failure = new Error("fork failed");
    await start(agent, "c");
    const c = await stateOf(agent, "c", TransferState.FAILED);
    expect(c.outcome).to.have.nested.property("value.message", "fork failed");
    expect(agent.counts).to.deep.equal({ running: 0, queued: 0 });
  });

  it("keeps the place of a mover that cannot be killed, and ends its transfer all the same", async () => {
    const agent = await openAgent({ maxRunning: 1 });
    await start(agent, "a");
    const { mover } = await attachMover(agent, "a");
    mover.isMortal = false;
    await agent.cancel("a");
    nowMs += 1_500;
    agent.tick();
    expect([mover.killed, agent.get("a").state]).to.deep.equal([true, TransferState.CANCELLING]);
    nowMs += 10_001;
    agent.tick();
    await stateOf(agent, "a", TransferState.CANCELLED);
    expect(agent.counts.running).to.equal(1);
    mover.end();
    await waitFor(() => agent.counts.running === 0, { what: "the place to be free" });
  });

  it("completes a transfer that had finished when the cancel came", async () => {
    const agent = await openAgent();
    await start(agent, "a");
    const { attachment } = await attachMover(agent, "a");
    await agent.cancel("a");
    await agent.finished(attachment, finished);
    expect(agent.get("a").state).to.equal(TransferState.COMPLETED);
  });

  it("gives watchers the present first, one end, and at most ten messages a second, however much happens", async () => {
    const agent = await openAgent();
    await start(agent, "a");
    const { attachment } = await attachMover(agent, "a");
    const seen: Transfer[] = [];
    const startedMs = performance.now();
    const watching = (async () => {
      for await (const transfer of agent.watch("a", new AbortController().signal)) seen.push(transfer);
    })();
    for (let n = 1; n <= 500; n++) {
      // Counters that go back, as a confused mover might report, are not passed on.
      const doneBytes = BigInt(n % 10 === 0 ? 0 : n);
      await agent.report(attachment, create(AttachRequest_ReportSchema, { progress: { doneBytes } }));
      if (n % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await agent.finished(attachment, finished);
    await watching;
    const seconds = (performance.now() - startedMs) / 1000;
    expect(seen[0]!.state).to.equal(TransferState.RUNNING);
    expect(seen.filter(({ endTime }) => endTime !== undefined)).to.have.length(1);
    expect(seen.at(-1)!.state).to.equal(TransferState.COMPLETED);
    expect(seen.length).to.be.at.most(Math.ceil(seconds * 10) + 2);
    const done = seen.map(({ progress }) => progress?.doneBytes ?? 0n);
    expect(done).to.deep.equal([...done].sort((x, y) => (x < y ? -1 : 1)));
  });

  it("is not slowed by a watcher that does not read", async () => {
    const agent = await openAgent();
    await start(agent, "a");
    const { attachment } = await attachMover(agent, "a");
    const slow = agent.watch("a", new AbortController().signal);
    await slow.next();
    for (let n = 0; n < 1000; n++) {
      await agent.report(attachment, create(AttachRequest_ReportSchema, { progress: { doneBytes: BigInt(n) } }));
    }
    await agent.finished(attachment, finished);
    expect((await slow.next()).value).to.have.property("state", TransferState.COMPLETED);
    expect((await slow.next()).done).to.equal(true);
  });

  it("ends watchers with UNAVAILABLE when it closes, the transfer goes on", async () => {
    const agent = await openAgent();
    await start(agent, "a");
    const watcher = agent.watch("a", new AbortController().signal);
    await watcher.next();
    const end = codeOf(
      (async () => {
        while (!(await watcher.next()).done);
      })(),
    );
    await agent.crash();
    expect(await end).to.equal("UNAVAILABLE");
    expect((await moverOf("a")).killed).to.equal(false);
  });

  it("takes up after a crash: movers attach again, the queue keeps its order, nothing starts twice", async () => {
    const first = await openAgent({ maxRunning: 1 });
    await start(first, "a");
    await start(first, "b", { priority: 1 });
    await start(first, "c", { priority: 2 });
    const { mover } = await attachMover(first, "a");
    await first.crash();

    const second = await openAgent({ maxRunning: 1 });
    expect(launcher.launches).to.equal(1);
    expect(second.get("a").state).to.equal(TransferState.RUNNING);
    expect([second.get("c").queuePosition, second.get("b").queuePosition]).to.deep.equal([1, 2]);
    const attachment = await second.attach(hello("a", mover.token, "s".repeat(16), true));
    expect(attachment.request).to.equal(undefined);
    await second.finished(attachment, finished);
    mover.end({ exitCode: 0 });
    await moverOf("c");
    expect(launcher.launches).to.equal(2);
    expect((await start(second, "a")).state).to.equal(TransferState.COMPLETED);
  });

  it("records an outcome once, though its mover says it again after the restart", async () => {
    const first = await openAgent();
    await start(first, "a");
    const { mover, attachment } = await attachMover(first, "a");
    await first.finished(attachment, finished);
    await first.crash(); // before the mover heard that it is recorded
    const second = await openAgent();
    const ended = second.get("a");
    const again = await second.attach(hello("a", mover.token, "s".repeat(16), true));
    await second.finished(again, create(AttachRequest_FinishedSchema, { outcome: { case: "cancelled", value: true } }));
    expect((await again.news(new AbortController().signal).next()).value).to.equal("recorded");
    expect(second.get("a").outcome).to.deep.equal(ended.outcome);
  });

  it("turns away a mover whose transfer has ended without it", async () => {
    const agent = await openAgent();
    await start(agent, "a");
    const { mover, attachment } = await attachMover(agent, "a");
    agent.detach(attachment);
    mover.isMortal = false;
    nowMs += defaultLimits.lostContactMs + 1;
    agent.tick();
    nowMs += 10_001;
    agent.tick();
    await stateOf(agent, "a", TransferState.FAILED);
    expect(await codeOf(agent.attach(hello("a", mover.token, "s".repeat(16), true)))).to.equal("FAILED_PRECONDITION");
  });

  it("fails what was starting when it crashed, if no mover ever comes", async () => {
    const first = await openAgent();
    launcher.adopt = async () => Promise.reject(new Error("not known"));
    await start(first, "a");
    await moverOf("a");
    await first.crash();
    // The identity was not written down yet.
    const journal = await Journal.open(temp.file("journal"));
    const [entry] = [...journal.entries()];
    await journal.set("a", { ...(entry!.value as object), identity: undefined });
    await journal.close();
    const second = await openAgent();
    nowMs += defaultLimits.attachTimeoutMs + 1;
    second.tick();
    await stateOf(second, "a", TransferState.FAILED);
    expect(second.counts.running).to.equal(0);
    expect(launcher.launches).to.equal(1);
  });

  it("forgets the oldest ends beyond its limit, on disk too", async () => {
    const agent = await openAgent({ maxEnded: 2 });
    for (const id of ["a1", "b1", "c1"]) {
      await start(agent, id);
      const { mover, attachment } = await attachMover(agent, id);
      await agent.finished(attachment, finished);
      mover.end({ exitCode: 0 });
    }
    const ids = agent.list({ states: [], fromArrival: 0, limit: 10 }).transfers.map(({ transferId }) => transferId);
    expect(ids).to.deep.equal(["b1", "c1"]);
    await agent.crash();
    const again = await openAgent({ maxEnded: 2 });
    expect(await codeOf(Promise.resolve().then(() => again.get("a1")))).to.equal("NOT_FOUND");
  });

  it("answers a list of 500 queued transfers quickly", async () => {
    const agent = await openAgent({ maxRunning: 1 });
    await Promise.all(Array.from({ length: 501 }, (_, n) => start(agent, `a${n}`)));
    const startedMs = performance.now();
    const { transfers } = agent.list({ states: [TransferState.QUEUED], fromArrival: 0, limit: 1000 });
    expect(transfers).to.have.length(500);
    expect(transfers.map(({ queuePosition }) => queuePosition)).to.have.members(
      Array.from({ length: 500 }, (_, n) => n + 1),
    );
    expect(performance.now() - startedMs).to.be.below(100);
    expect(await codeOf(start(agent, "a501"))).to.equal("RESOURCE_EXHAUSTED");
  });

  it("cannot go on when its journal takes no more, and says so to whoever runs it", async () => {
    const journal = await Journal.open(temp.file("failing"));
    const agent = await Agent.open({
      journal,
      requests: await RequestStore.open(temp.file("requests")),
      launcher,
      limits: defaultLimits,
      clock: { nowMs: () => nowMs, after: () => () => undefined },
      log: silentLog,
      onFatal: (error) => (fatal = error),
    });
    await start(agent, "a");
    const { attachment } = await attachMover(agent, "a");
    await journal.close();
    expect(await codeOf(agent.finished(attachment, finished))).to.equal("INTERNAL");
    expect(isBlockmoverError(fatal, "INTERNAL")).to.equal(true);
    expect(agent.get("a").state).to.equal(TransferState.RUNNING);
    fatal = undefined;
    agent.close();
  });

  it("refuses a deadline that has passed, and fails one that passes while it waits", async () => {
    const agent = await openAgent({ maxRunning: 0 });
    expect(await codeOf(start(agent, "a", { deadline: timestampFromMs(nowMs) }))).to.equal("DEADLINE_EXCEEDED");
    await start(agent, "b", { deadline: timestampFromMs(nowMs + 10) });
    nowMs += 10;
    agent.tick();
    expect((await stateOf(agent, "b", TransferState.FAILED)).outcome).to.have.nested.property(
      "value.code",
      "DEADLINE_EXCEEDED",
    );
  });
});
