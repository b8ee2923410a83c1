/**
 * Builds the native ceiling (ceiling.cc with the addon's own kernels) into .cache/bench/, when it is not there yet.
 *
 * The kernels call OpenSSL, which the addon finds in the node binary; a program of its own needs libcrypto.so.3. Node's
 * headers are used, so the development package is not needed, only the library that every Debian has.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, renameSync } from "node:fs";
import path from "node:path";

const root = path.resolve(import.meta.dirname, "../../..");
const native = path.join(root, "native");
const source = path.join(import.meta.dirname, "ceiling.cc");

const kernels = [
  "blake2b.cc",
  "blake2b_avx2.cc",
  "blake2b_avx512.cc",
  "cipher.cc",
  "device_io.cc",
  "failure.cc",
  "mac.cc",
];
const flags = ["-std=c++17", "-O3", "-fno-exceptions", "-fno-rtti", "-pthread", "-D_GNU_SOURCE"];
/** As native/build.mjs: only these may hold wide instructions. */
const vectorFlags: Readonly<Record<string, string>> = {
  "blake2b_avx2.cc": "-mavx2",
  "blake2b_avx512.cc": "-mavx512f",
};

/** The program, or why there is none here. */
export type Ceiling =
  | { readonly program: string; readonly missing?: undefined }
  | { readonly program?: undefined; readonly missing: string };

export function buildCeiling(): Ceiling {
  const compiler = process.env.CXX ?? "g++";
  const include = process.env.NODE_INCLUDE_DIR ?? path.resolve(realpathSync(process.execPath), "../../include/node");
  if (!existsSync(path.join(include, "openssl/evp.h"))) return { missing: `no OpenSSL headers in ${include}` };

  const hash = createHash("sha256").update(readFileSync(source));
  for (const name of readdirSync(native).sort()) {
    if (/\.(cc|h)$/.test(name)) hash.update(readFileSync(path.join(native, name)));
  }
  const directory = path.join(root, ".cache/bench");
  const program = path.join(directory, `ceiling-${hash.digest("hex").slice(0, 16)}`);
  if (existsSync(program)) return { program };

  mkdirSync(directory, { recursive: true });
  const objects: string[] = [];
  for (const file of [source, ...kernels.map((name) => path.join(native, name))]) {
    const name = path.basename(file);
    const object = `${program}.${name}.o`;
    const vector = process.arch === "x64" ? vectorFlags[name] : undefined;
    const args = [...flags, ...(vector === undefined ? [] : [vector]), "-I", native, "-isystem", include];
    const failed = run(compiler, [...args, "-c", file, "-o", object]);
    if (failed !== undefined) return { missing: failed };
    objects.push(object);
  }
  const failed = run(compiler, ["-pthread", "-o", `${program}.new`, ...objects, "-l:libcrypto.so.3"]);
  run("rm", ["-f", ...objects]);
  if (failed !== undefined) return { missing: failed };
  renameSync(`${program}.new`, program);
  return { program };
}

function run(command: string, args: readonly string[]): string | undefined {
  const { status, error, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (status === 0) return undefined;
  return `${command} failed: ${error?.message ?? stderr.split("\n").slice(0, 3).join(" ")}`;
}
