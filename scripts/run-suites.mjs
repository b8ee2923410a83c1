/**
 * Runs mocha suites by the name of their folder and sums them up.
 *
 *   node scripts/run-suites.mjs unit integration
 *
 * Each suite is a mocha process of its own over test/NAME. The last line is `N passed, N failed, N skipped`. Fails when a
 * test failed, when a suite crashed or hung, and when no test ran at all. With CI=true it also fails for `.only`, and for
 * each skipped test whose title lacks a reason from test/support/allowed-skips.json: where nobody reads the output, a
 * test that quietly stopped running is a hole.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const root = path.resolve(import.meta.dirname, "..");

/** How long one test and one whole suite may take, where the default does not do. */
const limits = {
  unit: { testMs: 20_000, suiteMinutes: 10 },
  default: { testMs: 120_000, suiteMinutes: 30 },
};

const isCi = process.env.CI === "true";
const testRoot = path.resolve(root, process.env.BLOCKMOVER_TEST_ROOT ?? "test");
const names = process.argv.slice(2);
if (names.length === 0) {
  console.error("usage: node scripts/run-suites.mjs SUITE…   (folders below test/)");
  process.exit(2);
}

const total = { passed: 0, failed: 0, skipped: 0 };
const complaints = [];
let interruptedBy;
const allowedSkips = JSON.parse(readFileSync(path.join(root, "test/support/allowed-skips.json"), "utf8"));

for (const name of names) {
  if (interruptedBy !== undefined) break;
  const suite = path.join(testRoot, name);
  if (!hasTests(suite)) {
    console.log(`\n=== ${name}: no tests`);
    continue;
  }
  console.log(`\n=== ${name}`);
  const summary = await runSuite(name, suite);
  total.passed += summary.passed;
  total.failed += summary.failed;
  total.skipped += summary.skipped.length;
  if (isCi) {
    for (const title of summary.skipped) {
      if (!allowedSkips.some((reason) => title.includes(`[skipped: ${reason}]`))) {
        complaints.push(`skipped in CI without an allowed reason: ${title}`);
      }
    }
  }
}

if (interruptedBy !== undefined) complaints.push(`interrupted by ${interruptedBy}`);
if (total.passed + total.failed === 0) complaints.push("no test ran");
for (const complaint of complaints) console.error(`run-suites: ${complaint}`);
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 || complaints.length > 0 ? 1 : 0;

function hasTests(directory) {
  return existsSync(directory) && readdirSync(directory, { recursive: true }).some((file) => file.endsWith(".test.ts"));
}

/** Runs one suite; a suite that ends without a summary counts as one failure. */
async function runSuite(name, directory) {
  const { testMs, suiteMinutes } = limits[name] ?? limits.default;
  const scratch = mkdtempSync(path.join(tmpdir(), "blockmover-suites-"));
  const summaryFile = path.join(scratch, "summary.json");
  const mocha = path.join(root, "node_modules/mocha/bin/mocha.js");
  const reporter = path.join(root, "scripts/suite-reporter.cjs");
  const args = ["--config", path.join(root, ".mocharc.cjs"), "--timeout", String(testMs)];
  args.push("--reporter", reporter, "--reporter-option", `summary=${summaryFile}`);
  args.push(`${directory}/**/*.test.ts`);
  try {
    const end = await runToEnd([mocha, ...args], suiteMinutes);
    const summary = existsSync(summaryFile) ? JSON.parse(readFileSync(summaryFile, "utf8")) : undefined;
    if (summary === undefined || end.hung || (end.code !== 0 && summary.failed === 0)) {
      complaints.push(
        `suite ${name} ${end.hung ? `hung: killed after ${suiteMinutes} minutes` : `ended with ${end.code}`}`,
      );
      return { passed: summary?.passed ?? 0, failed: (summary?.failed ?? 0) + 1, skipped: summary?.skipped ?? [] };
    }
    return summary;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * A process group of its own, so that a hung suite is killed with all it started: mocha runs the tests in a child to
 * load tsx there. Ctrl-C therefore has to be passed on.
 */
function runToEnd(args, minutes) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"], detached: true });
    let hung = false;
    const killGroup = (signal) => {
      try {
        process.kill(-child.pid, signal);
      } catch {
        // it ended meanwhile
      }
    };
    const timer = setTimeout(() => {
      hung = true;
      killGroup("SIGKILL");
    }, minutes * 60_000);
    // mocha stops after the running test and its hooks, which release what the test holds; a second Ctrl-C does not wait.
    const passOn = (signal) => {
      killGroup(interruptedBy === undefined ? signal : "SIGKILL");
      interruptedBy = signal;
    };
    process.on("SIGINT", passOn).on("SIGTERM", passOn);
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      clearTimeout(timer);
      process.off("SIGINT", passOn).off("SIGTERM", passOn);
      resolve({ code: code ?? signal, hung });
    });
  });
}
