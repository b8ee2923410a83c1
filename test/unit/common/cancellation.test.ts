import { getEventListeners } from "node:events";
import { expect } from "chai";
import { isCancelled, raceAbort, sleep, throwIfAborted } from "../../../services/common/cancellation.js";

const reason = new Error("enough");

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
    return "resolved";
  } catch (error) {
    return error;
  }
}

function listenersOf(signal: AbortSignal): number {
  return getEventListeners(signal, "abort").length;
}

describe("throwIfAborted", () => {
  it("throws the reason, of an aborted signal only", () => {
    throwIfAborted(undefined);
    throwIfAborted(new AbortController().signal);
    expect(() => throwIfAborted(AbortSignal.abort(reason))).to.throw(reason);
  });
});

describe("isCancelled", () => {
  it("knows the reason, and what Node makes of it", async () => {
    const signal = AbortSignal.abort(reason);
    expect(isCancelled(reason, signal)).to.equal(true);
    const { setTimeout: nodeSleep } = await import("node:timers/promises");
    expect(isCancelled(await rejection(nodeSleep(1000, undefined, { signal })), signal)).to.equal(true);
  });

  it("takes nothing else for a cancellation", () => {
    expect(isCancelled(new Error("other"), AbortSignal.abort(reason))).to.equal(false);
    expect(isCancelled(reason, new AbortController().signal)).to.equal(false);
    expect(isCancelled(reason, undefined)).to.equal(false);
  });
});

describe("sleep", () => {
  it("waits, and leaves no listener", async () => {
    const { signal } = new AbortController();
    const startedMs = performance.now();
    await sleep(20, signal);
    await sleep(0);
    expect(performance.now() - startedMs).to.be.at.least(18);
    expect(listenersOf(signal)).to.equal(0);
  });

  it("ends at once with the reason when aborted", async () => {
    const controller = new AbortController();
    const startedMs = performance.now();
    const sleeping = rejection(sleep(60_000, controller.signal));
    controller.abort(reason);
    expect(await sleeping).to.equal(reason);
    expect(await rejection(sleep(60_000, controller.signal))).to.equal(reason);
    expect(performance.now() - startedMs).to.be.lessThan(1000);
    expect(listenersOf(controller.signal)).to.equal(0);
  });

  it("refuses times that a timer would not keep", () => {
    for (const ms of [-1, 2 ** 31, NaN]) {
      expect(() => sleep(ms)).to.throw(/sleep of/);
    }
  });
});

describe("raceAbort", () => {
  it("settles as the promise does, and leaves no listener", async () => {
    const { signal } = new AbortController();
    expect(await raceAbort(Promise.resolve(7), signal)).to.equal(7);
    expect(await rejection(raceAbort(Promise.reject(reason), signal))).to.equal(reason);
    expect(await raceAbort(Promise.resolve(8))).to.equal(8);
    expect(listenersOf(signal)).to.equal(0);
  });

  it("rejects with the reason when aborted first, also when that was before", async () => {
    const controller = new AbortController();
    const never = new Promise<void>(() => undefined);
    const racing = rejection(raceAbort(never, controller.signal));
    controller.abort(reason);
    expect(await racing).to.equal(reason);
    expect(await rejection(raceAbort(never, controller.signal))).to.equal(reason);
    expect(listenersOf(controller.signal)).to.equal(0);
  });

  it("drops what comes after the abort, failures as well", async () => {
    const signal = AbortSignal.abort(reason);
    const late = new Promise((_, reject) => setTimeout(() => reject(new Error("late")), 5));
    expect(await rejection(raceAbort(late, signal))).to.equal(reason);
    await sleep(20); // an unhandled rejection would fail the run
  });
});
