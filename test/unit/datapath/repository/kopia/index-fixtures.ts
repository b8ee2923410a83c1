/**
 * Index entries for tests: the vectors of kopia-format.md Appendix A.4 and A.5, arbitrary ones, and what a damaged
 * index may do.
 */
import { expect } from "chai";
import fc from "fast-check";

import { BlockmoverError } from "../../../../../services/common/errors.js";
import { parseContentId } from "../../../../../services/datapath/repository/kopia/content-id.js";
import type { ContentEntry } from "../../../../../services/datapath/repository/kopia/index-entry.js";
import type { IndexReader } from "../../../../../services/datapath/repository/kopia/index-reader.js";

export const seed = Number(process.env["SEED"] ?? Date.now() % 2 ** 31);

const PACK_P = "p0000000000000000000000000000000a-s0123456789abcdef134";
const PACK_Q = "q0000000000000000000000000000000b-s0123456789abcdef134";

export const VECTOR_ENTRIES: readonly ContentEntry[] = [
  entryOf({
    contentId: parseContentId("00112233445566778899aabbccddeeff"),
    packBlobId: PACK_P,
    packOffset: 32,
    packedLength: 1048604,
    originalLength: 1048576,
    timestampSeconds: 1700000000,
  }),
  entryOf({
    contentId: parseContentId("ffeeddccbbaa99887766554433221100"),
    packBlobId: PACK_P,
    packOffset: 1048636,
    packedLength: 48,
    originalLength: 20,
    timestampSeconds: 1700000002,
    deleted: true,
  }),
  entryOf({
    contentId: parseContentId("m0102030405060708090a0b0c0d0e0f10"),
    packBlobId: PACK_Q,
    packOffset: 32,
    packedLength: 300,
    originalLength: 500,
    timestampSeconds: 1700000001,
    compressionHeaderId: 0x1101,
  }),
];

export const VECTOR_V2 = Buffer.from(
  "02110011000000030000000202000000000000112233445566778899aabbccddeeff6553f1000000002010000010001c" +
    "00000000ffeeddccbbaa998877665544332211006553f1028010003c0000140000300000006d0102030405060708090a" +
    "0b0c0d0e0f106553f101000000200001f400012c000101360000008d36000000c3000000000300000011010300703030" +
    "3030303030303030303030303030303030303030303030303030303030612d7330313233343536373839616263646566" +
    "3133347130303030303030303030303030303030303030303030303030303030303030622d7330313233343536373839" +
    "616263646566313334",
  "hex",
);

export const VECTOR_V2_LONG = Buffer.from(
  "02110013000000010000000101000000000000112233445566778899aabbccddeeff6553f10000000020234567000010" +
    "000000001136000000400000000003007030303030303030303030303030303030303030303030303030303030303030" +
    "612d7330313233343536373839616263646566313334",
  "hex",
);

export const VECTOR_V1 = Buffer.from(
  "01110014000000030000112233445566778899aabbccddeeff00006553f100033600000077000000200010001c00ffee" +
    "ddccbbaa9988776655443322110000006553f1020336000000778010003c000000306d0102030405060708090a0b0c0d" +
    "0e0f1000006553f1010336000000ad000000200000012c70303030303030303030303030303030303030303030303030" +
    "30303030303030612d733031323334353637383961626364656631333471303030303030303030303030303030303030" +
    "30303030303030303030303030622d7330313233343536373839616263646566313334",
  "hex",
);

/** An entry of which a test gives what it is about. */
export function entryOf(fields: Partial<ContentEntry>): ContentEntry {
  return {
    contentId: parseContentId("00112233445566778899aabbccddeeff"),
    packBlobId: PACK_P,
    packOffset: 0,
    packedLength: 28,
    originalLength: 0,
    timestampSeconds: 0,
    deleted: false,
    formatVersion: 3,
    compressionHeaderId: 0,
    encryptionKeyId: 0,
    ...fields,
  };
}

/** A content id of 16 hash bytes counted from `number`, in key order; for large indexes. */
export function numberedId(number: number, prefix = ""): ContentEntry["contentId"] {
  return parseContentId(prefix + number.toString(16).padStart(32, "0"));
}

/** Content ids of which several share all but few bits, so that indexes overlap and searches meet ties. */
const collidingIds = fc
  .tuple(fc.constantFrom("", "g", "k", "m", "x", "z"), fc.constantFrom("00000000", "7fffffff", "ffffffff"), fc.nat(5))
  .map(([prefix, start, end]) => parseContentId(prefix + start + "0".repeat(23) + end.toString()));

const uniformIds = fc
  .tuple(fc.constantFrom("", "", "k", "m", "x"), fc.uint8Array({ minLength: 16, maxLength: 16 }))
  .map(([prefix, hash]) => parseContentId(prefix + Buffer.from(hash).toString("hex")));

export const contentIds = fc.oneof(collidingIds, uniformIds);

export const entries: fc.Arbitrary<ContentEntry> = fc.record({
  contentId: contentIds,
  packBlobId: fc.constantFrom("p1", "p2", PACK_P, PACK_Q, "q" + "9".repeat(254)),
  packOffset: fc.nat(2 ** 30 - 1),
  packedLength: fc.oneof(fc.nat(2 ** 20), fc.nat(2 ** 28 - 1)),
  originalLength: fc.oneof(fc.nat(2 ** 20), fc.nat(2 ** 28 - 1)),
  timestampSeconds: fc.oneof(fc.nat(3), fc.nat(2 ** 31 - 1), fc.constant(2 ** 32 - 1)),
  deleted: fc.boolean(),
  formatVersion: fc.constantFrom(2, 3),
  compressionHeaderId: fc.constantFrom(0, 0x1101, 0x1500),
  encryptionKeyId: fc.constant(0),
});

/** Entries with different content ids, in any order. */
export const entryLists = fc.uniqueArray(entries, {
  minLength: 1,
  maxLength: 60,
  selector: (entry) => entry.contentId,
});

export function byKey(left: ContentEntry, right: ContentEntry): number {
  return left.contentId < right.contentId ? -1 : left.contentId > right.contentId ? 1 : 0;
}

export function entriesOf(reader: IndexReader): ContentEntry[] {
  return Array.from({ length: reader.entryCount }, (_, position) => reader.entryAt(position));
}

/** Bytes with some flipped, cut short, or with the tail replaced. */
export function damagedVersionsOf(bytes: Buffer): fc.Arbitrary<Buffer> {
  const positions = fc.oneof(fc.nat(Math.min(20, bytes.length - 1)), fc.nat(bytes.length - 1));
  const flips = fc.array(fc.tuple(positions, fc.integer({ min: 1, max: 255 })), { maxLength: 4 });
  return fc.tuple(flips, fc.option(fc.nat(bytes.length), { freq: 3 })).map(([changes, cut]) => {
    const damaged = Buffer.from(bytes);
    for (const [position, mask] of changes) {
      damaged[position] = (damaged[position] ?? 0) ^ mask;
    }
    return damaged.subarray(0, cut ?? damaged.length);
  });
}

/** Runs `action` and expects it to work or to fail as damaged data must: never with another kind of error. */
export function expectCleanFailure(action: () => unknown): void {
  try {
    action();
  } catch (error) {
    expect(error).to.be.instanceOf(BlockmoverError);
    expect((error as BlockmoverError).code, String(error)).to.equal("DATA_LOSS");
  }
}
