import { createHmac } from "node:crypto";

import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import { contentIdIv, parseContentId } from "../../../../../services/datapath/repository/kopia/content-id.js";
import {
  ENCRYPTION_OVERHEAD_BYTES,
  isSupportedEncryption,
  newContentCipher,
  supportedEncryptionNames,
} from "../../../../../services/datapath/repository/kopia/encryption.js";
import { deriveContentKey } from "../../../../../services/datapath/repository/kopia/keys.js";
import { testSeed } from "../../../../support/random-data.js";

const seed = testSeed();

/** SECRET32 of kopia-format.md, Appendix A. */
const SECRET32 = Buffer.from(Array.from({ length: 32 }, (_, position) => position));
const AES = "AES256-GCM-HMAC-SHA256";
const CHACHA = "CHACHA20-POLY1305-HMAC-SHA256";

describe("newContentCipher", () => {
  // kopia-format.md A.3, from Kopia's own unit tests: there the whole ASCII string is the iv.
  const vectors: readonly (readonly [string, string, string, string])[] = [
    [AES, "aabbccddeeffgghhiijjkkllmmnnoopp", "foo", "e43ba07f85a6d70c5f1102ca06cf19c597e5f91e527b21f00fb76e8bec3fd1"],
    [
      CHACHA,
      "aabbccddeeffgghhiijjkkllmmnnoopp",
      "foo",
      "118359f3d4d589d939efbbc3168ae4c77c51bcebce6845fe6ef5d11342faa6",
    ],
    [
      AES,
      "00000000000000000000000000000000",
      "quick brown fox jumps over the lazy dog",
      "eaad755a238f1daa4052db2e5ccddd934790b6cca415b3ccfd46ac5746af33d9d30f4400ffa9eb3a64fb1ce21b888c12c043bf6787d4a5c15ad10f21f6a6027ee3afe0",
    ],
    [
      CHACHA,
      "00000000000000000000000000000000",
      "quick brown fox jumps over the lazy dog",
      "836d2ba87892711077adbdbe1452d3b2c590bbfdf6fd3387dc6810220a32ec19de862e1a4f865575e328424b5f178afac1b7eeff11494f719d119b7ebb924d1d0846a3",
    ],
  ];
  for (const [name, iv, plaintext, sealed] of vectors) {
    it(`opens what Kopia sealed (${name}, ${plaintext.length} bytes)`, () => {
      const cipher = newContentCipher(name, Buffer.from("01234567890123456789012345678901"));
      expect(cipher.open(Buffer.from(sealed, "hex"), Buffer.from(iv)).toString()).to.equal(plaintext);
    });
  }

  const contents: readonly (readonly [string, string, string, string])[] = [
    [
      AES,
      "e284e5ae9e9ee34777499c886c42fce0",
      "a9dd8641668cee8877475174809f53d7b9348ee45c0cf934768c783539fc23f72ce9a8142df214",
      "16a97459d4ad9c1ec3a5ba6a79b2e8b2d294e4a3113580d5729f40eea0007c91",
    ],
    [
      CHACHA,
      "e284e5ae9e9ee34777499c886c42fce0466a813b7e278dc806db57bcfe2255f1",
      "405681ec8c97fc35d74fbd6d50bbaa97406b10c43c55164de373c13034dce5240c25a15017238b",
      "93301f00df0df09fc16b747f5f8d795d22dfbb3cf7a137cbc788be98a24608f3",
    ],
  ];
  for (const [name, contentId, sealed, itemKey] of contents) {
    it(`opens a content of Kopia by the last 16 bytes of its hash (${name})`, () => {
      const iv = contentIdIv(parseContentId(contentId));
      expect(createHmac("sha256", deriveContentKey(SECRET32)).update(iv).digest("hex")).to.equal(itemKey);
      const opened = newContentCipher(name, SECRET32).open(Buffer.from(sealed, "hex"), iv);
      expect(opened.toString()).to.equal("hello world");
    });
  }

  for (const name of ["AES256_GCM", "aes256-gcm-hmac-sha256", "NONE", "", "constructor"]) {
    it(`refuses ${JSON.stringify(name)} by name`, () => {
      expect(isSupportedEncryption(name)).to.be.false;
      expect(() => newContentCipher(name, SECRET32))
        .to.throw(BlockmoverError, JSON.stringify(name))
        .with.property("code", "UNIMPLEMENTED");
    });
  }

  it("refuses an empty master key", () => {
    expect(() => newContentCipher(AES, Buffer.alloc(0)))
      .to.throw(BlockmoverError)
      .with.property("code", "DATA_LOSS");
  });

  for (const name of supportedEncryptionNames) {
    it(`adds 28 bytes and opens what it sealed (${name}, seed ${seed})`, () => {
      const cipher = newContentCipher(name, SECRET32);
      const ivs = fc.uint8Array({ minLength: 16, maxLength: 32 });
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 1000 }), ivs, (plaintext, iv) => {
          const sealed = cipher.seal(plaintext, iv);
          expect(sealed).to.have.length(plaintext.length + ENCRYPTION_OVERHEAD_BYTES);
          expect(cipher.open(sealed, iv)).to.deep.equal(Buffer.from(plaintext));
        }),
        { seed },
      );
    });
  }
});
