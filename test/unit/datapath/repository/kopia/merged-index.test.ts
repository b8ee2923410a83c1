import { expect } from "chai";
import fc from "fast-check";

import {
  contentIdKey,
  type ContentId,
  type ContentPrefix,
} from "../../../../../services/datapath/repository/kopia/content-id.js";
import type { ContentEntry } from "../../../../../services/datapath/repository/kopia/index-entry.js";
import { encodeIndexV2 } from "../../../../../services/datapath/repository/kopia/index-v2.js";
import { MergedIndex } from "../../../../../services/datapath/repository/kopia/merged-index.js";
import { openIndex } from "../../../../../services/datapath/repository/kopia/open-index.js";
import { byKey, contentIds, entryLists, entryOf, numberedId, seed } from "./index-fixtures.js";

const read = (list: readonly ContentEntry[]) => openIndex(encodeIndexV2(list), { overheadBytes: 28 });

function mergedOf(watermarkSeconds: number, ...lists: (readonly ContentEntry[])[]): MergedIndex {
  const merged = new MergedIndex();
  merged.replaceAll(lists.map(read), watermarkSeconds);
  return merged;
}

/** The rules of kopia-format.md §6.4, as simply as they can be written. */
function reference(
  lists: readonly (readonly ContentEntry[])[],
  watermarkSeconds: number,
): Map<ContentId, ContentEntry> {
  const rank = ({ timestampSeconds, deleted, packBlobId }: ContentEntry): string =>
    `${timestampSeconds.toString().padStart(12, "0")} ${deleted ? 0 : 1} ${packBlobId}`;
  const winners = new Map<ContentId, ContentEntry>();
  for (const entry of lists.flat()) {
    const known = winners.get(entry.contentId);
    if (known === undefined || rank(entry) > rank(known)) {
      winners.set(entry.contentId, entry);
    }
  }
  return new Map([...winners].filter(([, entry]) => !(entry.deleted && entry.timestampSeconds <= watermarkSeconds)));
}

describe("MergedIndex", () => {
  const id = numberedId(1);

  it("prefers the later entry, even a deleted one", () => {
    const merged = mergedOf(
      0,
      [entryOf({ contentId: id, timestampSeconds: 5 })],
      [entryOf({ contentId: id, timestampSeconds: 6, deleted: true })],
    );
    expect(merged.find(id)).to.include({ timestampSeconds: 6, deleted: true });
  });

  it("prefers the live entry at equal time, then the greater pack name", () => {
    const deleted = entryOf({ contentId: id, timestampSeconds: 5, deleted: true, packBlobId: "p9" });
    const small = entryOf({ contentId: id, timestampSeconds: 5, packBlobId: "p1" });
    const great = entryOf({ contentId: id, timestampSeconds: 5, packBlobId: "p2" });
    expect(mergedOf(0, [deleted], [small]).find(id)).to.deep.equal(small);
    expect(mergedOf(0, [great], [deleted], [small]).find(id)).to.deep.equal(great);
  });

  it("hides what was deleted at the watermark or before, but not what was deleted after it", () => {
    const list = [entryOf({ contentId: id, timestampSeconds: 100, deleted: true })];
    expect(mergedOf(99, list).find(id)).to.include({ deleted: true });
    expect(mergedOf(100, list).find(id)).to.equal(undefined);
    expect([...mergedOf(100, list).iterateAll()]).to.deep.equal([]);
  });

  it("does not let a live entry come back when the watermark hides the newer deleted one", () => {
    const live = entryOf({ contentId: id, timestampSeconds: 10 });
    const deleted = entryOf({ contentId: id, timestampSeconds: 20, deleted: true });
    expect(mergedOf(30, [live], [deleted]).find(id)).to.equal(undefined);
  });

  it("knows the newest time also of what the watermark hides, and of nothing else", () => {
    const merged = mergedOf(300, [entryOf({ contentId: id, timestampSeconds: 100, deleted: true })]);
    expect(merged.newestTimestampSeconds(id)).to.equal(100);
    expect(merged.newestTimestampSeconds(numberedId(2))).to.equal(undefined);
  });

  it("finds by id and by key, with or without building the entry", () => {
    const entry = entryOf({ contentId: id });
    const merged = mergedOf(0, [entry]);
    expect(merged.find(contentIdKey(id))).to.deep.equal(entry);
    expect(merged.locate(id)?.reader.packBlobIdAt(0)).to.equal(entry.packBlobId);
  });

  it("finds nothing while there is no index", () => {
    const merged = new MergedIndex();
    expect(merged.find(id)).to.equal(undefined);
    expect([...merged.iterateAll()]).to.deep.equal([]);
    expect(merged.sizeBytes).to.equal(0);
  });

  it("sees an added index at once, and counts it", () => {
    const merged = mergedOf(0, [entryOf({ contentId: id })]);
    merged.add(read([entryOf({ contentId: numberedId(2) })]));
    expect(merged.find(numberedId(2))).to.not.equal(undefined);
    expect([merged.indexCount, merged.entryCount]).to.deep.equal([2, 2]);
  });

  it("walks on over what there was when the walk began", () => {
    const merged = mergedOf(0, [entryOf({ contentId: id }), entryOf({ contentId: numberedId(2) })]);
    const walk = merged.iterateAll();
    walk.next();
    merged.replaceAll([], 0);
    expect(walk.next().value).to.include({ contentId: numberedId(2) });
    expect(merged.find(id)).to.equal(undefined);
  });

  it(`agrees with the rules applied one by one (SEED=${seed})`, () => {
    const cases = [fc.array(entryLists, { maxLength: 6 }), fc.nat(4), fc.array(contentIds)] as const;
    fc.assert(
      fc.property(...cases, (lists, watermarkSeconds, others) => {
        const merged = mergedOf(watermarkSeconds, ...lists);
        const expected = reference(lists, watermarkSeconds);
        for (const candidate of [...others, ...lists.flat().map((entry) => entry.contentId)]) {
          expect(comparable(merged.find(candidate))).to.deep.equal(comparable(expected.get(candidate)));
        }
        const sorted = [...expected.values()].sort(byKey);
        expect([...merged.iterateAll()].map(comparable)).to.deep.equal(sorted.map(comparable));
        for (const prefix of ["", "k", "m", "x"] as ContentPrefix[]) {
          expect([...merged.iteratePrefix(prefix)].map(comparable)).to.deep.equal(
            sorted.filter(({ contentId }) => prefixOf(contentId) === prefix).map(comparable),
          );
        }
      }),
      { seed, numRuns: 300 },
    );
  });
});

/** What the rules decide about: of two entries equal in these, either may win. */
function comparable(entry: ContentEntry | undefined) {
  return entry && ([entry.contentId, entry.timestampSeconds, entry.deleted, entry.packBlobId] as const);
}

function prefixOf(id: ContentId): string {
  return id.length % 2 === 1 ? id.charAt(0) : "";
}
