/**
 * Who uses a device or file, as far as the kernel says: mounted file systems, swap, loop devices.
 *
 * An exclusive open refuses most of this as well, but cannot say why, and does not protect files at all.
 * It sees this mount namespace only: what another container has mounted is left to the exclusive open.
 */
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import type { BigIntStats } from "node:fs";

/** Where the kernel tells; tests point it elsewhere. */
export interface SystemPaths {
  readonly mountInfo: string;
  readonly swaps: string;
  readonly blockDevices: string;
}

const systemPaths: SystemPaths = {
  mountInfo: "/proc/self/mountinfo",
  swaps: "/proc/swaps",
  blockDevices: "/sys/block",
};

/** What uses `path`, as the end of a sentence ("is mounted on /data"), or undefined. */
export async function findDeviceUse(path: string, paths: SystemPaths = systemPaths): Promise<string | undefined> {
  const target = await stat(path, { bigint: true });
  const isTarget = sameNode(target, await realpath(path));

  for (const mount of parseMountInfo(await readText(paths.mountInfo))) {
    // By number and by path: btrfs shows a number of its own instead of the device's.
    const byNumber = target.isBlockDevice() && mount.deviceNumber === formatDeviceNumber(target.rdev);
    if (byNumber || (mount.source.startsWith("/") && (await isTarget(mount.source)))) {
      return `is mounted on ${mount.mountPoint}`;
    }
  }
  for (const swap of parseSwaps(await readText(paths.swaps))) {
    if (await isTarget(swap)) return "is in use as swap";
  }
  for (const loop of await loopDevices(paths.blockDevices)) {
    if (await isTarget(loop.backingFile)) return `is the backing file of /dev/${loop.name}`;
  }
  return undefined;
}

interface Mount {
  readonly deviceNumber: string;
  readonly mountPoint: string;
  readonly source: string;
}

/** Lines as `36 35 98:0 /root /mount/point options shared:1 - ext4 /dev/sda1 options` (proc(5)). */
function parseMountInfo(text: string): Mount[] {
  return text.split("\n").flatMap((line) => {
    const fields = line.split(" ");
    const separator = fields.indexOf("-", 6);
    const [deviceNumber, mountPoint, source] = [fields[2], fields[4], fields[separator + 2]];
    if (separator < 0 || deviceNumber === undefined || mountPoint === undefined || source === undefined) return [];
    return [{ deviceNumber, mountPoint: unescape(mountPoint), source: unescape(source) }];
  });
}

/** The first column after the heading. */
function parseSwaps(text: string): string[] {
  return text
    .split("\n")
    .slice(1)
    .map((line) => unescape(line.split(/\s/, 1)[0] ?? ""))
    .filter((path) => path.startsWith("/"));
}

async function loopDevices(directory: string): Promise<{ name: string; backingFile: string }[]> {
  const names = await readdir(directory).catch(() => []); // /sys may not be mounted: then nothing is known
  const found: { name: string; backingFile: string }[] = [];
  for (const name of names.filter((each) => each.startsWith("loop"))) {
    const backingFile = (await readText(join(directory, name, "loop", "backing_file"))).trimEnd();
    if (backingFile !== "") found.push({ name, backingFile });
  }
  return found;
}

/** Whether a path leads to the same device (block devices) or the same file. */
function sameNode(target: BigIntStats, targetPath: string): (path: string) => Promise<boolean> {
  return async (path) => {
    if (path === targetPath) return true;
    const other = await stat(path, { bigint: true }).catch(() => undefined); // gone, or of another namespace
    if (other === undefined) return false;
    if (target.isBlockDevice()) return other.isBlockDevice() && other.rdev === target.rdev;
    return other.dev === target.dev && other.ino === target.ino;
  };
}

/** Spaces and the like are octal in these files: `\040`. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}

/** `major:minor` of a dev_t as Linux packs it. */
function formatDeviceNumber(device: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

async function readText(path: string): Promise<string> {
  return readFile(path, "utf8").catch(() => ""); // absent in a container without /proc or /sys: nothing is known
}
