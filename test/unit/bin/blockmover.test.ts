import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import path from "node:path";

import { expect } from "chai";

import { runCli, startCli, type CliOptions } from "../../support/cli.js";
import { MiB } from "../../support/sizes.js";
import { useTempDir } from "../../support/temp-dir.js";

const launcher = path.resolve(import.meta.dirname, "../../../bin/blockmover.cjs");

describe("bin/blockmover.cjs", () => {
  const temp = useTempDir();

  beforeEach(async () => {
    await mkdir(temp.file("bin"));
    await copyFile(launcher, temp.file("bin", "blockmover.cjs"));
  });

  /** How to run the launcher over a command line made of `program`. */
  async function withProgram(program: string, env: NodeJS.ProcessEnv = {}): Promise<CliOptions> {
    await mkdir(temp.file("dist/services/cli"), { recursive: true });
    await writeFile(temp.file("package.json"), `{"type": "module"}`);
    await writeFile(temp.file("dist/services/cli/main.js"), program);
    return { launcher: temp.file("bin", "blockmover.cjs"), env };
  }

  it("says what to do when the program has not been built", async () => {
    const result = await runCli([], { launcher: temp.file("bin", "blockmover.cjs") });
    expect(result.code).to.equal(1);
    expect(result.stderr).to.contain(`run "make build"`);
  });

  it("passes the arguments on and exits with what main gives", async () => {
    const options = await withProgram(
      `export async function main(argv) { console.log(JSON.stringify({ type: "result", argv })); return 130; }`,
    );
    const result = await runCli(["backup", "a b", "--json"], options);
    expect(result.jsonResult().argv).to.deep.equal(["backup", "a b", "--json"]);
    expect(result.code).to.equal(130);
  });

  it("sizes the thread pool by the cores, at least 4, and leaves a given size alone", async () => {
    const program = `export async function main() { process.stdout.write(process.env.UV_THREADPOOL_SIZE); }`;
    const fitting = String(Math.max(4, availableParallelism() + 2));
    const options = { UV_THREADPOOL_SIZE: undefined };
    expect((await runCli([], await withProgram(program, options))).stdout).to.equal(fitting);
    expect((await runCli([], await withProgram(program, { UV_THREADPOOL_SIZE: "3" }))).stdout).to.equal("3");
  });

  it("sets the size before the pool starts, so that the pool has it", async () => {
    const program = `
      import { readdirSync } from "node:fs";
      import { pbkdf2 } from "node:crypto";
      export async function main() {
        await new Promise((done) => pbkdf2("p", "s", 1, 32, "sha512", done)); // starts every thread of the pool
        process.stdout.write(String(readdirSync("/proc/self/task").length));
      }`;
    const threads = async (cores: number): Promise<number> => {
      const preload = temp.file("cores.cjs");
      await writeFile(preload, `require("node:os").availableParallelism = () => ${cores};`);
      const env = { UV_THREADPOOL_SIZE: undefined, NODE_OPTIONS: `--require ${preload}` };
      return Number((await runCli([], await withProgram(program, env))).stdout);
    };
    expect((await threads(9)) - (await threads(1))).to.equal(11 - 4);
  });

  it("fails with the stack when main throws", async () => {
    const options = await withProgram(`export async function main() { throw new Error("unforeseen"); }`);
    const result = await runCli([], options);
    expect(result.code).to.equal(1);
    expect(result.stderr).to.contain("blockmover: Error: unforeseen");
  });

  it("reports the peak memory of its own process, not of the tests that started it", async () => {
    const ballast = Buffer.alloc(400 * MiB, 1);
    const program = (bytes: number): string => `export async function main() { Buffer.alloc(${bytes}, 1); }`;
    const small = (await runCli([], await withProgram(program(1)))).peakRssBytes ?? NaN;
    const big = (await runCli([], await withProgram(program(200 * MiB)))).peakRssBytes ?? NaN;
    expect(ballast.length).to.equal(400 * MiB);
    expect(small).to.be.within(20 * MiB, 150 * MiB);
    expect(big - small).to.be.within(150 * MiB, 250 * MiB);
  });

  it("can be watched and killed while it runs", async () => {
    const program = `export async function main() { console.log("ready"); setInterval(() => {}, 1000); }`;
    const run = startCli([], await withProgram(program));
    await run.waitForOutput(/ready/);
    run.kill("SIGKILL");
    const result = await run.done;
    expect(result.signal).to.equal("SIGKILL");
    expect(result.code).to.equal(-1);
    expect(result.peakRssBytes).to.equal(undefined);
  });
});
