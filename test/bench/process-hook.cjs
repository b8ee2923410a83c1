/**
 * Loaded by `--require` into the measured blockmover: at its exit it says what the process cost, as JSON.
 *
 *   BLOCKMOVER_BENCH_REPORT  file to write
 *   BLOCKMOVER_BENCH_TRACE   "1": also what each native operation took, and when start-up reached its phases
 *
 * Tracing wraps the addon's functions and a few of Node's before the program sees them. Times are those between the call
 * and its settling: they contain waiting for a thread of the pool, so their sum is more than the time that passed.
 */
"use strict";

const { appendFileSync, readFileSync, readdirSync } = require("node:fs");
const { performance } = require("node:perf_hooks");

const file = process.env.BLOCKMOVER_BENCH_REPORT;
const operations = {};
const phasesMs = {};

if (file !== undefined) {
  const idleAtStart = performance.eventLoopUtilization();
  if (process.env.BLOCKMOVER_BENCH_TRACE === "1") trace();
  process.on("exit", () => {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
    const usage = process.resourceUsage();
    phasesMs.exit = performance.now();
    const report = {
      pid: process.pid,
      peakRssBytes: Number(peak?.[1] ?? 0) * 1024,
      userMs: usage.userCPUTime / 1000,
      systemMs: usage.systemCPUTime / 1000,
      eventLoopUtilization: performance.eventLoopUtilization(idleAtStart).utilization,
      threads: threadTimes(),
      operations,
      phasesMs,
    };
    appendFileSync(file, `${JSON.stringify(report)}\n`);
  });
}

/** CPU time of each thread, by its kernel name; the main thread is called "main". */
function threadTimes() {
  return readdirSync("/proc/self/task").map((id) => {
    const stat = readFileSync(`/proc/self/task/${id}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const name = Number(id) === process.pid ? "main" : stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
    return { name, userMs: Number(fields[11]) * 10, systemMs: Number(fields[12]) * 10 };
  });
}

function trace() {
  phasesMs.hook = performance.now();
  const Module = require("node:module");
  const load = Module._extensions[".node"];
  Module._extensions[".node"] = (module, name) => {
    load(module, name);
    phasesMs.addon ??= performance.now();
    const wrapped = {};
    for (const [key, value] of Object.entries(module.exports)) wrapped[key] = timed(key, value);
    module.exports = wrapped;
  };

  const crypto = require("node:crypto");
  const { scrypt } = crypto;
  crypto.scrypt = (...args) => {
    const started = performance.now();
    const done = args.pop();
    scrypt(...args, (...results) => {
      record("scrypt", started, 0);
      done(...results);
    });
  };
  Module.syncBuiltinESMExports();

  void require("node:fs/promises")
    .open("/dev/null")
    .then((handle) => {
      const prototype = Object.getPrototypeOf(handle);
      for (const name of ["read", "writev", "sync"]) prototype[name] = timed(`file.${name}`, prototype[name]);
      return handle.close();
    });
}

function timed(name, call) {
  if (typeof call !== "function") return call;
  return function (...args) {
    const started = performance.now();
    const result = call.apply(this, args);
    if (typeof result?.then !== "function") {
      record(name, started, 0);
      return result;
    }
    const bytes = bytesOf(args);
    const settle = () => record(name, started, bytes);
    result.then(settle, settle);
    return result;
  };
}

function record(name, started, bytes) {
  const now = performance.now();
  const entry = (operations[name] ??= { count: 0, bytes: 0, totalMs: 0, longestMs: 0, firstMs: started, lastMs: 0 });
  entry.count++;
  entry.bytes += bytes;
  entry.totalMs += now - started;
  entry.longestMs = Math.max(entry.longestMs, now - started);
  entry.lastMs = now;
}

/** Bytes that a call works on: those of its first view, or of the views in its first array. */
function bytesOf(args) {
  for (const value of args) {
    if (ArrayBuffer.isView(value)) return value.byteLength;
    if (Array.isArray(value)) {
      return value.reduce((sum, item) => {
        const view = ArrayBuffer.isView(item) ? item : (item?.plaintext ?? item?.sealed ?? item?.source);
        return sum + (view?.byteLength ?? 0);
      }, 0);
    }
  }
  return 0;
}
