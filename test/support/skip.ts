/**
 * Skipping with a reason.
 *
 * The reason goes into the title, where `scripts/run-suites.mjs` finds it: in CI a skipped test is a failure unless its
 * reason stands in `allowed-skips.json`, because nothing the machine can do may be skipped there.
 */
import type { Context } from "mocha";

/**
 * Skips the test, or from a `before` hook the whole suite.
 *
 * @param reason kebab-case, such as `needs-root`
 */
export function skipBecause(context: Context, reason: string): never {
  const runnable = context.runnable();
  // In a `before` hook, too, mocha sets currentTest, to the first test: only the hook's title tells.
  const isSuiteHook = runnable.title.startsWith('"before all" hook');
  const titled = isSuiteHook ? runnable.parent : (context.currentTest ?? runnable);
  if (titled === undefined || ("root" in titled && titled.root))
    throw new Error("a hook outside describe would skip every file of the run");
  if (!titled.title.endsWith(`[skipped: ${reason}]`)) titled.title += ` [skipped: ${reason}]`;
  return context.skip();
}

/** For whatever mounts, attaches loop devices or opens block devices. */
export function skipUnlessRoot(context: Context): void {
  if (process.getuid?.() !== 0) skipBecause(context, "needs-root");
}
