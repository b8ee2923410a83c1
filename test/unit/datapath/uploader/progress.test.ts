import { expect } from "chai";
import { Progress } from "../../../../services/datapath/uploader/progress.js";

describe("Progress", () => {
  it("gives the rate of the last seconds and the time that is left", () => {
    let nowMs = 0;
    const progress = new Progress({ volumeSizeBytes: 10_000, totalBytes: 10_000, nowMs: () => nowMs });
    for (let second = 1; second <= 4; second++) {
      nowMs = second * 1000;
      progress.advance(1000);
    }
    const snapshot = progress.snapshot();
    expect(snapshot.doneBytes).to.equal(4000);
    expect(snapshot.bytesPerSecond).to.be.closeTo(1000, 1);
    expect(snapshot.remainingMs).to.be.closeTo(6000, 10);
  });

  it("forgets an old rate", () => {
    let nowMs = 0;
    const progress = new Progress({ volumeSizeBytes: 1e9, totalBytes: 1e9, nowMs: () => nowMs });
    nowMs = 1000;
    progress.advance(1e8);
    for (let second = 2; second <= 20; second++) {
      nowMs = second * 1000;
      progress.advance(1000);
    }
    expect(progress.snapshot().bytesPerSecond).to.be.below(2000);
  });

  it("has no time left to tell before anything moved", () => {
    expect(new Progress({ volumeSizeBytes: 1, totalBytes: 1 }).snapshot().remainingMs).to.equal(undefined);
  });
});
