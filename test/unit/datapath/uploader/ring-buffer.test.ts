import { expect } from "chai";
import { RingBuffer } from "../../../../services/datapath/uploader/ring-buffer.js";

interface Slot {
  value: number;
}

function newRing(count: number): RingBuffer<Slot> {
  return new RingBuffer(Array.from({ length: count }, () => ({ value: 0 })));
}

describe("RingBuffer", () => {
  it("hands slots out in the order in which they were pushed", async () => {
    const ring = newRing(3);
    for (const value of [1, 2, 3]) {
      const slot = await ring.acquire();
      slot.value = value;
      ring.push(slot);
    }
    ring.end();
    const seen: number[] = [];
    for (let slot = await ring.shift(); slot; slot = await ring.shift()) {
      seen.push(slot.value);
      ring.release(slot);
    }
    expect(seen).to.deep.equal([1, 2, 3]);
  });

  it("makes the reader wait until a slot is released", async () => {
    const ring = newRing(1);
    const slot = await ring.acquire();
    let granted = false;
    const waiting = ring.acquire().then((again) => {
      granted = true;
      return again;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(granted).to.equal(false);
    ring.release(slot);
    expect(await waiting).to.equal(slot);
  });

  it("wakes a waiting writer by a push, and by the end", async () => {
    const ring = newRing(1);
    const first = ring.shift();
    ring.push(await ring.acquire());
    expect(await first).to.not.equal(undefined);
    const second = ring.shift();
    ring.end();
    expect(await second).to.equal(undefined);
  });

  it("rejects every wait after a failure, with the first error", async () => {
    const ring = newRing(1);
    await ring.acquire();
    const reader = ring.acquire().catch((error: unknown) => error);
    const writer = ring.shift().catch((error: unknown) => error);
    const failure = new Error("disk gone");
    ring.fail(failure);
    ring.fail(new Error("later"));
    expect(await reader).to.equal(failure);
    expect(await writer).to.equal(failure);
    expect(await ring.acquire().catch((error: unknown) => error)).to.equal(failure);
    expect(await ring.shift().catch((error: unknown) => error)).to.equal(failure);
  });

  it("refuses a slot that is released twice", async () => {
    const ring = newRing(1);
    const slot = await ring.acquire();
    ring.release(slot);
    expect(() => ring.release(slot)).to.throw(/released once/);
  });
});
