import { expect } from "chai";
import fc from "fast-check";

import { TransferQueue, type QueuedTransfer } from "../../../services/agent/transfer-queue.js";
import { isBlockmoverError } from "../../../services/common/errors.js";

describe("TransferQueue", () => {
  let arrivals = 0;
  const transfer = (id: string, rest: Partial<QueuedTransfer> = {}): QueuedTransfer => ({
    id,
    priority: 0,
    queuedAtMs: 0,
    arrival: ++arrivals,
    exclusiveKeys: [],
    ...rest,
  });
  const queueOf = (limits: { maxRunning?: number; maxQueued?: number }, ...transfers: QueuedTransfer[]) => {
    const queue = new TransferQueue({ maxRunning: 1, maxQueued: 10, ...limits });
    for (const each of transfers) queue.add(each);
    return queue;
  };

  it("takes the highest priority first, and among equals the first that came", () => {
    const queue = queueOf(
      { maxRunning: 9 },
      transfer("a"),
      transfer("b", { priority: 5 }),
      transfer("c", { priority: 5 }),
    );
    expect([queue.takeNext(0), queue.takeNext(0), queue.takeNext(0), queue.takeNext(0)]).to.deep.equal([
      "b",
      "c",
      "a",
      undefined,
    ]);
  });

  it("takes no more than may run, and the next when one has gone", () => {
    const queue = queueOf({ maxRunning: 1 }, transfer("a"), transfer("b"));
    expect([queue.takeNext(0), queue.takeNext(0)]).to.deep.equal(["a", undefined]);
    queue.release("a");
    expect(queue.takeNext(0)).to.equal("b");
  });

  it("lets those behind pass one whose device is busy", () => {
    const queue = queueOf(
      { maxRunning: 3 },
      transfer("a", { exclusiveKeys: ["disk"] }),
      transfer("b", { exclusiveKeys: ["source", "disk"] }),
      transfer("c", { exclusiveKeys: ["other"] }),
    );
    expect([queue.takeNext(0), queue.takeNext(0), queue.takeNext(0)]).to.deep.equal(["a", "c", undefined]);
    queue.release("a");
    expect(queue.takeNext(0)).to.equal("b");
  });

  it("raises the priority by one a minute of waiting, so that nothing starves", () => {
    const queue = queueOf({}, transfer("old", { priority: -5 }), transfer("new", { queuedAtMs: 6 * 60_000 }));
    expect(queue.inOrder(0).map(({ id }) => id)).to.deep.equal(["new", "old"]);
    expect(queue.inOrder(6 * 60_000).map(({ id }) => id)).to.deep.equal(["old", "new"]);
  });

  it("refuses beyond its length, and says why; a transfer that can start at once needs no room", () => {
    const queue = queueOf({ maxRunning: 1, maxQueued: 0 });
    queue.requireRoom();
    queue.add(transfer("a"));
    queue.takeNext(0);
    try {
      queue.requireRoom();
      expect.fail("there was room");
    } catch (error) {
      expect(isBlockmoverError(error, "RESOURCE_EXHAUSTED") && error.reason).to.equal("QUEUE_FULL");
    }
  });

  it("counts what has been let in and not been added", () => {
    const queue = queueOf({ maxRunning: 1, maxQueued: 1 });
    queue.requireRoom(1);
    expect(() => queue.requireRoom(2)).to.throw(/the queue is full/);
  });

  it("never runs two with one key, nor more than allowed, nor loses one, whatever happens", () => {
    const actions = fc.array(
      fc.tuple(fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 3 }), fc.integer({ min: -2, max: 2 })),
    );
    fc.assert(
      fc.property(actions, (steps) => {
        const queue = new TransferQueue({ maxRunning: 2, maxQueued: 1000 });
        const running = new Map<string, string>();
        let count = 0;
        for (const [action, key, priority] of steps) {
          if (action === 0) {
            const id = `${key} ${count++}`;
            queue.add(transfer(id, { priority, exclusiveKeys: [String(key)] }));
          } else if (action === 1) {
            const id = queue.takeNext(0);
            if (id !== undefined) {
              const itsKey = id.slice(0, 1);
              expect([...running.values()]).not.to.include(itsKey);
              running.set(id, itsKey);
            }
          } else {
            const [id] = running.keys();
            if (id !== undefined) {
              running.delete(id);
              queue.release(id);
            }
          }
          expect(running.size).to.be.at.most(2);
          expect(queue.runningCount).to.equal(running.size);
        }
        while (queue.queuedCount + running.size > 0) {
          for (const id of running.keys()) queue.release(id);
          running.clear();
          const id = queue.takeNext(0);
          if (id !== undefined) running.set(id, "");
        }
      }),
    );
  });
});
