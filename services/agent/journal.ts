/**
 * What the agent must not forget, in one small file: a map of keys to values, as a log of changes.
 *
 *   4f6a01c2 {"key":"backup-7","value":{…}}\n      a change; the number is the CRC-32 of the JSON, in hexadecimal
 *   9b1c44d0 {"key":"backup-7"}\n                  the key is gone
 *
 * - `set` and `delete` resolve when the change is on stable storage. Changes that come while a write is under way share
 *   the next one.
 * - A torn end, as a crash leaves it, is cut off: nobody was told that it was durable. Damage with a whole line after it
 *   is DATA_LOSS, never a guess.
 * - When most of the file is history it is written anew beside the old one, made durable, and renamed.
 * - One process at a time: the caller sees to that.
 */
import { open, readFile, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import { BlockmoverError, messageOf } from "../common/errors.js";
import { syncDirectory, writeFileDurably } from "../common/write-file-durably.js";

export interface JournalOptions {
  /** Compact when the log has more than this many lines, and over half of them are history. */
  readonly compactAboveLines?: number;
}

const DEFAULT_COMPACT_ABOVE_LINES = 1_000;

interface Line {
  readonly key: string;
  readonly value?: unknown;
}

interface Waiting {
  readonly text: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class Journal {
  readonly #path: string;
  readonly #compactAboveLines: number;
  /** As they are written, so that compacting needs no second serialisation. */
  readonly #live: Map<string, string>;
  #file: FileHandle;
  #lines: number;
  #waiting: Waiting[] = [];
  #writing: Promise<void> | undefined;
  #failure: BlockmoverError | undefined;
  #closed = false;

  private constructor(
    path: string,
    file: FileHandle,
    live: Map<string, string>,
    lines: number,
    options: JournalOptions,
  ) {
    this.#path = path;
    this.#file = file;
    this.#live = live;
    this.#lines = lines;
    this.#compactAboveLines = options.compactAboveLines ?? DEFAULT_COMPACT_ABOVE_LINES;
  }

  /**
   * Opens the journal, or makes it.
   *
   * @throws BlockmoverError DATA_LOSS when a line that is not the last is damaged
   */
  static async open(path: string, options: JournalOptions = {}): Promise<Journal> {
    const bytes = await readFile(path).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") {
        return Buffer.alloc(0);
      }
      throw error;
    });
    const { live, lines, validBytes } = parseJournal(path, bytes);
    const file = await open(path, "a", 0o600);
    try {
      if (validBytes < bytes.length) {
        await file.truncate(validBytes);
      }
      await file.sync();
      await syncDirectory(dirname(path));
    } catch (error) {
      await file.close();
      throw error;
    }
    return new Journal(path, file, live, lines, options);
  }

  /** What is in it, in the order of the first change of each key. */
  *entries(): Generator<{ readonly key: string; readonly value: unknown }> {
    for (const text of this.#live.values()) {
      yield JSON.parse(text.slice(9)) as { key: string; value: unknown };
    }
  }

  /** @throws BlockmoverError RESOURCE_EXHAUSTED or INTERNAL; the journal takes nothing more after a failed write */
  async set(key: string, value: unknown): Promise<void> {
    const text = formatLine({ key, value });
    this.#live.set(key, text);
    return this.#append(text);
  }

  async delete(key: string): Promise<void> {
    this.#live.delete(key);
    return this.#append(formatLine({ key }));
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#writing;
    await this.#file.close();
  }

  /** Lines in the file, for tests. */
  get lineCount(): number {
    return this.#lines;
  }

  #append(text: string): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined || this.#closed) {
        reject(this.#failure ?? new BlockmoverError("INTERNAL", `journal ${this.#path} is closed`));
        return;
      }
      this.#waiting.push({ text, resolve, reject });
      this.#writing ??= this.#writeWaiting().finally(() => {
        this.#writing = undefined;
      });
    });
  }

  async #writeWaiting(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        if (this.#failure !== undefined) {
          throw this.#failure;
        }
        await this.#write(batch);
      } catch (error) {
        // After a failed fsync nobody knows what is on the disk: only opening it anew tells.
        this.#failure ??= asJournalFailure(this.#path, error);
        for (const { reject } of batch) {
          reject(this.#failure);
        }
        continue;
      }
      for (const { resolve } of batch) {
        resolve();
      }
    }
  }

  async #write(batch: readonly Waiting[]): Promise<void> {
    const lines = this.#lines + batch.length;
    if (lines > this.#compactAboveLines && lines > 2 * this.#live.size) {
      // The batch is in #live already.
      await this.#compact();
      return;
    }
    await this.#file.appendFile(batch.map(({ text }) => text).join(""));
    await this.#file.datasync();
    this.#lines = lines;
  }

  async #compact(): Promise<void> {
    const texts = [...this.#live.values()];
    await writeFileDurably(this.#path, texts.join(""));
    const old = this.#file;
    this.#file = await open(this.#path, "a", 0o600);
    this.#lines = texts.length;
    await old.close();
  }
}

function formatLine(line: Line): string {
  const json = JSON.stringify(line);
  return `${crc32(Buffer.from(json)).toString(16).padStart(8, "0")} ${json}\n`;
}

function parseJournal(
  path: string,
  bytes: Buffer,
): { readonly live: Map<string, string>; readonly lines: number; readonly validBytes: number } {
  const live = new Map<string, string>();
  let lines = 0;
  let validBytes = 0;
  let damagedLine: number | undefined;
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(0x0a, at) + 1 || bytes.length;
    const text = bytes.toString("utf8", at, end);
    const line = parseLine(text);
    at = end;
    if (line === undefined) {
      damagedLine ??= lines + 1;
      continue;
    }
    if (damagedLine !== undefined) {
      throw new BlockmoverError("DATA_LOSS", `journal ${path}: line ${damagedLine} is damaged`, {
        hint: "Move the state directory away and start the agent anew; transfers that ran are then unknown to it.",
      });
    }
    if (line.value === undefined) {
      live.delete(line.key);
    } else {
      live.set(line.key, text);
    }
    lines++;
    validBytes = end;
  }
  return { live, lines, validBytes };
}

function parseLine(text: string): Line | undefined {
  const json = text.slice(9, -1);
  if (
    !text.endsWith("\n") ||
    !/^[0-9a-f]{8} \{/.test(text) ||
    crc32(Buffer.from(json)) !== parseInt(text.slice(0, 8), 16)
  ) {
    return undefined;
  }
  return JSON.parse(json) as Line;
}

function asJournalFailure(path: string, error: unknown): BlockmoverError {
  const code = (error as NodeJS.ErrnoException).code;
  const full = code === "ENOSPC" || code === "EDQUOT";
  return new BlockmoverError(
    full ? "RESOURCE_EXHAUSTED" : "INTERNAL",
    `journal ${path} cannot be written: ${messageOf(error)}`,
    { cause: error, hint: full ? "Make room, then restart the agent." : undefined },
  );
}
