#!/usr/bin/env node
/**
 * Builds the addon: `node native/build.mjs [--force]` -> build/Release/blockmover.node.
 *
 * Plain g++ against the headers of the running Node: no node-gyp, no download. Does nothing when the output was made
 * from these very sources by this compiler for this Node major. The output is replaced by a rename, so that a process
 * that has the old one loaded, or builds at the same time, is not disturbed.
 *
 * CXX chooses the compiler, NODE_INCLUDE_DIR the directory that holds node_api.h.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const sourceDirectory = dirname(fileURLToPath(import.meta.url));
const outputDirectory = resolve(sourceDirectory, "..", "build", "Release");
const output = join(outputDirectory, "blockmover.node");
const stampFile = `${output}.stamp`;

const commonFlags = [
  ...["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-pthread"],
  ...["-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-DNAPI_VERSION=8"],
];
/** Only these files may hold wide instructions: they are called after the processor was asked. */
const vectorFlags = new Map([
  ["blake2b_avx2.cc", ["-mavx2"]],
  ["blake2b_avx512.cc", ["-mavx512f"]],
]);

/** Builds if needed; returns whether it built. Throws an Error with the compiler's words when that fails. */
export async function build({ force = false } = {}) {
  const compiler = process.env.CXX ?? "g++";
  const include = nodeIncludeDirectory();
  const sources = readdirSync(sourceDirectory)
    .filter((name) => /\.(cc|h)$/.test(name))
    .sort();
  const stamp = stampOf(sources, compiler);
  if (!force && existsSync(output) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return false;

  mkdirSync(outputDirectory, { recursive: true });
  const work = mkdtempSync(join(outputDirectory, ".build-"));
  try {
    const units = sources.filter((name) => name.endsWith(".cc"));
    const objects = units.map((name) => join(work, `${name}.o`));
    const pending = units.map((name, index) => [
      ...commonFlags,
      ...(process.arch === "x64" ? (vectorFlags.get(name) ?? []) : []),
      ...["-isystem", include, "-c", join(sourceDirectory, name), "-o", objects[index]],
    ]);
    const worker = async () => {
      for (let next = pending.shift(); next !== undefined; next = pending.shift()) await run(compiler, next);
    };
    await Promise.all([worker(), worker()]);
    const linked = join(work, "blockmover.node");
    await run(compiler, ["-shared", "-pthread", "-Wl,-z,relro,-z,now", "-o", linked, ...objects, "-ldl"]);
    writeFileSync(join(work, "stamp"), stamp);
    renameSync(linked, output);
    renameSync(join(work, "stamp"), stampFile);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return true;
}

/** <prefix>/include/node beside the real node binary: where Node's own archives and Debian's packages put it. */
function nodeIncludeDirectory() {
  const override = process.env.NODE_INCLUDE_DIR;
  const directory = override ?? resolve(dirname(realpathSync(process.execPath)), "..", "include", "node");
  if (!existsSync(join(directory, "node_api.h")) || !existsSync(join(directory, "openssl", "evp.h"))) {
    throw new Error(
      `Node's headers (node_api.h, openssl/evp.h) are not in ${directory}; install them (Debian: libnode-dev, or Node ` +
        `from nodejs.org, which has them) or set NODE_INCLUDE_DIR`,
    );
  }
  return directory;
}

function stampOf(sources, compiler) {
  const version = spawnSync(compiler, ["--version"], { encoding: "utf8" });
  if (version.error !== undefined) {
    throw new Error(`the C++ compiler "${compiler}" does not run (${version.error.message}); install g++ or set CXX`);
  }
  const hash = createHash("sha256");
  for (const name of [...sources, "build.mjs"]) {
    hash.update(`${name}\0`).update(readFileSync(join(sourceDirectory, name)));
  }
  return `${hash.digest("hex")} ${process.arch} node ${process.versions.node.split(".")[0]} ${version.stdout.split("\n")[0]}\n`;
}

function run(command, commandArguments) {
  return new Promise((resolvePromise, reject) => {
    const child = spawn(command, commandArguments, { stdio: ["ignore", "inherit", "pipe"] });
    let errors = "";
    child.stderr.on("data", (data) => (errors += data));
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolvePromise();
      else reject(new Error(`${command} ${commandArguments.join(" ")}\nfailed (${code}):\n${errors}`));
    });
  });
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(realpathSync(process.argv[1])).href) {
  try {
    const built = await build({ force: process.argv.includes("--force") });
    console.log(built ? `built ${output}` : `${output} is up to date`);
  } catch (error) {
    console.error(`blockmover: building the native addon failed: ${error.message}`);
    process.exitCode = 1;
  }
}
