/**
 * `make demo`: the main job on a real volume, from nothing to a compared and checked restore, in half a minute.
 *
 * Makes a volume with a real file system (behind a loop device when root, as an image file otherwise), backs it up,
 * changes files, backs up the increment, restores both to fresh volumes, compares byte for byte and lets the file
 * system check itself. Leaves nothing behind, also when it fails.
 */
import { spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createHash, randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const MIB = 1024 * 1024;
const VOLUME_BYTES = 768 * MIB + 512 * 1024; // irregular on purpose: not a whole number of chunks
const FILE_COUNT = 24;
const FILE_BYTES = 10 * MIB;
const COMPARE_BYTES = 64 * 1024;

const program = resolve(fileURLToPath(import.meta.url), "../../bin/blockmover.cjs");
const folder = mkdtempSync(join(tmpdir(), "blockmover-demo-"));
const repository = join(folder, "repository");
const isRoot = process.getuid?.() === 0;
const loops: string[] = [];
let mounted: string | undefined;

interface BackupReport {
  readonly snapshotId: string;
  readonly type: string;
  readonly incrementalBytes: number;
  readonly newContentBytes: number;
  readonly uploadedBytes: number;
  readonly durationMs: number;
}

function main(): void {
  if (!hasCommand("mkfs.ext4") || !hasCommand("e2fsck")) {
    throw new Error("the demo needs mkfs.ext4 and e2fsck: install the package e2fsprogs");
  }
  const useLoops = isRoot && existsSync("/dev/loop-control");
  say(
    `Blockmover demo: a volume of ${mib(VOLUME_BYTES)} with ext4, ${useLoops ? "on a loop device" : "as an image file"}`,
  );

  say("\n1. Make the volume, with files in it");
  const image = newImage("volume.img");
  const files = join(folder, "files");
  mkdirSync(files);
  for (let index = 0; index < FILE_COUNT; index++) {
    writeFileSync(
      join(files, `file-${index}`),
      index % 3 === 0 ? Buffer.alloc(FILE_BYTES, "text ") : randomBytes(FILE_BYTES),
    );
  }
  run("mkfs.ext4", ["-q", "-F", "-d", files, image]);

  say("2. Back it up");
  run("node", [program, "repository", "create", "--repo", repository]);
  const volume = useLoops ? attach(image) : image;
  const before = join(folder, "before.img");
  run("cp", ["--sparse=always", image, before]);
  const full = backUp(volume, ["--change-id", "demo-1"]);
  tell("full backup", full);

  say("3. Change some files");
  changeFiles(volume, useLoops);
  const changed = changedRanges(before, image);
  const ranges = join(folder, "changed.jsonl");
  writeFileSync(ranges, changed.map((range) => `${JSON.stringify(range)}\n`).join(""));

  say("4. Back up the increment: only what the list of changed ranges names is read");
  const increment = backUp(volume, ["--change-id", "demo-2", "--changed-ranges", ranges, "--base-change-id", "demo-1"]);
  tell("increment", increment);

  say("5. Restore both to fresh volumes, compare every byte, check the file system");
  for (const [name, snapshot, original] of [
    ["full", full.snapshotId, before],
    ["increment", increment.snapshotId, image],
  ] as const) {
    const target = newImage(`restored-${name}.img`);
    const device = useLoops ? attach(target) : target;
    const started = performance.now();
    run("node", [program, "restore", snapshot, device, "--repo", repository, "--force"]);
    const seconds = (performance.now() - started) / 1000;
    if (useLoops) {
      detach(device);
    }
    run("cmp", [original, target]);
    run("e2fsck", ["-f", "-n", target]);
    say(
      `   ${name.padEnd(11)} ${seconds.toFixed(1)} s, ${Math.round(VOLUME_BYTES / MIB / seconds)} MiB/s, ` +
        `equal to the volume, file system clean, sha256 ${sha256(target).slice(0, 16)}…`,
    );
  }

  const ratio = VOLUME_BYTES / Math.max(1, increment.incrementalBytes);
  say(
    `\nThe increment read ${mib(increment.incrementalBytes)} of ${mib(VOLUME_BYTES)}: ${ratio.toFixed(0)} times less. ` +
      `The repository took ${mib(full.uploadedBytes + increment.uploadedBytes)} for both.`,
  );
  say("Everything was restored exactly.");
}

function newImage(name: string): string {
  const path = join(folder, name);
  closeSync(openSync(path, "wx"));
  truncateSync(path, VOLUME_BYTES);
  return path;
}

function backUp(volume: string, options: readonly string[]): BackupReport {
  const output = run("node", [
    ...[program, "backup", volume, "--repo", repository, "--source", "demo/volume", "--volume-id", "demo-volume"],
    ...[...options, "--json"],
  ]);
  const last = JSON.parse(output.trim().split("\n").at(-1) ?? "{}") as BackupReport & { type: string };
  return last;
}

function tell(what: string, report: BackupReport): void {
  say(
    `   ${what.padEnd(11)} read ${mib(report.incrementalBytes)} in ${(report.durationMs / 1000).toFixed(1)} s, ` +
      `new ${mib(report.newContentBytes)}, stored ${mib(report.uploadedBytes)}`,
  );
}

/** Overwrites one file and adds another: through a mount when root, with debugfs otherwise. */
function changeFiles(volume: string, useLoops: boolean): void {
  const fresh = join(folder, "fresh");
  writeFileSync(fresh, randomBytes(3 * MIB));
  if (useLoops) {
    const mountPoint = join(folder, "mnt");
    mkdirSync(mountPoint);
    run("mount", [volume, mountPoint]);
    mounted = mountPoint;
    run("cp", [fresh, join(mountPoint, "added")]);
    run("dd", [`if=${fresh}`, `of=${join(mountPoint, "file-1")}`, "bs=1M", "count=2", "seek=4", "conv=notrunc"]);
    run("rm", [join(mountPoint, "file-2")]);
    run("umount", [mountPoint]);
    mounted = undefined;
  } else {
    run("debugfs", ["-w", "-R", `write ${fresh} added`, volume]);
    run("debugfs", ["-w", "-R", "rm file-2", volume]);
  }
}

/** What a storage system would tell: here found by comparing the volume with a copy of its earlier state. */
function changedRanges(before: string, after: string): { offset: number; length: number }[] {
  const ranges: { offset: number; length: number }[] = [];
  const [first, second] = [openSync(before, "r"), openSync(after, "r")];
  const [a, b] = [Buffer.alloc(COMPARE_BYTES), Buffer.alloc(COMPARE_BYTES)];
  try {
    for (let offset = 0; offset < VOLUME_BYTES; offset += COMPARE_BYTES) {
      const length = readSync(first, a, 0, COMPARE_BYTES, offset);
      readSync(second, b, 0, COMPARE_BYTES, offset);
      if (!a.subarray(0, length).equals(b.subarray(0, length))) {
        ranges.push({ offset, length });
      }
    }
  } finally {
    closeSync(first);
    closeSync(second);
  }
  return ranges;
}

function attach(image: string): string {
  const device = run("losetup", ["--find", "--show", "--direct-io=on", image]).trim();
  loops.push(device);
  return device;
}

function detach(device: string): void {
  run("losetup", ["--detach", device]);
  loops.splice(loops.indexOf(device), 1);
}

function sha256(path: string): string {
  const hash = createHash("sha256");
  const file = openSync(path, "r");
  const buffer = Buffer.alloc(4 * MIB);
  try {
    for (let length = readSync(file, buffer); length > 0; length = readSync(file, buffer)) {
      hash.update(buffer.subarray(0, length));
    }
  } finally {
    closeSync(file);
  }
  return hash.digest("hex");
}

function hasCommand(name: string): boolean {
  return spawnSync("sh", ["-c", `PATH="$PATH:/usr/sbin:/sbin"; command -v ${name}`]).status === 0;
}

function run(command: string, args: readonly string[]): string {
  const result = spawnSync(command, args, {
    encoding: "utf8",
    maxBuffer: 64 * MIB,
    env: { ...process.env, PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`, BLOCKMOVER_PASSWORD: "demo-password" },
  });
  if (result.status !== 0) {
    throw new Error(`${command} ${args.join(" ")} failed: ${result.error?.message ?? result.stderr}${result.stdout}`);
  }
  return result.stdout;
}

function mib(bytes: number): string {
  return `${(bytes / MIB).toFixed(1)} MiB`;
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function cleanUp(): void {
  if (mounted !== undefined) {
    spawnSync("umount", [mounted]);
  }
  for (const device of loops) {
    spawnSync("losetup", ["--detach", device]);
  }
  rmSync(folder, { recursive: true, force: true });
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    cleanUp();
    process.exit(130);
  });
}
try {
  main();
} catch (error) {
  process.stderr.write(`demo: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
} finally {
  cleanUp();
}
