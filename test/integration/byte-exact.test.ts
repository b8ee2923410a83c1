/**
 * What is restored is what was there, byte for byte: every size that can go wrong, every kind of change, every kind of
 * source and target, and any member of a long chain of increments.
 */
import { copyFile, readFile } from "node:fs/promises";

import { expect } from "chai";

import type { ByteRange, ChangedRanges } from "../../services/datapath/cbt/changed-ranges.js";
import type { KopiaRepository } from "../../services/datapath/repository/kopia/kopia-repository.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { assertSameSparseBytes, type Extent } from "../support/data-extents.js";
import { skipUnlessLoopDevices } from "../support/loop-device.js";
import { Random, testSeed } from "../support/random-data.js";
import { newMemoryRepository, reopen } from "../support/memory-repository.js";
import { backUp, restoreTo } from "../support/repositories.js";
import { GiB, KiB, MiB } from "../support/sizes.js";
import { useTempDir, type TempDir } from "../support/temp-dir.js";
import { imageFile, loop512, loop4096, Volume, type VolumeKind } from "../support/volume.js";

const VOLUME_ID = "volume-1";

/** Volumes up to this size are filled and compared whole; larger ones have data here and there. */
const SMALL_BYTES = 8 * MiB;

const sizes: readonly { readonly title: string; readonly sizeBytes: number }[] = [
  { title: "512 B", sizeBytes: 512 },
  { title: "1 MiB − 512", sizeBytes: MiB - 512 },
  { title: "1 MiB", sizeBytes: MiB },
  { title: "1 MiB + 512", sizeBytes: MiB + 512 },
  { title: "5 MiB + 4096", sizeBytes: 5 * MiB + 4096 },
  { title: "3 GiB + 1536", sizeBytes: 3 * GiB + 1536 },
  { title: "sparse 100 GiB", sizeBytes: 100 * GiB },
];

describe("byte-exact", () => {
  const seed = testSeed();
  const temp = useTempDir();

  for (const kind of [imageFile, loop512, loop4096]) {
    describe(`${kind.title} (seed ${seed})`, () => {
      before(function () {
        if (kind !== imageFile) skipUnlessLoopDevices(this);
      });

      for (const { title, sizeBytes } of sizes) {
        // A device has whole sectors: on large ones the odd sizes are rounded up.
        const roundedBytes = Math.ceil(sizeBytes / kind.unitBytes) * kind.unitBytes;
        it(`restores ${title}${roundedBytes === sizeBytes ? "" : " in whole sectors"} after every kind of change`, async function () {
          this.timeout(180_000);
          await everyKindOfChange(temp, kind, roundedBytes, new Random(seed).fork(kind.title + title));
        });
      }

      it("restores any member of a chain of 20 random increments", async function () {
        this.timeout(180_000);
        await chainOfIncrements(temp, kind, new Random(seed).fork(kind.title + "chain"));
      });
    });
  }

  it("restores a volume of an odd size to larger devices, and leaves what lies behind it alone", async function () {
    skipUnlessLoopDevices(this);
    const random = new Random(seed).fork("behind");
    const volume = await Volume.create(temp, "source", imageFile, 2 * MiB + 1537);
    await volume.write({ offsetBytes: 0, lengthBytes: volume.sizeBytes }, random);
    const { repository } = await newMemoryRepository();
    const { snapshotId } = await backUp(repository, volume.path);
    await volume.write({ offsetBytes: MiB + 7, lengthBytes: volume.sizeBytes - MiB - 7 }, "zeros");
    const zeroTail = await backUp(repository, volume.path);
    for (const kind of [loop512, loop4096]) {
      for (const [id, isZeroTail] of [
        [snapshotId, false],
        [zeroTail.snapshotId, true],
      ] as const) {
        const target = await Volume.create(temp, `target-${kind.unitBytes}-${isZeroTail}`, kind, 4 * MiB);
        await target.write({ offsetBytes: 0, lengthBytes: target.sizeBytes }, random);
        const before = await target.copyTo(temp.file("before"));
        await restoreTo(repository, id, target.path);
        if (isZeroTail) await assertSameSparseBytes(volume.file, target.file, { lengthBytes: volume.sizeBytes });
        await assertSameTail(before, target.file, volume.sizeBytes);
      }
    }
    await repository.close();
  });
});

/** What a snapshot must restore to. */
interface Member {
  readonly name: string;
  readonly snapshotId: string;
  /** A copy of the volume as it was. */
  readonly file: string;
  readonly sizeBytes: number;
}

/** Backs a volume up again and again, each time with the changes since the last time, and keeps what it was. */
class Chain {
  readonly members: Member[] = [];

  constructor(
    private readonly temp: TempDir,
    private readonly repository: KopiaRepository,
    private readonly volume: Volume,
  ) {}

  /** @param changes undefined: a full backup */
  async add(name: string, changes?: readonly Extent[]): Promise<{ readonly objectId: string }> {
    const base = this.members.length;
    const result = await backUp(this.repository, this.volume.path, {
      parent: { kind: changes === undefined ? "none" : "auto" },
      changes: changes === undefined ? undefined : changedRanges(`change-${base - 1}`, changes),
      changeTracking: { changeId: `change-${base}`, volumeId: VOLUME_ID },
    });
    expect(result.type, `${name}: ${result.fallbackReason ?? ""}`).to.equal(
      changes === undefined ? "full" : "incremental",
    );
    expect(result.volumeSizeBytes, name).to.equal(this.volume.sizeBytes);
    const file = await this.volume.copyTo(this.temp.file(`state-${base}`));
    this.members.push({ name, snapshotId: result.snapshotId, file, sizeBytes: this.volume.sizeBytes });
    return result;
  }
}

function changedRanges(baseChangeId: string, extents: readonly Extent[]): ChangedRanges {
  return {
    baseChangeId,
    async *ranges(): AsyncGenerator<ByteRange> {
      yield* extents;
    },
  };
}

async function everyKindOfChange(temp: TempDir, kind: VolumeKind, sizeBytes: number, random: Random): Promise<void> {
  const unit = kind.sectorBytes ?? 512;
  const volume = await Volume.create(temp, "source", kind, sizeBytes);
  const { storage, repository } = await newMemoryRepository();
  const chain = new Chain(temp, repository, volume);
  for (const extent of initialExtents(sizeBytes, unit, random)) await volume.write(extent, random);
  await chain.add("full");

  const changes = randomExtents(3, volume.sizeBytes, random);
  for (const extent of changes) await volume.write(extent, random.chance(0.3) ? "zeros" : random);
  await chain.add("increment after a change", changes);

  const oldSize = volume.sizeBytes;
  await volume.resize(oldSize + MiB + 3 * unit);
  const grown = [
    { offsetBytes: oldSize, lengthBytes: unit },
    { offsetBytes: volume.sizeBytes - unit, lengthBytes: unit },
  ];
  for (const extent of grown) await volume.write(extent, random);
  await chain.add("grown, growth reported", grown);

  await volume.resize(volume.sizeBytes + 2 * unit);
  await volume.write({ offsetBytes: volume.sizeBytes - unit, lengthBytes: unit }, random);
  await chain.add("grown, growth not reported", []);

  await volume.resize(volume.sizeBytes - unit);
  await chain.add("shrunk within a chunk", []);

  // The end of what goes away holds data, which must not come back when the volume grows again.
  const beforeShrink = volume.sizeBytes;
  const cut = Math.min(beforeShrink - unit, MiB + 5 * unit);
  const tail = { offsetBytes: beforeShrink - cut, lengthBytes: cut };
  await volume.write(tail, random);
  await chain.add("tail overwritten", [tail]);
  await volume.resize(beforeShrink - cut);
  await chain.add("shrunk across a chunk", []);
  await volume.resize(beforeShrink);
  await chain.add("and grown again", []);

  const data = await volume.dataExtents();
  for (const extent of data) await volume.write(extent, "zeros");
  await chain.add("all zero", data);

  const everywhere =
    volume.sizeBytes <= SMALL_BYTES
      ? [{ offsetBytes: 0, lengthBytes: volume.sizeBytes }]
      : initialExtents(volume.sizeBytes, unit, random);
  for (const extent of everywhere) await volume.write(extent, random);
  const increment = await chain.add("no zero", everywhere);

  if (volume.sizeBytes <= SMALL_BYTES) {
    const full = await chain.add("no zero, full");
    expect(full.objectId, "a full backup and an increment of the same bytes").to.equal(increment.objectId);
    await volume.write({ offsetBytes: 0, lengthBytes: volume.sizeBytes }, "zeros");
    await chain.add("all zero, full");
  }
  await repository.close();
  await restoreEverywhere(temp, storage, chain.members, random);
}

/** A volume of random size changes at random, is resized now and then, and is backed up 20 times. */
async function chainOfIncrements(temp: TempDir, kind: VolumeKind, random: Random): Promise<void> {
  const unit = kind.unitBytes;
  const aligned = (bytes: number): number => Math.max(unit, bytes - (bytes % unit));
  const volume = await Volume.create(temp, "source", kind, aligned(random.between(1, 7 * MiB)));
  const { storage, repository } = await newMemoryRepository();
  const chain = new Chain(temp, repository, volume);
  for (const extent of randomExtents(6, volume.sizeBytes, random)) await volume.write(extent, random);
  await chain.add("full");
  for (let increment = 1; increment <= 20; increment++) {
    const reported: Extent[] = [];
    let name = `increment ${increment}`;
    if (random.chance(0.3)) {
      await volume.resize(aligned(random.between(1, random.chance(0.5) ? 2 * MiB : 7 * MiB)));
      name += `, resized to ${volume.sizeBytes}`;
    }
    for (const extent of randomExtents(random.below(4), volume.sizeBytes, random)) {
      await volume.write(extent, random.chance(0.3) ? "zeros" : random);
      reported.push(extent);
    }
    // What trackers do: nothing changed there, beyond the end, empty, twice, in any order.
    if (random.chance(0.3)) reported.push(...randomExtents(2, volume.sizeBytes, random));
    if (random.chance(0.2)) reported.push({ offsetBytes: volume.sizeBytes, lengthBytes: 3 * MiB });
    if (random.chance(0.2)) reported.push({ offsetBytes: random.below(volume.sizeBytes), lengthBytes: 0 });
    if (random.chance(0.2)) reported.push(...reported);
    await chain.add(
      name,
      reported.sort(() => random.fraction() - 0.5),
    );
  }
  await repository.close();
  await restoreEverywhere(temp, storage, chain.members, random);
}

/** Restores every member, from a repository opened anew, to every kind of target. */
async function restoreEverywhere(
  temp: TempDir,
  storage: BlobStorage,
  members: readonly Member[],
  random: Random,
): Promise<void> {
  const largest = Math.max(...members.map(({ sizeBytes }) => sizeBytes));
  const deviceBytes = Math.ceil(largest / MiB) * MiB;
  const withDevices = process.getuid?.() === 0;
  const devices = withDevices
    ? [
        await Volume.create(temp, "device-512", loop512, deviceBytes),
        await Volume.create(temp, "device-4096", loop4096, deviceBytes),
      ]
    : [];
  const repository = await reopen(storage);
  for (const [position, { name, snapshotId, file, sizeBytes }] of members.entries()) {
    const check = async (target: string, title: string, same: () => Promise<void>): Promise<void> => {
      try {
        const result = await restoreTo(repository, snapshotId, target, { force: true });
        expect(result.volumeSizeBytes).to.equal(sizeBytes);
        expect(result.writtenBytes + result.zeroedBytes + result.skippedBytes).to.equal(sizeBytes);
        await same();
      } catch (error) {
        throw new Error(`${name}, ${title}: ${error instanceof Error ? error.message : String(error)}`, {
          cause: error,
        });
      }
    };
    const fresh = temp.file(`fresh-${position}`);
    await check(fresh, "to a new file", () => assertSameSparseBytes(file, fresh));

    // Large ones take turns, small ones go to all targets.
    const device = devices[position % 2];
    if (device !== undefined && (sizeBytes <= SMALL_BYTES || position % 3 === 1)) {
      for (const extent of garbageExtents(device.sizeBytes, random)) await device.write(extent, random);
      await check(device.path, `to ${device.path} with garbage`, () =>
        assertSameSparseBytes(file, device.file, { lengthBytes: sizeBytes }),
      );
    }
    if (sizeBytes <= SMALL_BYTES || position % 3 === 2) {
      const extraBytes = random.chance(0.5) ? 0 : random.between(1, 9000);
      const garbage = await Volume.create(temp, `garbage-${position}`, imageFile, sizeBytes + extraBytes);
      for (const extent of garbageExtents(garbage.sizeBytes, random)) await garbage.write(extent, random);
      const before = temp.file(`garbage-before-${position}`);
      if (sizeBytes <= SMALL_BYTES) await copyFile(garbage.file, before);
      await check(garbage.path, "to a file with garbage", async () => {
        await assertSameSparseBytes(file, garbage.file, { lengthBytes: sizeBytes });
        if (sizeBytes <= SMALL_BYTES) await assertSameTail(before, garbage.file, sizeBytes);
      });
    }
  }
  await repository.close();
}

/** Data at both edges and in between: whole chunks, parts, over the border of two. */
function initialExtents(sizeBytes: number, unit: number, random: Random): Extent[] {
  const edge = Math.min(sizeBytes, 64 * KiB);
  return [
    { offsetBytes: 0, lengthBytes: edge },
    { offsetBytes: sizeBytes - edge, lengthBytes: edge },
    ...(sizeBytes > 2 * MiB ? [{ offsetBytes: MiB - unit, lengthBytes: MiB }] : []),
    ...randomExtents(sizeBytes <= SMALL_BYTES ? 2 : 8, sizeBytes, random),
  ];
}

/** `count` places of 1 byte to 1.5 MiB. */
function randomExtents(count: number, sizeBytes: number, random: Random): Extent[] {
  return Array.from({ length: count }, () => {
    const lengthBytes = Math.min(sizeBytes, random.between(1, random.pick([1, 4 * KiB, 1.5 * MiB])));
    return { offsetBytes: random.below(sizeBytes - lengthBytes + 1), lengthBytes };
  });
}

/** All of a small target; of a large one the places where volumes have data, and some where they have none. */
function garbageExtents(sizeBytes: number, random: Random): Extent[] {
  if (sizeBytes <= 2 * SMALL_BYTES) return [{ offsetBytes: 0, lengthBytes: sizeBytes }];
  return initialExtents(sizeBytes, 512, random);
}

async function assertSameTail(before: string, after: string, fromBytes: number): Promise<void> {
  const [left, right] = [await readFile(before), await readFile(after)];
  expect(right.length).to.equal(left.length);
  expect(right.subarray(fromBytes).equals(left.subarray(fromBytes)), "what lies behind the volume").to.equal(true);
}
