import { expect } from "chai";
import { runPipeline, WorkInFlight } from "../../../../services/datapath/uploader/pipeline.js";

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function slots(count: number): { value: number }[] {
  return Array.from({ length: count }, () => ({ value: 0 }));
}

describe("runPipeline", () => {
  it("moves everything through fewer slots than there are items, in order", async () => {
    const seen: number[] = [];
    await runPipeline({
      slots: slots(2),
      signal: new AbortController().signal,
      read: async (ring) => {
        for (let value = 0; value < 50; value++) {
          const slot = await ring.acquire();
          slot.value = value;
          ring.push(slot);
        }
        ring.end();
      },
      write: async (ring) => {
        for (let slot = await ring.shift(); slot; slot = await ring.shift()) {
          if (slot.value % 7 === 0) await tick();
          seen.push(slot.value);
          ring.release(slot);
        }
      },
    });
    expect(seen).to.deep.equal(Array.from({ length: 50 }, (_, value) => value));
  });

  for (const side of ["read", "write"] as const) {
    it(`stops the other side and throws the first error when the ${side} side fails`, async () => {
      const failure = new Error(`${side} failed`);
      let otherEnded = false;
      const fails = async (): Promise<void> => {
        await tick();
        throw failure;
      };
      const outcome = await runPipeline({
        slots: slots(1),
        signal: new AbortController().signal,
        read: async (ring) => {
          if (side === "read") return fails();
          try {
            await ring.acquire();
            await ring.acquire();
          } finally {
            otherEnded = true;
          }
        },
        write: async (ring) => {
          if (side === "write") return fails();
          try {
            await ring.shift();
          } finally {
            otherEnded = true;
          }
        },
      }).catch((error: unknown) => error);
      expect(outcome).to.equal(failure);
      expect(otherEnded).to.equal(true);
    });
  }

  it("rejects with the signal's reason, after both sides have ended", async () => {
    const cancel = new AbortController();
    const reason = new Error("cancelled");
    let ended = 0;
    const waits = async (wait: () => Promise<unknown>): Promise<void> => {
      try {
        for (;;) await wait();
      } finally {
        ended++;
      }
    };
    const running = runPipeline({
      slots: slots(1),
      signal: cancel.signal,
      read: (ring) => waits(() => ring.acquire()),
      write: (ring) => waits(() => ring.shift()),
    }).catch((error: unknown) => error);
    await tick();
    cancel.abort(reason);
    expect(await running).to.equal(reason);
    expect(ended).to.equal(2);
  });
});

describe("WorkInFlight", () => {
  it("runs no more than its limit at once", async () => {
    let running = 0;
    let most = 0;
    const work = new WorkInFlight(3, () => undefined);
    for (let i = 0; i < 20; i++) {
      await work.add(async () => {
        most = Math.max(most, ++running);
        await tick();
        running--;
      });
    }
    await work.finish();
    expect(most).to.equal(3);
    expect(running).to.equal(0);
  });

  it("reports a failure at once and rejects with it from then on", async () => {
    const failure = new Error("no");
    let reported: unknown;
    const work = new WorkInFlight(1, (error) => {
      reported = error;
    });
    await work.add(() => Promise.reject(failure));
    await work.settle();
    expect(reported).to.equal(failure);
    expect(await work.add(() => Promise.resolve()).catch((error: unknown) => error)).to.equal(failure);
    expect(await work.finish().catch((error: unknown) => error)).to.equal(failure);
  });
});
