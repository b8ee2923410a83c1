/** A tmpfs of its own with a bound: for CPU measurements, and for running out of space. Root only. */
import { Mount } from "./mounts.js";

/**
 * Mounts a tmpfs of `sizeBytes` at `target`.
 *
 * @example
 * const full = await mountTmpfs(temp.file("small"), 8 * MiB);
 * temp.defer(() => full.unmount());
 */
export async function mountTmpfs(target: string, sizeBytes: number): Promise<Mount> {
  return Mount.mount({ source: "blockmover-test", target, type: "tmpfs", options: `size=${sizeBytes}` });
}
