/** mocha's spec output, and a summary for run-suites.mjs written to the file that the option `summary` names. */
"use strict";

const { writeFileSync } = require("node:fs");
const Mocha = require("mocha");

module.exports = class SuiteReporter extends Mocha.reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    const file = options.reporterOptions.summary;
    const summary = { passed: 0, failed: 0, skipped: [] };
    runner.on("pass", () => summary.passed++);
    runner.on("fail", () => summary.failed++); // a failing hook too
    runner.on("pending", (test) => summary.skipped.push(test.fullTitle()));
    runner.once("end", () => writeFileSync(file, JSON.stringify(summary)));
  }
};
