import { writeFile } from "node:fs/promises";
import { expect } from "chai";
import { readChangedRanges } from "../../../../services/datapath/cbt/changed-ranges.js";
import { BlockmoverError } from "../../../../services/common/errors.js";
import { useTempDir } from "../../../support/temp-dir.js";

async function readFile(file: string, text: string): Promise<unknown> {
  await writeFile(file, text);
  const ranges: unknown[] = [];
  try {
    for await (const range of readChangedRanges(file)) ranges.push(range);
  } catch (error) {
    return error;
  }
  return ranges;
}

describe("readChangedRanges", () => {
  const temp = useTempDir();
  const read = (text: string): Promise<unknown> => readFile(temp.file("ranges.jsonl"), text);

  it("reads a range a line, skips empty lines and ignores other members", async () => {
    expect(await read('{"offset":0,"length":512}\n\n{"offset":1048576,"length":4096,"exists":"true"}')).to.deep.equal([
      { offsetBytes: 0, lengthBytes: 512 },
      { offsetBytes: 1048576, lengthBytes: 4096 },
    ]);
  });

  for (const line of [
    "nonsense",
    "[1]",
    "3",
    '{"offset":"0","length":1}',
    '{"offset":0}',
    '{"offset":-1,"length":1}',
    '{"offset":0.5,"length":1}',
    '{"offset":1e300,"length":1}',
  ]) {
    it(`refuses ${line} and names the line`, async () => {
      const error = await read(`{"offset":0,"length":512}\n${line}\n`);
      expect(error).to.be.instanceOf(BlockmoverError);
      expect((error as BlockmoverError).code).to.equal("INVALID_ARGUMENT");
      expect((error as BlockmoverError).message).to.contain("line 2");
    });
  }

  it("says which file cannot be read", async () => {
    const error = await (async () => {
      for await (const range of readChangedRanges("/nonexistent/ranges")) return range;
      return undefined;
    })().catch((thrown: unknown) => thrown);
    expect((error as BlockmoverError).message).to.contain("/nonexistent/ranges");
  });
});
