/**
 * Times as Go's encoding/json writes them, to the nanosecond.
 *
 *     2026-11-22T07:04:26.588601242Z      RFC 3339, up to nine decimals, trailing zeros and a bare point removed
 *     2022-03-22T22:45:22-07:00           read with any offset, written in UTC
 *
 * A time is a bigint: nanoseconds since 1970, negative before. Manifests are compared by it, and two writes within a
 * millisecond must differ, so neither Date nor a double will do. All years 0000 to 9999 work, among them Go's zero time
 * (year 1) and the 1754-08-30T22:43:41.128654848Z that Kopia makes of it by overflow.
 */
import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";

const NS_PER_SECOND = 1_000_000_000n;
const NS_PER_MS = 1_000_000n;
const SECONDS_PER_DAY = 86_400;

/** Go's `time.Time{}`: 0001-01-01T00:00:00Z. */
export const GO_ZERO_TIME_NS = -62_135_596_800n * NS_PER_SECOND;

/** First and last nanosecond that RFC 3339 can name. */
const MIN_TIME_NS = BigInt(daysSince1970(0, 1, 1) * SECONDS_PER_DAY) * NS_PER_SECOND;
const MAX_TIME_NS = BigInt(daysSince1970(10_000, 1, 1) * SECONDS_PER_DAY) * NS_PER_SECOND - 1n;

const RFC_3339 = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|([+-])(\d\d):(\d\d))$/;

/** How far the monotonic clock may run away from the wall clock before it is set again. */
const CLOCK_DRIFT_LIMIT_NS = 2n * NS_PER_MS;

/**
 * A time as Go writes it into JSON, in UTC.
 *
 * @example formatGoTime(1_500_000_000n) === "1970-01-01T00:00:01.5Z"
 */
export function formatGoTime(timeNs: bigint): string {
  assert(timeNs >= MIN_TIME_NS && timeNs <= MAX_TIME_NS, `time ${timeNs} ns is outside of the years 0000 to 9999`);
  const fraction = ((timeNs % NS_PER_SECOND) + NS_PER_SECOND) % NS_PER_SECOND;
  const seconds = Number((timeNs - fraction) / NS_PER_SECOND);
  const secondOfDay = ((seconds % SECONDS_PER_DAY) + SECONDS_PER_DAY) % SECONDS_PER_DAY;
  const { year, month, day } = dateOf((seconds - secondOfDay) / SECONDS_PER_DAY);
  const hour = Math.floor(secondOfDay / 3600);
  const minute = Math.floor(secondOfDay / 60) % 60;
  const decimals = fraction.toString().padStart(9, "0").replace(/0+$/, "");
  return (
    `${padded(year, 4)}-${padded(month, 2)}-${padded(day, 2)}` +
    `T${padded(hour, 2)}:${padded(minute, 2)}:${padded(secondOfDay % 60, 2)}${decimals && `.${decimals}`}Z`
  );
}

/**
 * Reads an RFC 3339 time; decimals beyond the ninth are cut off, as Go does.
 *
 * @param what whose time it is, for the message
 * @throws BlockmoverError DATA_LOSS if it is none
 */
export function parseGoTime(text: string, what = "time"): bigint {
  const match = RFC_3339.exec(text);
  if (match === null) {
    throw notATime(text, what);
  }
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const [, , , , , , , decimals = "", sign, offsetHours = "0", offsetMinutes = "0"] = match;
  const isInRange =
    month >= 1 &&
    month <= 12 &&
    day >= 1 &&
    day <= daysInMonth(year, month) &&
    hour < 24 &&
    minute < 60 &&
    second < 60 &&
    Number(offsetHours) < 24 &&
    Number(offsetMinutes) < 60;
  if (!isInRange) {
    throw notATime(text, what);
  }
  const offsetSeconds = (Number(offsetHours) * 60 + Number(offsetMinutes)) * 60 * (sign === "-" ? -1 : 1);
  const seconds =
    daysSince1970(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offsetSeconds;
  return BigInt(seconds) * NS_PER_SECOND + BigInt(decimals.slice(0, 9).padEnd(9, "0"));
}

/** Gives the present in nanoseconds since 1970, every time a later one. */
export type NanosecondClock = () => bigint;

export interface ClockSources {
  /** Wall clock in milliseconds since 1970. */
  readonly wallMs: () => number;
  /** Nanoseconds of a clock that never goes back, from an arbitrary start. */
  readonly monotonicNs: () => bigint;
}

/**
 * A clock that never gives a time twice nor an earlier one, follows the wall clock to 2 ms, and has the
 * resolution of the monotonic one.
 */
export function newNanosecondClock(
  sources: ClockSources = { wallMs: Date.now, monotonicNs: () => process.hrtime.bigint() },
): NanosecondClock {
  const wallNs = () => BigInt(Math.floor(sources.wallMs())) * NS_PER_MS;
  let offsetNs = wallNs() - sources.monotonicNs();
  let lastNs = MIN_TIME_NS;
  return () => {
    const monotonicNs = sources.monotonicNs();
    const driftNs = monotonicNs + offsetNs - wallNs();
    if (driftNs > CLOCK_DRIFT_LIMIT_NS || driftNs < -CLOCK_DRIFT_LIMIT_NS) {
      offsetNs -= driftNs;
    }
    const nowNs = monotonicNs + offsetNs;
    lastNs = nowNs > lastNs ? nowNs : lastNs + 1n;
    return lastNs;
  };
}

function notATime(text: string, what: string): BlockmoverError {
  return new BlockmoverError("DATA_LOSS", `${what}: ${JSON.stringify(text.slice(0, 64))} is not an RFC 3339 time`);
}

function padded(value: number, digits: number): string {
  return String(value).padStart(digits, "0");
}

function daysInMonth(year: number, month: number): number {
  return daysSince1970(month === 12 ? year + 1 : year, (month % 12) + 1, 1) - daysSince1970(year, month, 1);
}

/** Days from 1970-01-01 in the Gregorian calendar, also before it was introduced, as Go counts. Date.UTC would not do:
 * it takes the years 0 to 99 for 1900 to 1999. The year begins in March here, so that the leap day is its last. */
function daysSince1970(year: number, month: number, day: number): number {
  const marchYear = month <= 2 ? year - 1 : year;
  const era = Math.floor(marchYear / 400);
  const yearOfEra = marchYear - era * 400;
  const dayOfYear = Math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1;
  const dayOfEra = yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear;
  return era * 146_097 + dayOfEra - 719_468;
}

/** The inverse of `daysSince1970`. */
function dateOf(days: number): { year: number; month: number; day: number } {
  const sinceEra0 = days + 719_468;
  const era = Math.floor(sinceEra0 / 146_097);
  const dayOfEra = sinceEra0 - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  );
  const dayOfYear = dayOfEra - (yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const marchMonth = Math.floor((5 * dayOfYear + 2) / 153);
  const month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9;
  return {
    year: era * 400 + yearOfEra + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * marchMonth + 2) / 5) + 1,
  };
}
