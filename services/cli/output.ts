/**
 * How the command line talks: for people on a terminal, in a log, or as JSON lines for programs.
 *
 * Results go to standard output, everything else (progress, warnings, errors) to standard error. With `--json` each
 * line of standard output is one JSON object; the last is `{"type":"result",…}` or `{"type":"error",…}`.
 */
import { assert } from "../common/assert.js";
import { BlockmoverError, messageOf } from "../common/errors.js";
import type { ProgressSnapshot } from "../datapath/uploader/progress.js";

const TERMINAL_INTERVAL_MS = 200;
const JSON_INTERVAL_MS = 1_000;
const LOG_INTERVAL_MS = 30_000;

export type JsonObject = Readonly<Record<string, unknown>>;

export interface Output {
  /** Ends the command's output: an object for programs, text for people. */
  result(json: JsonObject, text: string): void;
  warn(message: string): void;
  error(error: unknown): void;
  /** Ends the output of a command that was cancelled: for programs an error of code CANCELLED. */
  cancelled(message: string): void;
  /** Shows progress until the returned function is called. */
  showProgress(label: string, snapshot: () => ProgressSnapshot): () => void;
}

export function newOutput(options: { readonly json: boolean }): Output {
  return options.json ? new JsonOutput() : new HumanOutput();
}

class JsonOutput implements Output {
  result(json: JsonObject): void {
    assert(!("type" in json), "a result has no type of its own");
    this.#print({ type: "result", ...json });
  }

  warn(message: string): void {
    this.#print({ type: "warning", message });
  }

  error(error: unknown): void {
    this.#print({
      type: "error",
      code: error instanceof BlockmoverError ? error.code : "INTERNAL",
      message: messageOf(error),
      hint: error instanceof BlockmoverError ? error.hint : undefined,
    });
  }

  cancelled(message: string): void {
    this.#print({ type: "error", code: "CANCELLED", message });
  }

  showProgress(label: string, snapshot: () => ProgressSnapshot): () => void {
    return every(JSON_INTERVAL_MS, () => this.#print({ type: "progress", operation: label, ...snapshot() }));
  }

  #print(value: JsonObject): void {
    process.stdout.write(`${JSON.stringify(value)}\n`);
  }
}

class HumanOutput implements Output {
  readonly #isTerminal = process.stderr.isTTY;
  #lineShown = false;

  result(_json: JsonObject, text: string): void {
    this.#clearLine();
    process.stdout.write(text.endsWith("\n") || text === "" ? text : `${text}\n`);
  }

  warn(message: string): void {
    this.#clearLine();
    process.stderr.write(`warning: ${message}\n`);
  }

  error(error: unknown): void {
    this.#clearLine();
    process.stderr.write(`blockmover: ${messageOf(error)}\n`);
    if (error instanceof BlockmoverError) {
      if (error.hint !== undefined) {
        process.stderr.write(`  ${error.hint}\n`);
      }
    } else if (error instanceof Error && error.stack !== undefined) {
      process.stderr.write(`${error.stack}\n`);
    }
  }

  cancelled(message: string): void {
    this.#clearLine();
    process.stderr.write(`blockmover: ${message}\n`);
  }

  showProgress(label: string, snapshot: () => ProgressSnapshot): () => void {
    if (!this.#isTerminal) {
      return every(LOG_INTERVAL_MS, () => process.stderr.write(`${progressLine(label, snapshot())}\n`));
    }
    const stop = every(TERMINAL_INTERVAL_MS, () => {
      this.#lineShown = true;
      process.stderr.write(`\r\x1b[K${progressLine(label, snapshot())}`);
    });
    return () => {
      stop();
      this.#clearLine();
    };
  }

  #clearLine(): void {
    if (this.#lineShown) {
      process.stderr.write("\r\x1b[K");
      this.#lineShown = false;
    }
  }
}

function every(intervalMs: number, action: () => void): () => void {
  const timer = setInterval(action, intervalMs);
  timer.unref();
  return () => clearInterval(timer);
}

function progressLine(label: string, progress: ProgressSnapshot): string {
  const { doneBytes, totalBytes, bytesPerSecond, remainingMs, incrementalBytes } = progress;
  const percent = totalBytes > 0 ? Math.floor((doneBytes * 100) / totalBytes) : 100;
  const parts = [
    `${label} ${percent}%`,
    `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`,
    `${formatBytes(bytesPerSecond)}/s`,
  ];
  if (progress.phase === "flushing") {
    parts.push("flushing");
  } else if (remainingMs !== undefined) {
    parts.push(`${formatDuration(remainingMs)} left`);
  }
  if (doneBytes > 0 && incrementalBytes > 0) {
    parts.push(`${Math.round((incrementalBytes * 100) / doneBytes)}% new`);
  }
  return parts.join("  ");
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** Three significant digits in binary units. @example formatBytes(1536) === "1.50 KiB" */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit] as string}`;
}

/** @example formatDuration(83_000) === "1m23s" */
export function formatDuration(ms: number): string {
  if (ms < 10_000) {
    return `${(ms / 1000).toFixed(1)}s`;
  }
  const seconds = Math.round(ms / 1000);
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60] as const;
  if (parts[0] > 0) {
    return `${parts[0]}h${String(parts[1]).padStart(2, "0")}m`;
  }
  return parts[1] > 0 ? `${parts[1]}m${String(parts[2]).padStart(2, "0")}s` : `${parts[2]}s`;
}

/** Columns padded to their widest cell, two spaces apart. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    });
  }
  return rows
    .map((row) =>
      row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join("  "),
    )
    .map((line) => `${line}\n`)
    .join("");
}
