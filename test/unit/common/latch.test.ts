import { expect } from "chai";

import { Latch } from "../../../services/common/latch.js";

describe("Latch", () => {
  it("wakes all who wait, once", async () => {
    const latch = new Latch();
    let woken = 0;
    const waiting = [latch.next(), latch.next()].map((each) => each.then(() => woken++));
    latch.trip();
    await Promise.all(waiting);
    expect(woken).to.equal(2);
    expect(latch.waiting).to.equal(0);
  });

  it("ends the wait at an abort or a timeout, and keeps nothing", async () => {
    const latch = new Latch();
    const abort = new AbortController();
    const waiting = [latch.next({ signal: abort.signal }), latch.next({ timeoutMs: 5 })];
    abort.abort();
    await Promise.all(waiting);
    await latch.next({ signal: abort.signal });
    expect(latch.waiting).to.equal(0);
  });
});
