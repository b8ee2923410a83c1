/** What a service says about its decisions: one event each, with fields instead of prose. Never a secret. */
export type LogLevel = "info" | "warn" | "error";
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;
export type Log = (level: LogLevel, event: string, fields?: LogFields) => void;

/** One JSON object a line. */
export function jsonLog(write: (line: string) => void, nowMs: () => number = Date.now): Log {
  return (level, event, fields) =>
    write(`${JSON.stringify({ time: new Date(nowMs()).toISOString(), level, event, ...fields })}\n`);
}

export const silentLog: Log = () => undefined;
