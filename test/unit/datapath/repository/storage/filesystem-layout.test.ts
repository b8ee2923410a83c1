import { expect } from "chai";
import fc from "fast-check";
import {
  blobIdAt,
  blobPath,
  canHoldBlobs,
  decodeShardParameters,
  encodeShardParameters,
  newRepositoryShards,
  oldRepositoryShards,
  type ShardParameters,
} from "../../../../../services/datapath/repository/storage/filesystem-layout.js";
import { seed } from "./conformance.js";

describe("the file system layout", () => {
  const pathOf = (parameters: ShardParameters, id: string): string => {
    const { directories, fileName } = blobPath(parameters, id);
    return [...directories, fileName].join("/");
  };

  it("puts blobs where Kopia does", () => {
    const examples: [string, string, string][] = [
      ["kopia.repository", "kopia.repository.f", "kopia.repository.f"],
      ["xe12", "xe12.f", "xe12.f"],
      [
        "p0bb110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147",
        "p/0bb/110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147.f",
        "p0b/b11/0664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147.f",
      ],
      [
        "xn0_3d66899eef6ce47833d91efffcefee17-sb2b51260d5d2c0e9147-c1",
        "x/n0_/3d66899eef6ce47833d91efffcefee17-sb2b51260d5d2c0e9147-c1.f",
        "xn0/_3d/66899eef6ce47833d91efffcefee17-sb2b51260d5d2c0e9147-c1.f",
      ],
      ["_log_20261122070426_6403_x", "_/log/_20261122070426_6403_x.f", "_lo/g_2/0261122070426_6403_x.f"],
      ["a2345678901234567890", "a2345678901234567890.f", "a2345678901234567890.f"],
      ["a23456789012345678901", "a/234/56789012345678901.f", "a23/456/789012345678901.f"],
    ];
    for (const [id, ofNew, ofOld] of examples) {
      expect(pathOf(newRepositoryShards, id)).to.equal(ofNew);
      expect(pathOf(oldRepositoryShards, id)).to.equal(ofOld);
    }
  });

  it("takes the first override that matches, and stops where the id does", () => {
    const parameters: ShardParameters = {
      defaultShards: [1],
      maxNonShardedLength: 2,
      overrides: [
        { prefix: "xn", shards: [] },
        { prefix: "x", shards: [2, 3, 4] },
        { prefix: "xe", shards: [1] },
      ],
    };
    expect(pathOf(parameters, "xn123")).to.equal("xn123.f");
    expect(pathOf(parameters, "xe123")).to.equal("xe/123.f"); // what remains is not longer than the next shard
    expect(pathOf(parameters, "xe1234")).to.equal("xe/123/4.f");
    expect(pathOf(parameters, "abc")).to.equal("a/bc.f");
    expect(pathOf(parameters, "ab")).to.equal("ab.f");
  });

  it("writes .shards as Kopia does, and reads it back", () => {
    expect(encodeShardParameters(newRepositoryShards)).to.equal('{"default":[1,3],"maxNonShardedLength":20}\n');
    const parameters: ShardParameters = {
      defaultShards: [3, 3],
      maxNonShardedLength: 20,
      overrides: [{ prefix: "p", shards: [1] }],
    };
    expect(encodeShardParameters(parameters)).to.equal(
      '{"default":[3,3],"maxNonShardedLength":20,"overrides":[{"prefix":"p","shards":[1]}]}\n',
    );
    expect(decodeShardParameters(encodeShardParameters(parameters), "x")).to.deep.equal(parameters);
  });

  it("reads absent and null fields as Go does", () => {
    const empty = { defaultShards: [], maxNonShardedLength: 0, overrides: [] };
    expect(decodeShardParameters("{}", "x")).to.deep.equal(empty);
    expect(decodeShardParameters('{"default":null,"overrides":null,"new":1}', "x")).to.deep.equal(empty);
  });

  it("refuses a damaged .shards", () => {
    const damaged = [
      "", "null", "[]", "3", '{"default":3}', '{"default":["1"]}', '{"default":[0]}', '{"default":[-1]}', '{"default":[1.5]}',
      '{"default":[1000]}', '{"maxNonShardedLength":"20"}', '{"overrides":{}}', '{"overrides":[3]}',
      '{"overrides":[{"prefix":3}]}', '{"overrides":[{"prefix":"p","shards":7}]}', `{"default":[${"1,".repeat(50)}1]}`,
    ]; // prettier-ignore
    for (const text of damaged) {
      expect(() => decodeShardParameters(text, "/r/.shards"), text).to.throw(/^\/r\/\.shards is damaged/);
    }
  });

  it(`finds every id again from its path, and walks to it from every prefix (seed ${seed})`, () => {
    const id = fc.string({
      unit: fc.constantFrom("a", "b", "n", "p", "x", "_", "0", "1", "9", "-"),
      minLength: 1,
      maxLength: 40,
    });
    const shards = fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 4 });
    const parameters = fc.record({
      defaultShards: shards,
      maxNonShardedLength: fc.integer({ min: 0, max: 25 }),
      overrides: fc.array(fc.record({ prefix: fc.constantFrom("", "x", "xn", "p0"), shards }), { maxLength: 3 }),
    });
    fc.assert(
      fc.property(parameters, id, fc.nat(40), (layout, blob, cut) => {
        const path = blobPath(layout, blob);
        expect(blobIdAt(layout, path)).to.equal(blob);
        path.directories.forEach((directory, depth) => {
          expect(canHoldBlobs(layout, path.directories.slice(0, depth), directory, blob.slice(0, cut))).to.equal(true);
        });
      }),
      { seed, numRuns: 1000 },
    );
  });

  it("does not walk where no blob of the prefix can be", () => {
    expect(canHoldBlobs(newRepositoryShards, [], "p", "xn")).to.equal(false);
    expect(canHoldBlobs(newRepositoryShards, ["x"], "n1_", "xn0")).to.equal(false);
    expect(canHoldBlobs(newRepositoryShards, ["x"], "n10", "xn1_")).to.equal(false);
    expect(canHoldBlobs(newRepositoryShards, ["x"], "n10", "xn1")).to.equal(true);
    expect(canHoldBlobs(newRepositoryShards, ["x"], "n10", "xn10_0")).to.equal(true);
    expect(canHoldBlobs(newRepositoryShards, [], "lost+found", "")).to.equal(false);
    expect(canHoldBlobs(newRepositoryShards, ["x", "n10"], "abc", "")).to.equal(false);
  });
});
