import { expect } from "chai";
import fc from "fast-check";
import {
  maxBytesPerCall,
  maxPartsPerCall,
  writeParts,
} from "../../../../../services/datapath/repository/storage/write-parts.js";
import { failure, rejection, seed } from "./conformance.js";

describe("writeParts", () => {
  it(`writes all parts in their order, however little each call takes (seed ${seed})`, async () => {
    const parts = fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 30 });
    const property = fc.asyncProperty(
      parts,
      fc.infiniteStream(fc.integer({ min: 1, max: 40 })),
      async (data, takes) => {
        const file: number[] = [];
        const total = await writeParts(async (batch, position) => {
          expect(position).to.equal(file.length);
          expect(batch.every((part) => part.length > 0)).to.equal(true);
          const some = Buffer.concat(batch).subarray(0, takes.next().value as number);
          file.push(...some);
          return some.length;
        }, data);
        expect(file).to.deep.equal([...Buffer.concat(data)]);
        expect(total).to.equal(file.length);
      },
    );
    await fc.assert(property, { seed, numRuns: 300 });
  });

  it("gives the kernel no more parts and bytes than it takes, and copies none", async () => {
    const block = new Uint8Array(maxBytesPerCall * 2 + 5);
    const parts = [
      ...Array.from({ length: 3000 }, () => block.subarray(0, 10)),
      block,
      new Uint8Array(0),
      block.subarray(1),
    ];
    let calls = 0;
    await writeParts(async (batch) => {
      calls++;
      const bytes = batch.reduce((sum, part) => sum + part.length, 0);
      expect(batch.length).to.be.at.most(maxPartsPerCall);
      expect(bytes).to.be.at.most(maxBytesPerCall);
      expect(batch.every((part) => part.buffer === block.buffer)).to.equal(true);
      return bytes;
    }, parts);
    expect(calls).to.be.within(7, 8);
  });

  it("does not call for nothing", async () => {
    const write = async (): Promise<number> => expect.fail("called");
    expect(await writeParts(write, [])).to.equal(0);
    expect(await writeParts(write, [new Uint8Array(0), new Uint8Array(0)])).to.equal(0);
  });

  it("stops between two calls when it is aborted", async () => {
    const controller = new AbortController();
    const reason = new Error("stop");
    let calls = 0;
    const write = async (): Promise<number> => {
      calls++;
      controller.abort(reason);
      return 1;
    };
    expect(await rejection(writeParts(write, [new Uint8Array(10)], controller.signal))).to.equal(reason);
    expect(calls).to.equal(1);
  });

  it("does not turn in circles when a call writes nothing", async () => {
    await failure(
      writeParts(async () => 0, [new Uint8Array(10)]),
      "INTERNAL",
    );
  });
});
