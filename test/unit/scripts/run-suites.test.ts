import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";

import { expect } from "chai";

import { run } from "../../support/run.js";
import { useTempDir } from "../../support/temp-dir.js";

const root = path.resolve(import.meta.dirname, "../../..");

describe("run-suites", function () {
  this.timeout(60_000); // each test starts several mochas
  const temp = useTempDir();

  /** Runs suites made of the given test files; the folder is the suite. */
  async function runSuites(files: Record<string, string>, env: NodeJS.ProcessEnv = {}) {
    const suites = new Set<string>();
    for (const [name, body] of Object.entries(files)) {
      suites.add(path.dirname(name));
      await mkdir(path.dirname(temp.file(name)), { recursive: true });
      await writeFile(temp.file(name), body);
    }
    const result = await run(process.execPath, ["scripts/run-suites.mjs", ...suites, "empty"], {
      cwd: root,
      env: { ...process.env, CI: "false", BLOCKMOVER_TEST_ROOT: temp.path, ...env },
    });
    return { ...result, lastLine: result.stdout.trimEnd().split("\n").at(-1) };
  }

  it("sums up several suites in its last line", async () => {
    const result = await runSuites({
      "one/a.test.ts": `it("a", () => {}); it.skip("b", () => {});`,
      "two/b.test.ts": `it("c", () => {}); it("d", () => {});`,
    });
    expect(result.lastLine).to.equal("3 passed, 0 failed, 1 skipped");
    expect(result.code).to.equal(0);
  });

  it("fails for a failed test", async () => {
    const result = await runSuites({ "one/a.test.ts": `it("a", () => { throw new Error("no"); });` });
    expect(result.lastLine).to.equal("0 passed, 1 failed, 0 skipped");
    expect(result.code).to.equal(1);
  });

  it("fails when no test ran", async () => {
    const result = await runSuites({ "one/a.test.ts": `it.skip("a", () => {});` });
    expect(result.code).to.equal(1);
    expect(result.stderr).to.contain("no test ran");
  });

  it("counts a suite that crashed or could not be loaded as failed", async () => {
    for (const body of [`it("a", () => process.exit(0));`, `import "./missing.js";`, `this is not a program`]) {
      const result = await runSuites({ "one/a.test.ts": body });
      expect(result.lastLine, body).to.equal("0 passed, 1 failed, 0 skipped");
      expect(result.code, body).to.equal(1);
    }
  });

  it("fails in CI for a test skipped without an allowed reason", async () => {
    const support = path.join(root, "test/support/skip.js");
    const body = (reason: string): string =>
      `import { skipBecause } from ${JSON.stringify(support)};
       it("a", () => {});
       it("b", function () { skipBecause(this, ${JSON.stringify(reason)}); });
       describe("c", () => { before(function () { skipBecause(this, ${JSON.stringify(reason)}); }); it("d", () => {}); it("e", () => {}); });
       describe("f", () => { beforeEach(function () { skipBecause(this, ${JSON.stringify(reason)}); }); it("g", () => {}); it("h", () => {}); });`;
    const forbidden = await runSuites({ "one/a.test.ts": body("too-lazy") }, { CI: "true" });
    expect(forbidden.lastLine).to.equal("1 passed, 0 failed, 5 skipped");
    expect(forbidden.code).to.equal(1);
    expect(forbidden.stderr.match(/without an allowed reason/g)).to.have.length(5);
    const allowed = await runSuites({ "one/a.test.ts": body("cpu-without-avx512") }, { CI: "true" });
    expect(allowed.lastLine).to.equal("1 passed, 0 failed, 5 skipped");
    expect(allowed.code).to.equal(0);
  });

  it("fails in CI for .only", async () => {
    const result = await runSuites({ "one/a.test.ts": `it.only("a", () => {});` }, { CI: "true" });
    expect(result.code).to.equal(1);
  });
});
