import { expect } from "chai";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  hashOutputBytes,
  isSupportedHash,
  newContentHash,
  supportedHashNames,
} from "../../../../../services/datapath/repository/kopia/hashing.js";

/** SECRET32 of kopia-format.md, Appendix A. */
const SECRET32 = Buffer.from(Array.from({ length: 32 }, (_, position) => position));

/** kopia-format.md A.1, printed by Kopia: of no bytes, and of "hello world". */
const VECTORS: Readonly<Record<string, readonly [empty: string, hello: string]>> = {
  "BLAKE2B-256": [
    "4e51e7a913fc80137da52880fecca175bf81e117d5c68126dc2774033517ea0d",
    "e284e5ae9e9ee34777499c886c42fce0466a813b7e278dc806db57bcfe2255f1",
  ],
  "BLAKE2B-256-128": ["4e51e7a913fc80137da52880fecca175", "e284e5ae9e9ee34777499c886c42fce0"],
  "BLAKE2S-128": ["9536f9b267655743dee97b8a670f9f53", "9dc39de6198d670172a4bf1a20c88f06"],
  "BLAKE2S-256": [
    "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49",
    "91f7ccd2b023b7b4e708a750f8a59051ca893082d25d2f49a558f249fe7c0ccd",
  ],
  "HMAC-SHA224": [
    "2a7430f93bb5456d155c654063c7074aa70c01936a6c0e53a9f9407f",
    "b4d40f8484842f7cad969aea7ea110e291697f07d3c9ffcd2f10a475",
  ],
  "HMAC-SHA256": [
    "d38b42096d80f45f826b44a9d5607de72496a415d3f4a1a8c88e3bb9da8dc1cb",
    "411b9a51e8565e1fc79643b2a6c4672f4a3c3e573c33d0995a08748cb6128e8e",
  ],
  "HMAC-SHA256-128": ["d38b42096d80f45f826b44a9d5607de7", "411b9a51e8565e1fc79643b2a6c4672f"],
  "HMAC-SHA3-224": [
    "2e37c6fd64fd8a04653d260323bc726482d8cb6b4d9e59e02bd58cd9",
    "cfdc0f7c3ae4f7c413f7fa56c3a83e656c87e06d1dbbd935ca912861",
  ],
  "HMAC-SHA3-256": [
    "50ab1606034383fe4b3b4bc0a341a82e40ac85e455cdfeed4cac902a7b8ccfc1",
    "f76aacea7480978b8dbeb285452b5bc8f9f016ae33b0f7ff99fcbf73edd02c2c",
  ],
};

describe("newContentHash", () => {
  for (const [name, [empty, hello]] of Object.entries(VECTORS)) {
    it(`computes ${name} as Kopia does`, async () => {
      const hash = newContentHash(name, SECRET32);
      expect(hash.digest(Buffer.alloc(0)).toString("hex")).to.equal(empty);
      expect(hash.digest(Buffer.from("hello world")).toString("hex")).to.equal(hello);
      expect(hashOutputBytes(name))
        .to.equal(hash.outputBytes)
        .and.to.equal(hello.length / 2);
      const many = await hash.digestMany([Buffer.from("hello world"), Buffer.alloc(0)]);
      expect(many.toString("hex")).to.equal(hello + empty);
    });
  }

  it("has a vector for every name it supports", () => {
    expect([...supportedHashNames].sort()).to.deep.equal(Object.keys(VECTORS).sort());
  });

  it("computes BLAKE2B of a MiB of zeros as Kopia does", () => {
    const zeros = Buffer.alloc(1 << 20);
    expect(newContentHash("BLAKE2B-256-128", SECRET32).digest(zeros).toString("hex")).to.equal(
      "ea551dcd2c4d55e9d71c3c669f4eb50e",
    );
    expect(newContentHash("BLAKE2B-256", SECRET32).digest(zeros).toString("hex")).to.equal(
      "ea551dcd2c4d55e9d71c3c669f4eb50e6cbcd9ff47f0f7eec2848af8dcac4b12",
    );
  });

  for (const name of ["BLAKE3-256", "BLAKE3-256-128", "blake2b-256", "SHA256", "", "constructor"]) {
    it(`refuses ${JSON.stringify(name)} by name`, () => {
      expect(isSupportedHash(name)).to.be.false;
      expect(hashOutputBytes(name)).to.be.undefined;
      expect(() => newContentHash(name, SECRET32))
        .to.throw(BlockmoverError, JSON.stringify(name))
        .with.property("code", "UNIMPLEMENTED");
    });
  }

  it("takes secrets as long as BLAKE2 can, and no longer ones", () => {
    expect(newContentHash("BLAKE2B-256", Buffer.alloc(64)).digest(Buffer.alloc(1))).to.have.length(32);
    expect(newContentHash("BLAKE2S-128", Buffer.alloc(32)).digest(Buffer.alloc(1))).to.have.length(16);
    expect(newContentHash("HMAC-SHA224", Buffer.alloc(500)).digest(Buffer.alloc(1))).to.have.length(28);
    for (const [name, lengthBytes] of [
      ["BLAKE2B-256-128", 65],
      ["BLAKE2S-256", 33],
    ] as const) {
      expect(() => newContentHash(name, Buffer.alloc(lengthBytes)))
        .to.throw(BlockmoverError, `${lengthBytes} bytes`)
        .with.property("code", "DATA_LOSS");
    }
  });

  it("refuses a repository without a secret", () => {
    expect(() => newContentHash("HMAC-SHA256", Buffer.alloc(0)))
      .to.throw(BlockmoverError, "secret")
      .with.property("code", "UNIMPLEMENTED");
  });
});
