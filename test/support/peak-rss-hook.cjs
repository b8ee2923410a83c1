/**
 * Loaded by `--require` into every Node process of a CLI run: at exit it appends its peak memory to a file.
 *
 * VmHWM belongs to this program's address space alone. `process.resourceUsage().maxRSS` would not do: it survives exec,
 * so a child of a big test process starts with the memory of its parent.
 */
"use strict";

const { appendFileSync, readFileSync } = require("node:fs");

const file = process.env.BLOCKMOVER_TEST_PEAK_RSS_FILE;

if (file !== undefined) {
  process.on("exit", () => {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
    appendFileSync(file, `${JSON.stringify({ pid: process.pid, peakRssBytes: Number(peak?.[1] ?? 0) * 1024 })}\n`);
  });
}
