import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  decodeSessionMarker,
  encodeSessionMarker,
  isSessionId,
  newSessionId,
  sessionIdOfBlob,
  type SessionMarker,
} from "../../../../../services/datapath/repository/kopia/session.js";
import { testSeed } from "../../../../support/random-data.js";

const seed = testSeed();
const BLOB = "s4e51e7a913fc80137da52880fecca175-s531bea9f2b3eaa72147";

const MARKER: SessionMarker = {
  id: "s531bea9f2b3eaa72147",
  startTimeMs: Date.UTC(2026, 10, 22, 7, 4, 26, 588),
  checkpointTimeMs: Date.UTC(2026, 10, 22, 8, 4, 26, 0),
  username: "default",
  hostname: "default",
};

function decodeText(text: string): SessionMarker {
  return decodeSessionMarker(Buffer.from(text, "utf8"), BLOB);
}

describe("newSessionId", () => {
  const random = (): Uint8Array => Buffer.from("0123456789abcdef", "hex");

  it("ends in the number of 30-day periods since 2000, 13c for the first day of 2026", () => {
    expect(newSessionId(Date.UTC(2026, 0, 1), random)).to.equal("s0123456789abcdef13c");
    expect(newSessionId(Date.UTC(2000, 0, 1), random)).to.equal("s0123456789abcdef0");
    expect(newSessionId(Date.UTC(2000, 0, 31) - 1, random)).to.equal("s0123456789abcdef0");
    expect(newSessionId(Date.UTC(2000, 0, 31), random)).to.equal("s0123456789abcdef1");
  });

  it("never gives the same ID again", () => {
    expect(newSessionId(Date.now())).to.not.equal(newSessionId(Date.now()));
    expect(isSessionId(newSessionId(Date.now()))).to.be.true;
  });

  it("stops when the clock is before 2000", () => {
    expect(() => newSessionId(0))
      .to.throw(BlockmoverError, "clock")
      .with.property("code", "INTERNAL");
  });
});

describe("sessionIdOfBlob", () => {
  // kopia-format.md A.9, from Kopia's own unit tests.
  for (const [blobId, expected] of [
    ["pdeadbeef", undefined],
    ["pdeadbeef-whatever", undefined],
    ["pdeadbeef-s01", "s01"],
    ["sdeadbeef-s01", "s01"],
    ["xn0_3d66899eef6ce47833d91efffcefee17-sb2b51260d5d2c0e9147-c1", "sb2b51260d5d2c0e9147"],
    ["p00-c1-s02-s03", "s02"],
    ["", undefined],
  ] as const) {
    it(`finds ${expected ?? "none"} in ${JSON.stringify(blobId)}`, () => {
      expect(sessionIdOfBlob(blobId)).to.equal(expected);
    });
  }
});

describe("session marker", () => {
  it("has the fields of Kopia in its order", () => {
    expect(encodeSessionMarker(MARKER).toString("utf8")).to.equal(
      '{"id":"s531bea9f2b3eaa72147","startTime":"2026-11-22T07:04:26.588Z",' +
        '"checkpointTime":"2026-11-22T08:04:26.000Z","username":"default","hostname":"default"}',
    );
  });

  it("cuts what is finer than a millisecond", () => {
    const marker = encodeSessionMarker({ ...MARKER, startTimeMs: MARKER.startTimeMs + 0.999 });
    expect(decodeSessionMarker(marker, BLOB)).to.deep.equal(MARKER);
  });

  it("reads Kopia's times with nanoseconds, without fraction and with offsets, to the millisecond below", () => {
    const marker = decodeText(
      '{"id":"s01","startTime":"2026-11-22T07:04:26.588999242Z","checkpointTime":"2026-11-22T10:04:26.0+02:00"}',
    );
    expect(marker).to.deep.equal({
      id: "s01",
      startTimeMs: MARKER.startTimeMs,
      checkpointTimeMs: MARKER.checkpointTimeMs,
      username: "",
      hostname: "",
    });
  });

  it("reads a fraction as a fraction", () => {
    expect(decodeText('{"startTime":"1970-01-01T00:00:00.5Z"}').startTimeMs).to.equal(500);
    expect(decodeText('{"startTime":"1970-01-01T00:00:00.05Z"}').startTimeMs).to.equal(50);
    expect(decodeText('{"startTime":"1969-12-31T23:00:00-01:00"}').startTimeMs).to.equal(0);
  });

  it("matches field names in any case and takes null and absent for empty, as Go does", () => {
    expect(decodeText('{"ID":"s01","UserName":null,"HOSTNAME":"h","extra":[1]}')).to.deep.equal({
      id: "s01",
      startTimeMs: Date.parse("0001-01-01T00:00:00Z"),
      checkpointTimeMs: Date.parse("0001-01-01T00:00:00Z"),
      username: "",
      hostname: "h",
    });
  });

  for (const text of [
    "",
    "{",
    "[]",
    "null",
    '"s01"',
    '{"id":1}',
    '{"username":{}}',
    '{"startTime":0}',
    '{"startTime":""}',
    '{"startTime":"2026-11-22"}',
    '{"startTime":"2026-13-22T07:04:26Z"}',
    '{"startTime":"22 Nov 2026 07:04:26 GMT"}',
    '{"startTime":"2026-11-22T07:04:26.Z"}',
    `{"id":"${"s".repeat(70_000)}"}`,
  ]) {
    it(`refuses ${text.slice(0, 60) || "nothing"}`, () => {
      expect(() => decodeText(text))
        .to.throw(BlockmoverError, BLOB)
        .with.property("code", "DATA_LOSS");
    });
  }

  it("is not written with an ID or time that cannot be", () => {
    for (const change of [{ id: "" }, { id: "s01" }, { startTimeMs: NaN }, { checkpointTimeMs: 1e17 }]) {
      expect(() => encodeSessionMarker({ ...MARKER, ...change }))
        .to.throw(BlockmoverError)
        .with.property("code", "INTERNAL");
    }
  });

  it(`survives the way there and back (seed ${seed})`, () => {
    const times = fc.date({
      min: new Date("0001-01-01T00:00:00Z"),
      max: new Date("9999-12-31T23:59:59.999Z"),
      noInvalidDate: true,
    });
    const markers = fc.record({
      id: fc.constant(MARKER.id),
      startTimeMs: times.map(Number),
      checkpointTimeMs: times.map(Number),
      username: fc.string({ unit: "grapheme" }),
      hostname: fc.string({ unit: "binary" }),
    });
    fc.assert(
      fc.property(markers, (marker) => {
        expect(decodeSessionMarker(encodeSessionMarker(marker), BLOB)).to.deep.equal(marker);
      }),
      { seed },
    );
  });

  it(`is decoded or refused from any bytes, never anything else (seed ${seed})`, () => {
    const flipped = fc.tuple(fc.nat(), fc.nat({ max: 255 })).map(([position, byte]) => {
      const bytes = encodeSessionMarker(MARKER);
      bytes[position % bytes.length] = byte;
      return bytes;
    });
    const cut = fc.nat({ max: 200 }).map((length) => encodeSessionMarker(MARKER).subarray(0, length));
    const json = fc
      .dictionary(fc.constantFrom("id", "startTime", "checkpointtime", "username", "__proto__"), fc.jsonValue())
      .map((value) => Buffer.from(JSON.stringify(value)));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array(), flipped, cut, json), (bytes) => {
        try {
          decodeSessionMarker(bytes, BLOB);
        } catch (error) {
          if (!(error instanceof BlockmoverError)) throw error;
          expect(error.code).to.equal("DATA_LOSS");
        }
      }),
      { seed, numRuns: 3000 },
    );
  });
});
