import { BlockmoverError } from "./errors.js";

/**
 * Stops the transfer when something that must be true is not: a mistake of ours, never of the world.
 *
 * Stays on in production.
 *
 * @throws BlockmoverError INTERNAL
 */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) {
    throw new BlockmoverError("INTERNAL", `invariant broken: ${message}`, {
      hint: "This is a bug in blockmover; please report it with the command that led here.",
    });
  }
}
