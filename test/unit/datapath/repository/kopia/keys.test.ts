import { expect } from "chai";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import {
  deriveContentKey,
  deriveFormatKey,
  deriveFormatSealingKeys,
  deriveKey,
  deriveMaintenanceKey,
  MAINTENANCE_AAD,
} from "../../../../../services/datapath/repository/kopia/keys.js";

/** SECRET32 of kopia-format.md, Appendix A. */
const SECRET32 = Buffer.from(Array.from({ length: 32 }, (_, position) => position));

describe("key derivation (kopia-format.md A.2)", () => {
  it("makes Kopia's key from master key, salt and purpose", () => {
    const key = deriveKey(Buffer.from("ABCDEFGHIJKLMNOP"), {
      salt: Buffer.from("0123456789012345"),
      purpose: "the-test-purpose",
    });
    expect(key.toString("hex")).to.equal("828769ee8969bc37f11dbaa32838f8db6c19daa6e3ae5f5eed2da2d94d8faddb");
  });

  it("makes the format key from a password by scrypt, and from it both sealing keys", async () => {
    const formatKey = await deriveFormatKey("testpw", SECRET32, "scrypt-65536-8-1");
    expect(formatKey.toString("hex")).to.equal("73f6644b1ac3012cf05eb2190ded31a470f392a72983b0ed42452f7926167be7");
    const { aesKey, aad } = deriveFormatSealingKeys(formatKey, SECRET32);
    expect(aesKey.toString("hex")).to.equal("b3634f1b27c1fbbcd6a6f86e0ebeb2c5787cd74f0af9018bb47d27c7ed9caa2b");
    expect(aad.toString("hex")).to.equal("3d529310a5e431880787df3fce73827f8921bf58b50cfc17f466f655026c1ed5");
  });

  it("makes the format key from a password by PBKDF2", async () => {
    const formatKey = await deriveFormatKey("testpw", SECRET32, "pbkdf2-sha256-600000");
    expect(formatKey.toString("hex")).to.equal("dcc7c864f375acd35476d69bc0482d8042beef075fe7fbfd933a9dc3d688ec39");
  });

  it("takes a password as UTF-8", async () => {
    // Python: hashlib.scrypt("pässwörd-☃-密码".encode(), salt=bytes(range(32)), n=65536, r=8, p=1, maxmem=1<<27, dklen=32)
    const formatKey = await deriveFormatKey("pässwörd-☃-密码", SECRET32, "scrypt-65536-8-1");
    expect(formatKey.toString("hex")).to.equal("b4e1863440a1a7fdd0b580e4a0dc5d230af5400d2a826fe1f39954840eae25e2");
  });

  it("makes the content key with the purpose as salt and no info", () => {
    expect(deriveContentKey(SECRET32).toString("hex")).to.equal(
      "e1f9e09d980a7ab1c7eea06c06e0a3bced0c4fa3b29ccd7e3f12e6f91ff3efe7",
    );
    expect(deriveContentKey(Buffer.from("01234567890123456789012345678901")).toString("hex")).to.equal(
      "88aac0fcc646ffc04813cc17f4c7a17f8a73b53e4add438898256a7c87ad45d2",
    );
  });

  it("makes the maintenance key with the purpose as info", () => {
    // HKDF written out with Python's hmac.
    expect(deriveMaintenanceKey(SECRET32, Buffer.alloc(32, 7)).toString("hex")).to.equal(
      "a746dd90ef19f242306091bbea5cb7e9326b63f6ae98f65622876942d93389fb",
    );
    expect(Buffer.from(MAINTENANCE_AAD).toString()).to.equal("maintenance");
  });

  it("refuses a unique ID shorter than 16 bytes", async () => {
    const error = await rejection(deriveFormatKey("testpw", SECRET32.subarray(0, 15), "scrypt-65536-8-1"));
    expect(error).to.be.instanceOf(BlockmoverError).with.property("code", "DATA_LOSS");
  });

  it("refuses an algorithm it does not have, by name", async () => {
    const error = await rejection(deriveFormatKey("testpw", SECRET32, "testing-only-insecure"));
    expect(error).to.be.instanceOf(BlockmoverError).with.property("code", "UNIMPLEMENTED");
    expect(error).to.have.property("message").that.includes("testing-only-insecure");
  });

  it("refuses an empty master key", () => {
    expect(() => deriveContentKey(Buffer.alloc(0)))
      .to.throw(BlockmoverError)
      .with.property("code", "DATA_LOSS");
  });
});

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => expect.fail("it resolved"),
    (error: unknown) => error,
  );
}
