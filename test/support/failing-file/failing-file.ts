/**
 * A file whose reads or writes fail where the test says so: the bad sector that this kernel cannot simulate (it has no
 * device mapper). A FUSE program (failing-file.c, built on demand) shows a backing file as `image`; use it as an image
 * or put a loop device on it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import path from "node:path";

import type { Context } from "mocha";

import { isMounted } from "../mounts.js";
import { run, runOrThrow } from "../run.js";
import { skipBecause } from "../skip.js";
import { waitFor } from "../wait-for.js";

const cache = path.resolve(import.meta.dirname, "../../../.cache/failing-file");
const source = path.join(import.meta.dirname, "failing-file.c");

/** Skips where FUSE or its library is missing (Debian: fuse3, libfuse3-dev, pkg-config, gcc). */
export async function skipUnlessFuse(context: Context): Promise<void> {
  if (!existsSync("/dev/fuse")) skipBecause(context, "no-fuse");
  const library = await run("pkg-config", ["--exists", "fuse3"]).catch(() => ({ code: -1 }));
  if (library.code !== 0) skipBecause(context, "no-fuse-library");
}

/**
 * @example
 * const file = await FailingFile.mount({ backingFile, directory: temp.file("failing") });
 * temp.defer(() => file.unmount());
 * await file.failReads({ offsetBytes: 5 * MiB, lengthBytes: 4096 });
 * // … back up file.imagePath, or attach a loop device to it (deferred later, so detached first)
 */
export class FailingFile {
  private constructor(
    private readonly directory: string,
    private readonly child: ChildProcess,
  ) {}

  /** The file to use; bytes and size of the backing file. */
  get imagePath(): string {
    return path.join(this.directory, "image");
  }

  /** Shows `backingFile` in `directory` (made when missing); nothing fails yet. */
  static async mount(options: { readonly backingFile: string; readonly directory: string }): Promise<FailingFile> {
    const program = await build();
    await mkdir(options.directory, { recursive: true });
    const child = spawn(program, [options.backingFile, options.directory], { stdio: ["ignore", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    const file = new FailingFile(options.directory, child);
    const isUp = await waitFor(
      async () => ((await isMounted(options.directory)) ? "yes" : child.exitCode === null ? undefined : "no"),
      { what: `${options.directory} to mount` },
    );
    if (isUp === "no") throw new Error(`failing-file ended with ${child.exitCode ?? -1}: ${stderr}`);
    return file;
  }

  /** From now on reads that touch the range fail with EIO. */
  async failReads(range: { readonly offsetBytes: number; readonly lengthBytes: number }): Promise<void> {
    await this.command(`fail-read ${range.offsetBytes} ${range.lengthBytes}`);
  }

  /** From now on writes, hole punching and zeroing that touch the range fail with EIO. */
  async failWrites(range: { readonly offsetBytes: number; readonly lengthBytes: number }): Promise<void> {
    await this.command(`fail-write ${range.offsetBytes} ${range.lengthBytes}`);
  }

  /** Nothing fails any more. */
  async clear(): Promise<void> {
    await this.command("clear");
  }

  /** Unmounts and waits for the program to end; idempotent. */
  async unmount(): Promise<void> {
    await waitFor(
      async () => {
        if (!(await isMounted(this.directory))) return true;
        return (await run("fusermount3", ["-u", this.directory])).code === 0;
      },
      { what: `${this.directory} to unmount` },
    );
    const { child } = this;
    await waitFor(() => child.exitCode !== null || child.signalCode !== null, { what: "failing-file to end" });
  }

  private async command(text: string): Promise<void> {
    await writeFile(path.join(this.directory, "control"), `${text}\n`);
  }
}

/** Compiles the program once for each state of its source. */
async function build(): Promise<string> {
  const digest = createHash("sha256")
    .update(await readFile(source))
    .digest("hex")
    .slice(0, 16);
  const program = path.join(cache, `failing-file-${digest}`);
  if (existsSync(program)) return program;
  await mkdir(cache, { recursive: true });
  const flags = (await runOrThrow("pkg-config", ["--cflags", "--libs", "fuse3"])).trim().split(/\s+/);
  const fresh = `${program}.${process.pid}`;
  await runOrThrow("cc", ["-O2", "-Wall", "-Wextra", "-Werror", "-o", fresh, source, ...flags]);
  await rename(fresh, program);
  return program;
}
