import { createHash, createHmac } from "node:crypto";

import { expect } from "chai";
import { afterEach, describe, it } from "mocha";

import { KeyedHash, setHashImplementation, type HashImplementation, type HashSpec } from "../../../native/index.js";
import { Random, testSeed } from "../../support/random-data.js";
import { MiB } from "../../support/sizes.js";
import { skipBecause } from "../../support/skip.js";

const seed = testSeed();
/** 00 01 … 1f: the key of the vectors in kopia-format.md, appendix A. */
const secret = Buffer.from(Array.from({ length: 32 }, (_, i) => i));

/** Appendix A.1: printed by Kopia. */
const vectors: { name: string; spec: Omit<HashSpec, "key">; empty: string; hello: string }[] = [
  {
    name: "BLAKE2B-256",
    spec: { algorithm: "blake2b", digestBytes: 32, outputBytes: 32 },
    empty: "4e51e7a913fc80137da52880fecca175bf81e117d5c68126dc2774033517ea0d",
    hello: "e284e5ae9e9ee34777499c886c42fce0466a813b7e278dc806db57bcfe2255f1",
  },
  {
    name: "BLAKE2B-256-128",
    spec: { algorithm: "blake2b", digestBytes: 32, outputBytes: 16 },
    empty: "4e51e7a913fc80137da52880fecca175",
    hello: "e284e5ae9e9ee34777499c886c42fce0",
  },
  {
    name: "BLAKE2S-128",
    spec: { algorithm: "blake2s", digestBytes: 16, outputBytes: 16 },
    empty: "9536f9b267655743dee97b8a670f9f53",
    hello: "9dc39de6198d670172a4bf1a20c88f06",
  },
  {
    name: "BLAKE2S-256",
    spec: { algorithm: "blake2s", digestBytes: 32, outputBytes: 32 },
    empty: "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49",
    hello: "91f7ccd2b023b7b4e708a750f8a59051ca893082d25d2f49a558f249fe7c0ccd",
  },
  {
    name: "HMAC-SHA224",
    spec: { algorithm: "hmac-sha224", digestBytes: 28, outputBytes: 28 },
    empty: "2a7430f93bb5456d155c654063c7074aa70c01936a6c0e53a9f9407f",
    hello: "b4d40f8484842f7cad969aea7ea110e291697f07d3c9ffcd2f10a475",
  },
  {
    name: "HMAC-SHA256",
    spec: { algorithm: "hmac-sha256", digestBytes: 32, outputBytes: 32 },
    empty: "d38b42096d80f45f826b44a9d5607de72496a415d3f4a1a8c88e3bb9da8dc1cb",
    hello: "411b9a51e8565e1fc79643b2a6c4672f4a3c3e573c33d0995a08748cb6128e8e",
  },
  {
    name: "HMAC-SHA256-128",
    spec: { algorithm: "hmac-sha256", digestBytes: 32, outputBytes: 16 },
    empty: "d38b42096d80f45f826b44a9d5607de7",
    hello: "411b9a51e8565e1fc79643b2a6c4672f",
  },
  {
    name: "HMAC-SHA3-224",
    spec: { algorithm: "hmac-sha3-224", digestBytes: 28, outputBytes: 28 },
    empty: "2e37c6fd64fd8a04653d260323bc726482d8cb6b4d9e59e02bd58cd9",
    hello: "cfdc0f7c3ae4f7c413f7fa56c3a83e656c87e06d1dbbd935ca912861",
  },
  {
    name: "HMAC-SHA3-256",
    spec: { algorithm: "hmac-sha3-256", digestBytes: 32, outputBytes: 32 },
    empty: "50ab1606034383fe4b3b4bc0a341a82e40ac85e455cdfeed4cac902a7b8ccfc1",
    hello: "f76aacea7480978b8dbeb285452b5bc8f9f016ae33b0f7ff99fcbf73edd02c2c",
  },
];

describe("KeyedHash", () => {
  afterEach(() => setHashImplementation("auto"));

  for (const { name, spec, empty, hello } of vectors) {
    it(`gives Kopia's ${name} of nothing and of "hello world"`, async () => {
      const hash = new KeyedHash({ ...spec, key: secret });
      const message = Buffer.from("hello world");
      expect(hash.digest(Buffer.alloc(0)).toString("hex")).to.equal(empty);
      expect(hash.digest(message).toString("hex")).to.equal(hello);
      const many = await hash.digestMany([message, Buffer.alloc(0), message, message, message]);
      expect(many.toString("hex")).to.equal(hello + empty + hello.repeat(3));
      expect(hash.outputBytes).to.equal(spec.outputBytes);
    });
  }

  it("gives Kopia's BLAKE2B-256 of 1 MiB of zeros", async () => {
    const hash = new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 32 });
    const zeros = Buffer.alloc(MiB);
    const expected = "ea551dcd2c4d55e9d71c3c669f4eb50e6cbcd9ff47f0f7eec2848af8dcac4b12";
    expect((await hash.digestMany([zeros, zeros, zeros, zeros])).toString("hex")).to.equal(expected.repeat(4));
  });

  it("computes every HMAC as node:crypto does", () => {
    const random = new Random(seed).fork("hmac");
    for (const [algorithm, name] of [
      ["hmac-sha224", "sha224"],
      ["hmac-sha256", "sha256"],
      ["hmac-sha3-224", "sha3-224"],
      ["hmac-sha3-256", "sha3-256"],
    ] as const) {
      const key = random.bytes(random.between(1, 200));
      const data = random.bytes(random.below(1000));
      const expected = createHmac(name, key).update(data).digest();
      const hash = new KeyedHash({ algorithm, key, digestBytes: expected.length, outputBytes: expected.length });
      expect(hash.digest(data).toString("hex"), `${algorithm}, seed ${seed}`).to.equal(expected.toString("hex"));
    }
  });

  for (const implementation of ["avx512", "avx2", "openssl"] as const) {
    describe(`digestMany by ${implementation}`, function () {
      const random = new Random(seed).fork("parts");
      const lengths = [
        ...Array.from({ length: 301 }, (_, i) => i),
        ...[383, 384, 385, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097, MiB - 1, MiB, MiB + 1],
      ];

      before(function () {
        if (!has(implementation)) skipBecause(this, `cpu-without-${implementation}`);
      });
      beforeEach(() => setHashImplementation(implementation));

      it("says so", () => {
        const blake = new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 16 });
        const hmac = new KeyedHash({ algorithm: "hmac-sha256", key: secret, digestBytes: 32, outputBytes: 32 });
        expect(blake.implementation).to.equal(implementation);
        expect(hmac.implementation).to.equal("openssl");
      });

      it(`equals one digest at a time for every length and 1 to 9 parts [seed ${seed}]`, async () => {
        const hash = new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 32 });
        for (const length of lengths) {
          const most = length >= 4096 ? 9 : 17;
          const data = random.bytes(length * most);
          const parts = Array.from({ length: most }, (_, i) => data.subarray(i * length, (i + 1) * length));
          const expected = parts.map((part) => hash.digest(part));
          for (const count of length >= MiB - 1 ? [3, 9] : [1, 2, 3, 4, 5, 7, 8, 9, most]) {
            const digests = await hash.digestMany(parts.slice(0, count));
            const whole = Buffer.concat(expected.slice(0, count));
            expect(digests.equals(whole), `${count} parts of ${length} bytes`).to.equal(true);
          }
        }
      }).timeout(60_000);

      it(`keeps the order when lengths are mixed and memory is unaligned [seed ${seed}]`, async () => {
        const hash = new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 16 });
        for (let round = 0; round < 20; round++) {
          const data = random.bytes(5000);
          const parts = Array.from({ length: random.between(0, 20) }, () => {
            const start = random.below(100);
            return data.subarray(start, start + random.pick([0, 1, 127, 128, 129, 1000, 4096]));
          });
          const digests = await hash.digestMany(parts);
          expect(digests.equals(Buffer.concat(parts.map((part) => hash.digest(part))))).to.equal(true);
        }
      });

      it(`takes every key and digest length of BLAKE2b [seed ${seed}]`, async () => {
        const data = random.bytes(300);
        for (let length = 1; length <= 64; length++) {
          const key = random.bytes(length);
          const spec = { algorithm: "blake2b", key, digestBytes: length, outputBytes: length } as const;
          const hash = new KeyedHash(spec);
          const expected = hash.digest(data).toString("hex");
          const digests = await hash.digestMany(Array<Uint8Array>(8).fill(data));
          expect(digests.toString("hex"), `${length} bytes`).to.equal(expected.repeat(8));
        }
      });
    });
  }

  it("digests in parallel calls without mixing them up", async () => {
    const random = new Random(seed).fork("parallel");
    const hash = new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 32 });
    const groups = Array.from({ length: 20 }, () => Array.from({ length: 8 }, () => random.bytes(2000)));
    const digests = await Promise.all(groups.map((parts) => hash.digestMany(parts)));
    groups.forEach((parts, i) =>
      expect(digests[i]?.equals(Buffer.concat(parts.map((part) => hash.digest(part))))).to.equal(true),
    );
  });

  it("makes a shorter digest of its own where digestBytes says so, and a prefix where outputBytes does", () => {
    const make = (digestBytes: number, outputBytes: number) =>
      new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes, outputBytes }).digest(Buffer.from("x"));
    expect(make(32, 16).equals(make(32, 32).subarray(0, 16))).to.equal(true);
    expect(make(16, 16).equals(make(32, 16))).to.equal(false);
  });

  it("refuses lengths that the algorithm does not have", () => {
    const make = (spec: Partial<HashSpec>) => () =>
      new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 32, ...spec });
    expect(make({ key: Buffer.alloc(65) })).to.throw(RangeError, "key of 65 bytes");
    expect(make({ key: Buffer.alloc(0) })).to.throw(RangeError, "key of 0 bytes");
    expect(make({ algorithm: "blake2s", key: Buffer.alloc(33) })).to.throw(RangeError, "key of 33 bytes");
    expect(make({ digestBytes: 65 })).to.throw(RangeError, "digest of 65 bytes");
    expect(make({ algorithm: "hmac-sha256", digestBytes: 16 })).to.throw(RangeError, "digest of 16 bytes");
    expect(make({ outputBytes: 33 })).to.throw(RangeError, "outputBytes");
    expect(make({ outputBytes: 0 })).to.throw(RangeError, "outputBytes");
    expect(make({ algorithm: "md5" as HashSpec["algorithm"] })).to.throw(RangeError, "md5");
  });

  it("refuses what is not a Uint8Array", () => {
    const hash = new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 32, outputBytes: 32 });
    expect(() => hash.digest("text" as unknown as Uint8Array)).to.throw(TypeError, "Uint8Array");
    expect(() => hash.digestMany([new Uint16Array(2) as unknown as Uint8Array])).to.throw(TypeError, "Uint8Array");
  });

  it("has unkeyed BLAKE2b's sibling in node:crypto only, so the two differ", () => {
    const keyed = new KeyedHash({ algorithm: "blake2b", key: secret, digestBytes: 64, outputBytes: 64 });
    const unkeyed = createHash("blake2b512").update("x").digest();
    expect(keyed.digest(Buffer.from("x")).equals(unkeyed)).to.equal(false);
  });
});

function has(implementation: HashImplementation): boolean {
  try {
    setHashImplementation(implementation);
    return true;
  } catch {
    return false;
  } finally {
    setHashImplementation("auto");
  }
}
