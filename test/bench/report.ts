/** What was measured: tables for people, JSON for later, and the targets with what was reached. */
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { inspect } from "node:util";

import { GiB, MiB } from "../support/sizes.js";
import { spreadOf, type Spread } from "./statistics.js";

/** One measurement of one contestant. */
export interface Measured {
  readonly wallMs: number;
  /** The transfer without start-up and exit, as the program itself measured it. */
  readonly transferMs?: number;
  readonly cpuMs?: number;
  readonly peakRssBytes?: number;
  readonly foreignShare?: number;
  readonly stolenShare?: number;
  readonly eventLoopUtilization?: number;
}

/** All measurements of one contestant. */
export interface Row {
  readonly name: string;
  /** What it worked on, for the rate. */
  readonly bytes: number;
  readonly measured: readonly Measured[];
}

export interface Table {
  readonly title: string;
  readonly place: string;
  readonly rows: readonly Row[];
}

/** A promise of the project, and what this run says of it. */
export interface Target {
  readonly name: string;
  readonly place: string;
  readonly reached: Spread;
  readonly wanted: { readonly atLeast: number } | { readonly atMost: number };
  readonly unit: string;
}

export class Report {
  readonly tables: Table[] = [];
  readonly targets: Target[] = [];
  readonly facts: Record<string, unknown> = {};

  /** Adds a table and prints it. */
  add(table: Table): void {
    this.tables.push(table);
    console.log(`\n${formatTable(table)}`);
  }

  target(target: Target): void {
    this.targets.push(target);
    console.log(formatTarget(target));
  }

  /** Keeps something that is neither a time nor a target, and prints it. */
  fact(name: string, value: unknown): void {
    this.facts[name] = value;
    console.log(`${name}: ${inspect(value, { breakLength: 140, depth: 6, compact: 3, maxArrayLength: null })}`);
  }

  printTargets(): void {
    console.log("\nTargets");
    for (const target of this.targets) console.log(formatTarget(target));
  }

  write(file: string): void {
    mkdirSync(path.dirname(file), { recursive: true });
    const { facts, tables, targets } = this;
    writeFileSync(file, `${JSON.stringify({ facts, tables, targets }, undefined, 1)}\n`);
  }
}

export function isMet({ reached, wanted }: Target): boolean {
  return "atLeast" in wanted ? reached.median >= wanted.atLeast : reached.median <= wanted.atMost;
}

function formatTarget(target: Target): string {
  const { name, place, reached, wanted, unit } = target;
  const bound = "atLeast" in wanted ? `at least ${wanted.atLeast}` : `at most ${wanted.atMost}`;
  const spread = `${short(reached.median)} [${short(reached.min)}-${short(reached.max)}]${unit}`;
  return `  ${isMet(target) ? "met   " : "MISSED"} ${place}: ${name}: ${spread}, wanted ${bound}${unit}`;
}

function formatTable({ title, place, rows }: Table): string {
  const lines = [["", "wall s", "transfer s", "GB/s", "cpu s", "peak MiB", "others"]];
  for (const { name, bytes, measured } of rows) {
    const seconds = spreadOf(measured.map(({ wallMs }) => wallMs / 1000));
    const transfer = measured.flatMap(({ transferMs }) => (transferMs === undefined ? [] : [transferMs / 1000]));
    const cpu = measured.flatMap(({ cpuMs }) => (cpuMs === undefined ? [] : [cpuMs / 1000]));
    const peak = measured.flatMap(({ peakRssBytes }) => (peakRssBytes === undefined ? [] : [peakRssBytes / MiB]));
    const others = measured.map((each) => (each.foreignShare ?? 0) + (each.stolenShare ?? 0));
    const rate = bytes / 1e9 / (transfer.length > 0 ? spreadOf(transfer).median : seconds.median);
    lines.push([
      name,
      `${short(seconds.median)} [${short(seconds.min)}-${short(seconds.max)}]`,
      transfer.length > 0 ? short(spreadOf(transfer).median) : "",
      bytes > 0 ? short(rate) : "",
      cpu.length > 0 ? short(spreadOf(cpu).median) : "",
      peak.length > 0 ? Math.max(...peak).toFixed(0) : "",
      `${(100 * Math.max(0, ...others)).toFixed(0)} %`,
    ]);
  }
  const widths = (lines[0] ?? []).map((_, column) => Math.max(...lines.map((line) => (line[column] ?? "").length)));
  const text = lines.map((line) =>
    line
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join("  "),
  );
  return [`${title} (${place}, n = ${rows[0]?.measured.length ?? 0})`, ...text].join("\n");
}

/** Three digits or so. */
function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** "4 GiB", "512 MiB". */
export function formatSize(bytes: number): string {
  return bytes >= GiB ? `${+(bytes / GiB).toFixed(2)} GiB` : `${+(bytes / MiB).toFixed(0)} MiB`;
}
