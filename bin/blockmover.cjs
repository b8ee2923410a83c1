#!/usr/bin/env node
/**
 * The launcher: sizes libuv's thread pool, then hands over to the command line.
 *
 * Every read, hash and seal runs on that pool, and libuv reads UV_THREADPOOL_SIZE once, at the first use. So the
 * variable must be set before anything asynchronous happens: that is why this file is CommonJS and imports late.
 * Processes forked from here inherit it.
 */
"use strict";

const { existsSync } = require("node:fs");
const { availableParallelism } = require("node:os");
const path = require("node:path");
const { pathToFileURL } = require("node:url");

// Cores + 2 did best for device I/O and hashing together, never fewer than libuv's own four; a value set by the user wins.
process.env.UV_THREADPOOL_SIZE ||= String(Math.max(4, availableParallelism() + 2));

const entry = path.join(__dirname, "..", "dist", "services", "cli", "main.js");

if (!existsSync(entry)) {
  process.stderr.write(`blockmover: ${entry} is missing, the program has not been built; run "make build"\n`);
  process.exitCode = 1;
} else {
  import(pathToFileURL(entry).href)
    .then((cli) => cli.main(process.argv.slice(2)))
    .then(
      (status) => {
        if (typeof status === "number") process.exitCode = status;
      },
      (error) => {
        process.stderr.write(
          `blockmover: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
        );
        process.exitCode = 1;
      },
    );
}
