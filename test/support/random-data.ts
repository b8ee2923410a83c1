/**
 * Random data that a seed replays.
 *
 * A test asks `testSeed()` once, puts it in its title, and derives everything from it; `SEED=… npx mocha FILE` replays.
 */
import { randomInt } from "node:crypto";
import { open } from "node:fs/promises";

let chosen: number | undefined;

/** The seed of this run: `$SEED`, or a fresh one, printed at the first call. */
export function testSeed(): number {
  if (chosen === undefined) {
    const given = process.env.SEED;
    chosen = given === undefined ? randomInt(2 ** 31) : Number(given);
    if (!Number.isSafeInteger(chosen) || chosen < 0) throw new Error(`SEED=${given ?? ""} is not a whole number`);
    process.stdout.write(`SEED=${chosen}\n`);
  }
  return chosen;
}

/** Words made at a time by `fill`. */
const batchWords = 16 * 1024;

/** A deterministic stream of numbers and bytes (xoshiro128**); not for secrets. */
export class Random {
  private readonly state = new Uint32Array(4);
  private readonly batch = new Uint32Array(batchWords);

  constructor(readonly seed: number) {
    // mulberry32 spreads neighbouring seeds over the state; seeds above 2^32 differ by their high word.
    let a = (seed ^ Math.imul(Math.floor(seed / 2 ** 32), 0x9e3779b1)) >>> 0;
    for (let i = 0; i < 4; i++) {
      a = (a + 0x6d2b79f5) >>> 0;
      let t = Math.imul(a ^ (a >>> 15), a | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      this.state[i] = (t ^ (t >>> 14)) >>> 0;
    }
  }

  /** An independent stream for the part called `label`: adding draws to one part leaves the others as they were. */
  fork(label: string | number): Random {
    let hash = this.seed >>> 0;
    for (const char of String(label)) hash = Math.imul(hash ^ (char.codePointAt(0) ?? 0), 0x01000193) >>> 0;
    return new Random(hash);
  }

  /** A number in [0, 2^32). */
  uint32(): number {
    this.generate(1);
    return this.batch[0] ?? 0;
  }

  /** A whole number in [0, bound), for any bound up to 2^53. */
  below(bound: number): number {
    return Math.floor(this.fraction() * bound);
  }

  /** A whole number in [low, high], both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** A number in [0, 1) with 53 random bits. */
  fraction(): number {
    const high = this.uint32() >>> 5;
    return (high * 2 ** 26 + (this.uint32() >>> 6)) / 2 ** 53;
  }

  /** True with probability `probability`. */
  chance(probability: number): boolean {
    return this.fraction() < probability;
  }

  /** One of `items`, which must not be empty. */
  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new Error("pick from nothing");
    return items[this.below(items.length)] as T;
  }

  /** Fills `target` with incompressible bytes, about 1 GB/s. */
  fill<T extends Uint8Array>(target: T): T {
    const bytes = new Uint8Array(this.batch.buffer);
    for (let at = 0; at < target.length; at += bytes.length) {
      const length = Math.min(bytes.length, target.length - at);
      this.generate(Math.ceil(length / 4));
      target.set(length === bytes.length ? bytes : bytes.subarray(0, length), at);
    }
    return target;
  }

  /** `sizeBytes` incompressible bytes. */
  bytes(sizeBytes: number): Buffer {
    return this.fill(Buffer.allocUnsafe(sizeBytes));
  }

  private generate(words: number): void {
    const { state, batch } = this;
    let [s0 = 0, s1 = 0, s2 = 0, s3 = 0] = state;
    for (let i = 0; i < words; i++) {
      const x = Math.imul(s1, 5);
      batch[i] = Math.imul((x << 7) | (x >>> 25), 9);
      const t = s1 << 9;
      s2 ^= s0;
      s3 ^= s1;
      s1 ^= s2;
      s0 ^= s3;
      s2 ^= t;
      s3 = (s3 << 11) | (s3 >>> 21);
    }
    state[0] = s0;
    state[1] = s1;
    state[2] = s2;
    state[3] = s3;
  }
}

export interface WriteRandomOptions {
  readonly offsetBytes?: number;
  readonly lengthBytes: number;
}

/** Writes random bytes into an existing or new file, or a device, in blocks of 4 MiB, and syncs. */
export async function writeRandom(file: string, random: Random, options: WriteRandomOptions): Promise<void> {
  const block = Buffer.allocUnsafe(4 * 1024 * 1024);
  const handle = await open(file, "r+").catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return open(file, "wx+", 0o600);
    throw error;
  });
  try {
    const start = options.offsetBytes ?? 0;
    for (let done = 0; done < options.lengthBytes;) {
      const part = block.subarray(0, Math.min(block.length, options.lengthBytes - done));
      random.fill(part);
      await writeAll(handle, part, start + done);
      done += part.length;
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function writeAll(handle: Awaited<ReturnType<typeof open>>, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await handle.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
  }
}
