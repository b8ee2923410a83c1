/** File systems on devices, mounted and unmounted by name. Root only. */
import { mkdir, readFile } from "node:fs/promises";

import { run, runOrThrow } from "./run.js";
import { waitFor } from "./wait-for.js";

/** XFS needs 300 MiB (mkfs.xfs 6 refuses less), btrfs about 128 MiB; XFS and btrfs can reflink, ext4 cannot. */
export type FileSystemKind = "ext4" | "xfs" | "btrfs";

const forceOption: Record<FileSystemKind, string> = { ext4: "-F", xfs: "-f", btrfs: "-f" };

/** Makes a file system on a device or image, over whatever was there. */
export async function makeFileSystem(
  device: string,
  kind: FileSystemKind,
  extraArgs: readonly string[] = [],
): Promise<void> {
  await runOrThrow(`mkfs.${kind}`, ["-q", forceOption[kind], ...extraArgs, device]);
}

export interface MountOptions {
  /** What to mount: a device. For tmpfs any word. */
  readonly source: string;
  /** Where; made when missing. */
  readonly target: string;
  /** `-t`; default: found out by mount. */
  readonly type?: string;
  /** `-o`, such as `ro` or `size=64m`. */
  readonly options?: string;
}

/** One mounted file system. */
export class Mount {
  private constructor(readonly path: string) {}

  static async mount({ source, target, type, options }: MountOptions): Promise<Mount> {
    await mkdir(target, { recursive: true });
    const args = [...(type === undefined ? [] : ["-t", type]), ...(options === undefined ? [] : ["-o", options])];
    await runOrThrow("mount", [...args, source, target]);
    return new Mount(target);
  }

  /** Unmounts it; idempotent. Tries again while something still closes its files there. */
  async unmount(): Promise<void> {
    await waitFor(
      async () => {
        if (!(await isMounted(this.path))) return true;
        return (await run("umount", [this.path])).code === 0;
      },
      { what: `${this.path} to unmount` },
    );
  }
}

/** Whether something is mounted at exactly `target`. */
export async function isMounted(target: string): Promise<boolean> {
  const table = await readFile("/proc/self/mountinfo", "utf8");
  return table.split("\n").some((line) => unescapeOctal(line.split(" ")[4] ?? "") === target);
}

/** mountinfo writes blanks and backslashes as octal. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_all, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
