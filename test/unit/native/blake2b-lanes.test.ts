import { fileURLToPath } from "node:url";

import { expect } from "chai";
import { describe, it } from "mocha";

import { run, runOrThrow } from "../../support/run.js";
import { useTempDir } from "../../support/temp-dir.js";

const test = fileURLToPath(new URL("blake2b_lanes_test.cc", import.meta.url));
const native = fileURLToPath(new URL("../../../native", import.meta.url));
const compiler = process.env.CXX ?? "g++";

describe("blake2b_lanes.h", () => {
  const temp = useTempDir();

  it("hashes eight lanes like one on a processor without AVX-512", async function () {
    this.timeout(120_000);
    const program = temp.file("lanes");
    const flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"];
    await runOrThrow(compiler, [...flags, test, `${native}/blake2b.cc`, "-o", program]);
    const { stdout, code } = await run(program, []);
    expect(stdout.trim()).to.equal("e284e5ae9e9ee34777499c886c42fce0466a813b7e278dc806db57bcfe2255f1");
    expect(code).to.equal(0);
  });

  it("compiles to rotates and transposes of 512 bits, without gathers", async function () {
    if (process.arch !== "x64") this.skip();
    this.timeout(120_000);
    const flags = ["-std=c++17", "-O3", "-mavx512f", "-S", "-o", "-"];
    const assembly = await runOrThrow(compiler, [...flags, `${native}/blake2b_avx512.cc`]);
    expect(assembly.match(/\bvpro[rl]q\b/g) ?? []).to.have.length.of.at.least(12 * 32);
    expect(assembly)
      .to.match(/vpunpcklqdq.*%zmm/)
      .and.not.match(/gather/);
  });
});
