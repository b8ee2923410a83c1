import { gunzipSync, gzipSync } from "node:zlib";

import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import type { JsonValue } from "../../../../../services/datapath/repository/kopia/go-json.js";
import { GO_ZERO_TIME_NS, parseGoTime } from "../../../../../services/datapath/repository/kopia/go-time.js";
import {
  decodeManifestContent,
  encodeManifestContent,
  hasLabels,
  mergeManifests,
  newManifestId,
  newTombstone,
  type ManifestItem,
} from "../../../../../services/datapath/repository/kopia/manifest.js";
import { damagedVersionsOf, expectCleanFailure, seed } from "./index-fixtures.js";

const ID = "2a8bd0de8d26011375d314f02ba5823b";
const packed = (json: string) => gzipSync(json);
const decode = (json: string) => decodeManifestContent(packed(json), "m0102");

function itemOf(fields: Partial<ManifestItem> = {}): ManifestItem {
  return { id: ID, labels: { type: "test" }, modifiedNs: 1n, deleted: false, data: { a: 1 }, ...fields };
}

const items: fc.Arbitrary<ManifestItem> = fc
  .record({
    id: fc.nat(9).map((digit) => String(digit).repeat(32)),
    modifiedNs: fc.oneof(fc.bigInt({ min: 0n, max: 4n }), fc.bigInt({ min: GO_ZERO_TIME_NS, max: 10n ** 20n })),
    labels: fc.dictionary(fc.string(), fc.string()).map((labels) => ({ ...labels, type: "test" })),
    data: fc.jsonValue().map((value) => JSON.parse(JSON.stringify(value)) as JsonValue),
    deleted: fc.boolean(),
  })
  .map((item) => (item.deleted ? { ...item, labels: {}, data: null } : item));

const contents = fc.uniqueArray(items, { selector: (item) => item.id });

describe("encodeManifestContent", () => {
  it("writes the form of Kopia: gzip, one field, sorted labels, a final newline", () => {
    const item = itemOf({
      labels: { username: "u", type: "snapshot", hostname: "h" },
      modifiedNs: parseGoTime("2026-11-22T07:04:26.58860124Z"),
    });
    expect(gunzipSync(encodeManifestContent([item])).toString()).to.equal(
      `{"entries":[{"id":"${ID}","labels":{"hostname":"h","type":"snapshot","username":"u"},` +
        `"modified":"2026-11-22T07:04:26.58860124Z","data":{"a":1}}]}\n`,
    );
  });

  it("writes a tombstone with null labels and data", () => {
    const tombstone = newTombstone(itemOf({ modifiedNs: 5n }), 1_000_000_000n);
    expect(gunzipSync(encodeManifestContent([tombstone])).toString()).to.equal(
      `{"entries":[{"id":"${ID}","labels":null,"modified":"1970-01-01T00:00:01Z","deleted":true,"data":null}]}\n`,
    );
  });

  it("stops at an item without a type, with an odd id, or twice in one content", () => {
    for (const list of [[itemOf({ labels: {} })], [itemOf({ id: "x" })], [itemOf(), itemOf()]]) {
      expect(() => encodeManifestContent(list))
        .to.throw(BlockmoverError)
        .with.property("code", "INTERNAL");
    }
  });
});

describe("decodeManifestContent", () => {
  it(`reads back what was encoded (SEED=${seed})`, () => {
    fc.assert(
      fc.property(contents, (list) => {
        expect(decodeManifestContent(encodeManifestContent(list), "m0102")).to.deep.equal(list);
      }),
      { seed },
    );
  });

  it("accepts absent and null labels and data, and times with an offset", () => {
    expect(decode(`{"entries":[{"id":"${ID}","modified":"1970-01-01T01:00:00+01:00","deleted":true}]}`)).to.deep.equal([
      itemOf({ labels: {}, modifiedNs: 0n, deleted: true, data: null }),
    ]);
  });

  it("is not led astray by braces, commas and quotes in strings", () => {
    const [item] = decode(`{ "entries" : [{"id":"${ID}","data":{"a":"},{\\"x\\\\","b":[1,2]}}] }\n`);
    expect(item?.data).to.deep.equal({ a: '},{"x\\', b: [1, 2] });
  });

  const malformed: [string, string][] = [
    ["a second entries field", `{"entries":[{"id":"${ID}"}],"entries":[]}`],
    ["another field at the top", `{"entries":[],"more":1}`],
    ["no object", "[]"],
    ["half a JSON", `{"entries":[`],
    ["entries that are no list", `{"entries":{}}`],
    ["an entry that is null", `{"entries":[null]}`],
    ["an entry without id", `{"entries":[{"modified":"2026-11-22T07:04:26Z"}]}`],
    ["a numeric label", `{"entries":[{"id":"${ID}","labels":{"type":1}}]}`],
    ["a time that is none", `{"entries":[{"id":"${ID}","modified":"yesterday"}]}`],
    ["a deleted that is neither true nor false", `{"entries":[{"id":"${ID}","deleted":"no"}]}`],
  ];
  for (const [what, json] of malformed) {
    it(`refuses ${what}, naming the content`, () => {
      expect(() => decode(json))
        .to.throw(BlockmoverError, "manifest content m0102")
        .with.property("code", "DATA_LOSS");
    });
  }

  it("refuses what is not gzip, or cut short", () => {
    for (const bytes of [Buffer.alloc(0), Buffer.from("{}"), encodeManifestContent([itemOf()]).subarray(0, -9)]) {
      expect(() => decodeManifestContent(bytes, "m0102"))
        .to.throw(BlockmoverError, "m0102: damaged gzip")
        .with.property("code", "DATA_LOSS");
    }
  });

  it("stops unpacking at its limit", () => {
    expect(() => decodeManifestContent(gzipSync(Buffer.alloc(100_000)), "m0102", 4096))
      .to.throw(BlockmoverError, "unpacks to more than 4096 bytes")
      .with.property("code", "RESOURCE_EXHAUSTED");
  });

  it(`fails as DATA_LOSS on damaged bytes (SEED=${seed})`, () => {
    const bytes = encodeManifestContent([itemOf()]);
    const json = gunzipSync(bytes);
    const damaged = fc.oneof(
      damagedVersionsOf(bytes),
      damagedVersionsOf(json).map((text) => gzipSync(text)),
      fc.jsonValue().map((value) => gzipSync(JSON.stringify({ entries: [value] }))),
    );
    fc.assert(
      fc.property(damaged, (content) => expectCleanFailure(() => decodeManifestContent(content, "m0102"))),
      { seed, numRuns: 1000 },
    );
  });
});

describe("mergeManifests", () => {
  it("keeps the item modified strictly later, to the nanosecond", () => {
    const early = itemOf({ modifiedNs: 1795331066588601241n, data: "early" });
    const late = itemOf({ modifiedNs: 1795331066588601242n, data: "late" });
    for (const order of [[[early], [late]], [[late], [early]], [[early, late]]]) {
      expect(mergeManifests(order).get(ID)?.data).to.equal("late");
    }
  });

  it("keeps the first at equal times", () => {
    expect(mergeManifests([[itemOf({ data: 1 })], [itemOf({ data: 2 })]]).get(ID)?.data).to.equal(1);
  });

  it("drops what a later tombstone deletes, wherever it lies, and nothing else", () => {
    const tombstone = newTombstone(itemOf({ modifiedNs: 7n }), 0n);
    expect(mergeManifests([[tombstone], [itemOf({ modifiedNs: 7n })]]).size).to.equal(0);
    expect(mergeManifests([[tombstone], [itemOf({ modifiedNs: 9n })]]).size).to.equal(1);
  });

  it(`agrees with sorting by time (SEED=${seed})`, () => {
    fc.assert(
      fc.property(fc.array(contents, { maxLength: 5 }), (lists) => {
        const expected = new Map<string, ManifestItem>();
        const sorted = lists.flat().reverse();
        sorted.sort((left, right) =>
          left.modifiedNs < right.modifiedNs ? -1 : left.modifiedNs > right.modifiedNs ? 1 : 0,
        );
        for (const item of sorted) {
          expected.set(item.id, item);
        }
        const live = [...expected.values()].filter((item) => !item.deleted);
        // As lists: chai sorts the keys and values of maps as text, which objects without a prototype do not have.
        const byId = (left: ManifestItem, right: ManifestItem) => (left.id < right.id ? -1 : 1);
        const merged = mergeManifests(lists);
        expect([...merged.values()].sort(byId)).to.deep.equal(live.sort(byId));
        expect([...merged].every(([id, item]) => item.id === id)).to.equal(true);
      }),
      { seed },
    );
  });
});

describe("newTombstone", () => {
  it("is later than its victim even if the clock is behind", () => {
    expect(newTombstone(itemOf({ modifiedNs: 100n }), 50n).modifiedNs).to.equal(101n);
    expect(newTombstone(itemOf({ modifiedNs: 100n }), 100n).modifiedNs).to.equal(101n);
    expect(newTombstone(itemOf({ modifiedNs: 100n }), 500n).modifiedNs).to.equal(500n);
  });
});

describe("hasLabels", () => {
  it("is true if every wanted label is there with its value", () => {
    const item = itemOf({ labels: { type: "snapshot", path: "p" } });
    expect(hasLabels(item, { type: "snapshot" })).to.equal(true);
    expect(hasLabels(item, {})).to.equal(true);
    expect(hasLabels(item, { type: "policy" })).to.equal(false);
    expect(hasLabels(item, { type: "snapshot", toString: "x" })).to.equal(false);
  });
});

describe("newManifestId", () => {
  it("is 16 random bytes in hex", () => {
    expect(newManifestId(() => Buffer.from(ID, "hex"))).to.equal(ID);
    expect(newManifestId())
      .to.match(/^[0-9a-f]{32}$/)
      .and.not.equal(newManifestId());
  });
});
