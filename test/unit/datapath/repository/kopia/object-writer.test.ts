import { expect } from "chai";
import type { ContentId } from "../../../../../services/datapath/repository/kopia/content-id.js";
import type { KopiaRepository } from "../../../../../services/datapath/repository/kopia/kopia-repository.js";
import { CHUNK_SIZE_BYTES as CHUNK } from "../../../../../services/common/chunk.js";
import type { NewObjectOptions, ObjectEntry } from "../../../../../services/datapath/repository/repository.js";
import { newMemoryRepository } from "../../../../support/memory-repository.js";
import { Random, testSeed } from "../../../../support/random-data.js";

/** Chunks by their position; everything else is not written. */
type Chunks = Readonly<Record<number, Uint8Array | "zero">>;

async function write(repository: KopiaRepository, options: NewObjectOptions, chunks: Chunks): Promise<string> {
  const writer = repository.newObjectWriter(options);
  const calls = Object.entries(chunks).map(([position, bytes]) =>
    writer.writeAt([{ offsetBytes: Number(position) * CHUNK, bytes }]),
  );
  await Promise.all(calls);
  const objectId = await writer.result();
  await repository.flush();
  return objectId;
}

async function entriesOf(repository: KopiaRepository, objectId: string): Promise<ObjectEntry[]> {
  const entries: ObjectEntry[] = [];
  for await (const batch of (await repository.openObject(objectId)).entries()) entries.push(...batch);
  return entries;
}

async function read(repository: KopiaRepository, objectId: string): Promise<Buffer> {
  const object = await repository.openObject(objectId);
  const parts: Buffer[] = [];
  for (const entry of await entriesOf(repository, objectId)) {
    const target = Buffer.alloc(entry.lengthBytes);
    await object.read([{ entry, target }]);
    parts.push(target);
  }
  return Buffer.concat(parts);
}

describe("KopiaObjectWriter", () => {
  const seed = testSeed();
  const random = new Random(seed);
  const chunk = (fill: number): Buffer => Buffer.alloc(CHUNK, fill);
  let repository: KopiaRepository;

  beforeEach(async () => {
    ({ repository } = await newMemoryRepository());
  });
  afterEach(() => repository.close());

  it("fills what is skipped with zeros when there is no parent, with one stored chunk of zeros", async () => {
    const id = await write(repository, { volumeSizeBytes: 5 * CHUNK }, { 1: chunk(1), 3: "zero" });
    expect(await read(repository, id)).to.deep.equal(Buffer.concat([chunk(0), chunk(1), chunk(0), chunk(0), chunk(0)]));
    const entries = await entriesOf(repository, id);
    expect(entries.map((entry) => entry.isZero)).to.deep.equal([true, false, true, true, true]);
    expect(new Set(entries.map((entry) => entry.contentId)).size).to.equal(2);
  });

  it("makes an indirect object even of one chunk, as Velero's block mover expects", async () => {
    const id = await write(repository, { volumeSizeBytes: 512 }, { 0: chunk(7) });
    expect(id).to.match(/^Ix[0-9a-f]{32}$/);
    expect(await entriesOf(repository, id)).to.have.length(1);
  });

  it("takes the parent's entries for what is skipped, zeros included over the parent's data", async () => {
    const parent = await write(repository, { volumeSizeBytes: 4 * CHUNK }, { 0: chunk(1), 1: chunk(2), 3: chunk(4) });
    const child = await write(
      repository,
      { volumeSizeBytes: 4 * CHUNK, parentObjectId: parent },
      { 1: "zero", 2: chunk(9) },
    );
    expect(await read(repository, child)).to.deep.equal(Buffer.concat([chunk(1), chunk(0), chunk(9), chunk(4)]));
  });

  it("grows with zeros beyond the parent's end, and shrinks by leaving entries out", async () => {
    const parent = await write(repository, { volumeSizeBytes: 2 * CHUNK }, { 0: chunk(1), 1: chunk(2) });
    const grown = await write(repository, { volumeSizeBytes: 4 * CHUNK, parentObjectId: parent }, {});
    expect(await read(repository, grown)).to.deep.equal(Buffer.concat([chunk(1), chunk(2), chunk(0), chunk(0)]));
    const shrunk = await write(repository, { volumeSizeBytes: CHUNK, parentObjectId: grown }, {});
    expect(await read(repository, shrunk)).to.deep.equal(chunk(1));
  });

  it("stores equal chunks once, in one call, in overlapping calls and in later objects", async () => {
    const writer = repository.newObjectWriter({ volumeSizeBytes: 6 * CHUNK });
    await Promise.all([
      writer.writeAt([
        { offsetBytes: 0, bytes: chunk(5) },
        { offsetBytes: CHUNK, bytes: chunk(5) },
      ]),
      writer.writeAt([{ offsetBytes: 2 * CHUNK, bytes: chunk(5) }]),
    ]);
    await writer.result();
    await repository.flush();
    expect(writer.stats.newContentBytes).to.equal(CHUNK);
    expect(writer.stats.deduplicatedBytes).to.equal(2 * CHUNK);
    const again = repository.newObjectWriter({ volumeSizeBytes: CHUNK });
    await again.writeAt([{ offsetBytes: 0, bytes: chunk(5) }]);
    await again.result();
    expect(again.stats.newContentBytes).to.equal(0);
  });

  it("gives the same object id to the same volume, written in full or as an increment", async () => {
    const parent = await write(repository, { volumeSizeBytes: 3 * CHUNK }, { 0: chunk(1), 2: chunk(3) });
    const child = await write(repository, { volumeSizeBytes: 3 * CHUNK, parentObjectId: parent }, { 1: chunk(2) });
    const full = await write(repository, { volumeSizeBytes: 3 * CHUNK }, { 0: chunk(1), 1: chunk(2), 2: chunk(3) });
    expect(child).to.equal(full);
  });

  it("makes a table of pieces for a large volume, and reads it back through the tables", async () => {
    const chunkCount = 5000; // 350 KB of table: three pieces of 128 KiB
    const id = await write(repository, { volumeSizeBytes: chunkCount * CHUNK }, { 2500: chunk(8), 4999: chunk(9) });
    expect(id).to.match(/^IIx/);
    const entries = await entriesOf(repository, id);
    expect(entries).to.have.length(chunkCount);
    expect(entries.filter((entry) => !entry.isZero).map((entry) => entry.offsetBytes / CHUNK)).to.deep.equal([
      2500, 4999,
    ]);
    const child = await write(
      repository,
      { volumeSizeBytes: chunkCount * CHUNK, parentObjectId: id },
      { 2500: chunk(10) },
    );
    const object = await repository.openObject(child);
    const pieces: ContentId[] = [];
    for await (const piece of object.tableContents()) pieces.push(piece);
    const before: ContentId[] = [];
    for await (const piece of (await repository.openObject(id)).tableContents()) before.push(piece);
    expect(pieces.filter((piece) => !before.includes(piece))).to.have.length(2); // one piece, and the table of pieces
  });

  it("makes a checkpoint of what was written so far, without disturbing the rest", async () => {
    const writer = repository.newObjectWriter({ volumeSizeBytes: 4 * CHUNK });
    expect(await writer.checkpoint()).to.equal(undefined);
    await writer.writeAt([{ offsetBytes: 0, bytes: chunk(1) }]);
    const checkpoint = (await writer.checkpoint()) as string;
    await writer.writeAt([{ offsetBytes: 2 * CHUNK, bytes: chunk(3) }]);
    const id = await writer.result();
    await repository.flush();
    expect(await read(repository, checkpoint)).to.deep.equal(chunk(1));
    expect(await read(repository, id)).to.deep.equal(Buffer.concat([chunk(1), chunk(0), chunk(3), chunk(0)]));
  });

  it("refuses chunks out of order, unaligned, too short or beyond the volume", async () => {
    const attempts: [number, Uint8Array][] = [
      [CHUNK, chunk(1).subarray(1)],
      [512, chunk(1)],
      [4 * CHUNK, chunk(1)],
    ];
    for (const [offsetBytes, bytes] of attempts) {
      const writer = repository.newObjectWriter({ volumeSizeBytes: 4 * CHUNK });
      const outcome = await writer.writeAt([{ offsetBytes, bytes }]).catch((error: unknown) => error);
      expect(outcome, `offset ${offsetBytes}`).to.be.instanceOf(Error);
      await writer.abort();
    }
    const writer = repository.newObjectWriter({ volumeSizeBytes: 4 * CHUNK });
    await writer.writeAt([{ offsetBytes: CHUNK, bytes: chunk(1) }]);
    expect(await writer.writeAt([{ offsetBytes: CHUNK, bytes: chunk(1) }]).catch(String)).to.match(/ascending/);
    await writer.abort();
  });

  it(`equals a model for random chains of full and incremental objects (seed ${seed})`, async () => {
    let model: number[] = [];
    let parent: string | undefined;
    const distinct = new Map<number, Buffer>();
    for (let round = 0; round < 12; round++) {
      const chunkCount = random.between(1, 24);
      const isFull = parent === undefined || random.chance(0.2);
      const next = Array.from({ length: chunkCount }, (_, i) => (isFull ? 0 : (model[i] ?? 0)));
      const chunks: Record<number, Uint8Array | "zero"> = {};
      for (let i = 0; i < chunkCount; i++) {
        if (random.chance(0.4)) {
          const value = random.below(5);
          next[i] = value;
          if (!distinct.has(value)) distinct.set(value, value === 0 ? chunk(0) : random.bytes(CHUNK));
          chunks[i] = value === 0 ? "zero" : (distinct.get(value) as Buffer);
        }
      }
      distinct.set(0, chunk(0));
      parent = await write(
        repository,
        { volumeSizeBytes: chunkCount * CHUNK, parentObjectId: isFull ? undefined : parent },
        chunks,
      );
      model = next;
      const expected = Buffer.concat(model.map((value) => distinct.get(value) as Buffer));
      expect((await read(repository, parent)).equals(expected), `round ${round}`).to.equal(true);
    }
  });
});
