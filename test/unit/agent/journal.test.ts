import { appendFile, readFile, stat, truncate, writeFile } from "node:fs/promises";

import { expect } from "chai";

import { Journal } from "../../../services/agent/journal.js";
import { isBlockmoverError } from "../../../services/common/errors.js";
import { useTempDir } from "../../support/temp-dir.js";

describe("Journal", () => {
  const temp = useTempDir();

  const contents = async (): Promise<Record<string, unknown>> => {
    const journal = await Journal.open(temp.file("journal"));
    const entries = Object.fromEntries([...journal.entries()].map(({ key, value }) => [key, value]));
    await journal.close();
    return entries;
  };

  it("gives back what was set and not deleted, in the order of the keys' first change", async () => {
    const journal = await Journal.open(temp.file("journal"));
    await journal.set("a", { n: 1 });
    await journal.set("b", "ü\n");
    await journal.set("a", { n: 2 });
    await journal.set("c", 3);
    await journal.delete("b");
    await journal.close();
    expect(await contents()).to.deep.equal({ a: { n: 2 }, c: 3 });
    expect(Object.keys(await contents())).to.deep.equal(["a", "c"]);
    expect((await stat(temp.file("journal"))).mode & 0o777).to.equal(0o600);
  });

  it("keeps every change that was confirmed, wherever a crash cuts the file", async () => {
    const journal = await Journal.open(temp.file("journal"));
    const ends: number[] = [];
    for (let n = 1; n <= 4; n++) {
      await journal.set(`k${n}`, n);
      ends.push((await stat(temp.file("journal"))).size);
    }
    await journal.close();
    const whole = await readFile(temp.file("journal"));
    for (let cut = 0; cut <= whole.length; cut++) {
      await writeFile(temp.file("journal"), whole);
      await truncate(temp.file("journal"), cut);
      const confirmed = ends.filter((end) => end <= cut).length;
      expect(Object.keys(await contents()), `cut at ${cut}`).to.have.length(confirmed);
    }
  });

  it("goes on after a torn end", async () => {
    await writeFile(temp.file("journal"), "");
    const journal = await Journal.open(temp.file("journal"));
    await journal.set("a", 1);
    await journal.close();
    await appendFile(temp.file("journal"), `0badc0de {"key":"b","val`);
    const again = await Journal.open(temp.file("journal"));
    await again.set("c", 3);
    await again.close();
    expect(await contents()).to.deep.equal({ a: 1, c: 3 });
  });

  it("refuses damage that has whole lines after it, and names the line", async () => {
    const journal = await Journal.open(temp.file("journal"));
    await journal.set("a", 1);
    await journal.set("b", 2);
    await journal.close();
    const bytes = await readFile(temp.file("journal"));
    bytes[12]! ^= 1;
    await writeFile(temp.file("journal"), bytes);
    const error = await Journal.open(temp.file("journal")).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(isBlockmoverError(error, "DATA_LOSS") && error.message).to.contain("line 1 is damaged");
  });

  it("does not grow with history: it is written anew when most of it is old", async () => {
    const journal = await Journal.open(temp.file("journal"), { compactAboveLines: 10 });
    await journal.set("kept", "x");
    for (let n = 0; n < 200; n++) await journal.set("busy", n);
    expect(journal.lineCount).to.be.at.most(11);
    await journal.close();
    expect(await contents()).to.deep.equal({ kept: "x", busy: 199 });
  });

  it("takes changes that come at once, and confirms each", async () => {
    const journal = await Journal.open(temp.file("journal"), { compactAboveLines: 20 });
    await Promise.all(Array.from({ length: 100 }, (_, n) => journal.set(`k${n % 7}`, n)));
    await journal.close();
    expect(Object.values(await contents())).to.have.members([93, 94, 95, 96, 97, 98, 99]);
  });

  it("takes nothing more once it is closed", async () => {
    const journal = await Journal.open(temp.file("journal"));
    await journal.close();
    expect(String(await journal.set("a", 1).catch((error: unknown) => error))).to.contain("is closed");
  });
});
