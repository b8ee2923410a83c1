/**
 * Wakes whoever waits for "something changed", without keeping what changed: the waiter looks for itself.
 *
 * So any number of changes while nobody waits costs nothing, and a slow waiter is never behind by more than one look.
 */
export class Latch {
  readonly #waiting = new Set<() => void>();

  /**
   * Resolves at the next `trip` after this call, at the abort, or after the timeout, whichever is first; never rejects
   * and leaves neither timer nor listener. The waiter looks afterwards which it was.
   */
  next(options: { readonly signal?: AbortSignal; readonly timeoutMs?: number } = {}): Promise<void> {
    const { signal, timeoutMs } = options;
    if (signal?.aborted === true) {
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal?.removeEventListener("abort", wake);
        clearTimeout(timer);
        resolve();
      };
      const timer = timeoutMs === undefined ? undefined : setTimeout(wake, timeoutMs);
      signal?.addEventListener("abort", wake, { once: true });
      this.#waiting.add(wake);
    });
  }

  trip(): void {
    for (const wake of [...this.#waiting]) {
      wake();
    }
  }

  /** How many wait, for tests. */
  get waiting(): number {
    return this.#waiting.size;
  }
}
