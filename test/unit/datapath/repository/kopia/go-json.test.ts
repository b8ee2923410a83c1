import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  JsonFields,
  parseJson,
  sortedMap,
  stringifyLikeGo,
} from "../../../../../services/datapath/repository/kopia/go-json.js";
import { GO_ZERO_TIME_NS } from "../../../../../services/datapath/repository/kopia/go-time.js";
import { seed } from "./index-fixtures.js";

describe("stringifyLikeGo", () => {
  it("escapes what Go escapes", () => {
    expect(stringifyLikeGo({ name: '<a> & "b"\u2028é\u2029\b\f\n\u0001' })).to.equal(
      '{"name":"\\u003ca\\u003e \\u0026 \\"b\\"\\u2028é\\u2029\\b\\f\\n\\u0001"}',
    );
  });

  it(`gives JSON of the same value (SEED=${seed})`, () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(JSON.parse(stringifyLikeGo(value))).to.deep.equal(JSON.parse(JSON.stringify(value)));
      }),
      { seed },
    );
  });
});

describe("sortedMap", () => {
  it("orders names by their bytes, not their code units", () => {
    expect(Object.keys(sortedMap({ "\u{1f600}": "", "\uffee": "", b: "", a: "" }))).to.deep.equal([
      "a",
      "b",
      "\uffee",
      "\u{1f600}",
    ]);
  });
});

describe("JsonFields", () => {
  const fields = (json: string) => new JsonFields(parseJson(json, "test"), "test");

  it("takes absent and null fields for zero values", () => {
    for (const empty of [fields("{}"), fields('{"f":null}')]) {
      expect(empty.string("f")).to.equal("");
      expect(empty.integer("f")).to.equal(0);
      expect(empty.boolean("f")).to.equal(false);
      expect(empty.time("f")).to.equal(GO_ZERO_TIME_NS);
      expect(empty.object("f")).to.equal(undefined);
      expect(empty.array("f")).to.deep.equal([]);
      expect(empty.stringMap("f")).to.deep.equal({});
    }
  });

  it("does not take what objects inherit for fields, and keeps such names as names", () => {
    expect(fields("{}").value("toString")).to.equal(undefined);
    const map = fields('{"labels":{"__proto__":"x"}}').stringMap("labels");
    expect(Object.entries(map)).to.deep.equal([["__proto__", "x"]]);
  });

  const wrong: [string, (json: JsonFields) => unknown, string][] = [
    ["a number for a string", (json) => json.string("f"), '{"f":493}'],
    ["a fraction for an integer", (json) => json.integer("f"), '{"f":1.5}'],
    ["an integer that a double cannot hold", (json) => json.integer("f"), '{"f":9223372036854775807}'],
    ["a string for an integer", (json) => json.integer("f"), '{"f":"1"}'],
    ["a number for a boolean", (json) => json.boolean("f"), '{"f":1}'],
    ["a list for an object", (json) => json.object("f"), '{"f":[]}'],
    ["an object for a list", (json) => json.array("f"), '{"f":{}}'],
    ["a number in a string map", (json) => json.stringMap("f"), '{"f":{"a":1}}'],
    ["a number in a list of strings", (json) => json.strings("f"), '{"f":[1]}'],
    ["a number for a time", (json) => json.time("f"), '{"f":1}'],
  ];
  for (const [what, read, json] of wrong) {
    it(`refuses ${what}, naming the field`, () => {
      expect(() => read(fields(json)))
        .to.throw(BlockmoverError, /test, field f|test: field f/)
        .with.property("code", "DATA_LOSS");
    });
  }

  it("refuses what is no object, and no JSON", () => {
    expect(() => fields("[]")).to.throw(BlockmoverError, "not a JSON object");
    expect(() => fields("{"))
      .to.throw(BlockmoverError, "test: not JSON")
      .with.property("code", "DATA_LOSS");
  });
});
