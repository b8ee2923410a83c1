/**
 * Runs one command: signals become cancellation, errors become an exit status, in this one place.
 *
 * Exit status: 0 done, 1 failed, 2 usage, 130 cancelled.
 */
import { CancelledElsewhere, isCancelled } from "../common/cancellation.js";
import { BlockmoverError, isBlockmoverError } from "../common/errors.js";
import { newOutput, type Output } from "./output.js";

export const EXIT_DONE = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_CANCELLED = 130;

/** Thrown by a command whose arguments do not fit together; commander finds the simpler mistakes itself. */
export class UsageError extends BlockmoverError {
  constructor(message: string) {
    super("INVALID_ARGUMENT", message, { hint: "Add --help for the options." });
  }
}

export async function runCommand(
  options: { readonly json: boolean },
  command: (output: Output, signal: AbortSignal) => Promise<void>,
  /** What a cancel leaves, as the rest of a sentence. */
  whenCancelled = "nothing was changed",
): Promise<number> {
  const output = newOutput(options);
  const cancel = new AbortController();
  let hasEnded = false;
  const onSignal = (name: NodeJS.Signals): void => {
    if (hasEnded) {
      return;
    }
    if (cancel.signal.aborted) {
      process.exit(EXIT_CANCELLED); // asked twice: do not wait for the clean-up
    }
    cancel.abort(new DOMException(`cancelled by ${name}`, "AbortError"));
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  try {
    await command(output, cancel.signal);
    return EXIT_DONE;
  } catch (error) {
    if (isCancelled(error, cancel.signal)) {
      output.cancelled(`cancelled: ${whenCancelled}`);
      return EXIT_CANCELLED;
    }
    if (error instanceof CancelledElsewhere) {
      output.cancelled(error.message);
      return EXIT_CANCELLED;
    }
    output.error(error);
    return isBlockmoverError(error, "INVALID_ARGUMENT") ? EXIT_USAGE : EXIT_FAILED;
  } finally {
    // The handlers stay: while the process ends, a late signal must not make a failure of what has succeeded.
    hasEnded = true;
  }
}
