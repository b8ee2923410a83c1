/**
 * A temporary directory for each test, and what else a test must give back.
 *
 * The directory is made before each test and removed after it. `defer` registers the release of something that lives
 * longer than the directory allows (mount, loop device, child process): releases run last-in first-out, all of them,
 * before the directory goes. When one fails the directory stays (it may still hold a mount) and the test fails.
 *
 * @example
 * describe("copy", () => {
 *   const temp = useTempDir();
 *   it("copies", async () => {
 *     const device = await LoopDevice.attach(await sparseFile(temp.file("image"), 64 * MiB));
 *     temp.defer(() => device.detach());
 *   });
 * });
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { afterEach, beforeEach } from "mocha";

export interface TempDir {
  /** The directory of the running test. */
  readonly path: string;
  /** A path inside it. */
  file(...names: string[]): string;
  /** Runs `release` after the test, before what was deferred earlier. */
  defer(release: () => void | Promise<void>): void;
}

export interface TempDirOptions {
  /** Where to make it: the system's temporary directory (disk), or `/dev/shm` (memory). */
  readonly parent?: string;
}

/** Call it inside `describe`. */
export function useTempDir(options: TempDirOptions = {}): TempDir {
  let current: string | undefined;
  let releases: (() => void | Promise<void>)[] = [];

  beforeEach("make a temporary directory", async () => {
    current = await mkdtemp(path.join(options.parent ?? tmpdir(), "blockmover-test-"));
  });

  afterEach("release and remove the temporary directory", async function () {
    this.timeout(60_000);
    const [directory, pending] = [current, releases];
    current = undefined;
    releases = [];
    const errors: unknown[] = [];
    for (const release of pending.reverse()) {
      try {
        await release();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw new AggregateError(errors, `not released: ${errors.map(String).join("; ")}`);
    if (directory !== undefined) await rm(directory, { recursive: true, force: true });
  });

  const directory = (): string => {
    if (current === undefined)
      throw new Error("the temporary directory exists only while a test or its beforeEach runs");
    return current;
  };
  return {
    get path() {
      return directory();
    },
    file: (...names) => path.join(directory(), ...names),
    defer: (release) => {
      directory();
      releases.push(release);
    },
  };
}
