/**
 * The same bytes are the same contents, whoever writes them; and whatever layout Kopia gives an object, we read its bytes.
 */
import { copyFile, mkdir, truncate, writeFile } from "node:fs/promises";
import path from "node:path";

import { expect } from "chai";

import { compressions } from "../../services/datapath/repository/kopia/compression.js";
import { kopiaVersions, skipUnlessKopia, type Kopia } from "../support/kopia.js";
import { sparseFile } from "../support/loop-device.js";
import { Random, testSeed, writeRandom } from "../support/random-data.js";
import { KiB, MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import {
  expectObjectReads,
  expectSound,
  expectTreeReads,
  listContents,
  readDirectoryObject,
  snapshotTree,
  tableShownByKopia,
  type KnownTree,
  type TableRow,
} from "./expectations.js";
import { SharedRepository } from "./shared-repository.js";
import { TestVolume } from "./test-volume.js";

const seed = testSeed();

const splitters = [
  "FIXED-128K",
  "FIXED-1M",
  "FIXED-8M",
  "DYNAMIC-128K-BUZHASH",
  "DYNAMIC-1M-BUZHASH",
  "DYNAMIC-4M-BUZHASH",
  "DYNAMIC-512K-RABINKARP",
  "DYNAMIC-8M-RABINKARP",
];

for (const version of kopiaVersions) {
  describe(`contents and objects, by us and by Kopia ${version} (SEED=${seed})`, function () {
    this.timeout(120_000);
    const temp = useTempDir();
    const random = new Random(seed).fork(version);
    let repository: SharedRepository;

    before(function () {
      skipUnlessKopia(this, version);
    });

    beforeEach(() => {
      repository = new SharedRepository({ version, scratch: temp.path });
    });

    /** Object ids of the files in a snapshot that Kopia made, by name. */
    async function objectsOf(tree: KnownTree): Promise<Map<string, string>> {
      return repository.withOpen(async (opened) => {
        const { rootObjectId } = await opened.getSnapshot(tree.id);
        const { entries } = await readDirectoryObject(opened, rootObjectId);
        return new Map(entries.map(({ name, obj }) => [name!, obj]));
      });
    }

    const idsOf = (rows: readonly TableRow[]): string[] => rows.map(({ o }) => o);

    describe("under FIXED-1M", () => {
      let kopia: Kopia;
      let whole: TestVolume;
      let irregular: TestVolume;
      let directory: string;

      beforeEach(async () => {
        kopia = await repository.createByKopia({ splitter: "FIXED-1M" });
        // Random chunks, a repeated one, zeros inside and at the end.
        whole = await TestVolume.create({ repository, name: "whole", sizeBytes: 7 * MiB, random, isZero: true });
        await whole.write({ offset: 0, length: 3 * MiB });
        await whole.write({ offset: 5 * MiB, length: MiB });
        irregular = await TestVolume.create({ repository, name: "irregular", sizeBytes: 3 * MiB + 4096, random });
        directory = await repository.makeDirectory("images");
        await whole.copyTo(path.join(directory, "whole"));
        await irregular.copyTo(path.join(directory, "irregular"));
      });

      it("finds everything that Kopia wrote, and gives it Kopia's ids", async () => {
        const objects = await objectsOf(await snapshotTree(kopia, directory));
        const mine = { whole: await whole.backUp(), irregular: await irregular.backUp() };

        // The table too is the same content: order of fields, omitted zero, newline.
        expect(mine.whole.report.objectId).to.equal(objects.get("whole"));
        expect(mine.whole.report.newContentBytes).to.equal(0);

        const theirs = idsOf(await tableShownByKopia(kopia, objects.get("irregular")!));
        const ours = idsOf(await tableShownByKopia(kopia, mine.irregular.report.objectId));
        expect(ours).to.have.length(4);
        expect(ours.slice(0, 3)).to.deep.equal(theirs.slice(0, 3));
        expect(ours[3], "the last chunk is padded, so it is another").to.not.equal(theirs[3]);
        expect(mine.irregular.report.newContentBytes, "the last chunk").to.equal(MiB);

        // With the same padding it is the same again.
        const padded = await repository.makeDirectory("padded");
        await irregular.copyTo(path.join(padded, "irregular"));
        await truncate(path.join(padded, "irregular"), 4 * MiB);
        const paddedObjects = await objectsOf(await snapshotTree(kopia, padded));
        expect(mine.irregular.report.objectId).to.equal(paddedObjects.get("irregular"));
        await expectSound(repository);
      });

      it("writes what Kopia then finds", async () => {
        await whole.backUp();
        const before = new Set((await listContents(kopia, ["--non-prefixed"])).map(({ contentID }) => contentID));
        expect(before.size, "four random chunks and the zero chunk").to.equal(5);
        await snapshotTree(kopia, directory);
        const after = (await listContents(kopia, ["--non-prefixed"])).map(({ contentID }) => contentID);
        // Of `irregular`: three whole chunks and a last one that Kopia does not pad.
        expect(after.filter((id) => !before.has(id))).to.have.length(4);
        await expectSound(repository);
      });

      it("gives a volume of one chunk a table of one entry, and the content Kopia's id", async () => {
        const chunk = await TestVolume.create({ repository, name: "chunk", sizeBytes: MiB, random });
        const chunkDirectory = await repository.makeDirectory("chunk");
        await chunk.copyTo(path.join(chunkDirectory, "chunk"));
        const objects = await objectsOf(await snapshotTree(kopia, chunkDirectory));
        const { report } = await chunk.backUp();
        expect(report.newContentBytes).to.equal(0);
        expect(await tableShownByKopia(kopia, report.objectId)).to.deep.equal([{ l: MiB, o: objects.get("chunk") }]);
      });
    });

    it("reads files of many sizes, cut by every kind of splitter", async () => {
      const kopia = await repository.createByKopia();
      const sizes = [0, 1, 1000, 128 * KiB, MiB - 1, MiB, MiB + 1, 5 * MiB + 3, 9 * MiB];
      const directories: string[] = [];
      for (const splitter of splitters) {
        const directory = await repository.makeDirectory(splitter);
        for (const size of sizes) await writeFile(path.join(directory, `random-${size}`), random.bytes(size));
        await sparseFile(path.join(directory, "zeros"), 3 * MiB + 7);
        await kopia.runOrThrow(["policy", "set", directory, `--splitter=${splitter}`]);
        directories.push(directory);
      }
      await expectTreesRead(kopia, directories);
    });

    it("reads a large file that Kopia uploaded in parts at the same time", async () => {
      const kopia = await repository.createByKopia();
      const directory = await repository.makeDirectory("parts");
      await writeRandom(path.join(directory, "large"), random, { lengthBytes: 17 * MiB + 5 });
      await kopia.runOrThrow(["policy", "set", directory, "--parallel-upload-above-size-mib=4"]);
      await expectTreesRead(kopia, [directory]);
      const objects = await objectsOf(await snapshotTree(kopia, directory));
      const starts = (await tableShownByKopia(kopia, objects.get("large")!)).map(({ s }) => s);
      expect(starts, "where parts begin, in a file cut by its content").to.include.members([
        4 * MiB,
        8 * MiB,
        12 * MiB,
      ]);
    });

    it("reads a file whose table is an object with a table", async () => {
      // The table is cut by the repository's splitter: more than 128 KiB of it need a table of their own.
      const kopia = await repository.createByKopia({ splitter: "FIXED-128K" });
      const directory = await repository.makeDirectory("deep");
      const file = await sparseFile(path.join(directory, "deep"), 300 * MiB + 17);
      for (let i = 0; i < 20; i++) {
        const offsetBytes = random.below(300 * MiB);
        await writeRandom(file, random, { offsetBytes, lengthBytes: random.between(1, 17) });
      }
      const objects = await objectsOf(await snapshotTree(kopia, directory));
      expect(objects.get("deep")).to.match(/^IIx/);
      await repository.withOpen((opened) => expectObjectReads(opened, objects.get("deep")!, file));
    });

    it("reads what every compressor of Kopia wrote, data and metadata", async () => {
      const kopia = await repository.createByKopia({ splitter: "DYNAMIC-1M-BUZHASH" });
      // Kopia 0.23 still knows the name lz4, but no longer writes it.
      const wanted = compressions.filter(({ family }) => family !== "lz4" || version.startsWith("v0.22."));
      const directories: string[] = [];
      for (const { name } of wanted) {
        const directory = await repository.makeDirectory(name);
        await mkdir(path.join(directory, "inner"));
        for (const size of [1, 300, 70_000, MiB, 4 * MiB + 11]) {
          await writeFile(path.join(directory, `text-${size}`), compressibleBytes(random, size));
        }
        await writeFile(path.join(directory, "inner", "random"), random.bytes(2 * MiB));
        await copyFile(path.join(directory, "inner", "random"), path.join(directory, "inner", "again"));
        await kopia.runOrThrow(["policy", "set", directory, `--compression=${name}`, `--metadata-compression=${name}`]);
        directories.push(directory);
      }
      await expectTreesRead(kopia, directories);

      const contents = await listContents(kopia);
      for (const prefixes of ["data", "metadata"]) {
        const used = contents
          .filter(({ contentID }) => (contentID.length % 2 === 1) === (prefixes === "metadata"))
          .map(({ compression }) => compression);
        expect(
          wanted.filter(({ id }) => !used.includes(id)).map(({ name }) => name),
          `compressors not used for ${prefixes}`,
        ).to.deep.equal([]);
      }
    });

    /** Kopia makes a snapshot of each directory, and we read all files of all. */
    async function expectTreesRead(kopia: Kopia, directories: readonly string[]): Promise<void> {
      await kopia.runOrThrow(["snapshot", "create", ...directories]);
      const listed = (await kopia.runJson(["snapshot", "list", "--all", "--json"])) as {
        id: string;
        source: { path: string };
      }[];
      const byDirectory = new Map(listed.map(({ id, source }) => [source.path, id]));
      await repository.withOpen(async (opened) => {
        for (const directory of directories) {
          const { rootObjectId } = await opened.getSnapshot(byDirectory.get(directory) ?? "none");
          await expectTreeReads(opened, rootObjectId, directory);
        }
      });
    }
  });
}

/** Words from a small dictionary: shrinks to a third or so, and differs from call to call. */
function compressibleBytes(random: Random, sizeBytes: number): Buffer {
  const words = Array.from({ length: 64 }, () => random.bytes(random.between(2, 12)).toString("base64"));
  const parts: string[] = [];
  for (let length = 0; length < sizeBytes;) {
    const word = `${random.pick(words)} `;
    parts.push(word);
    length += word.length;
  }
  return Buffer.from(parts.join("")).subarray(0, sizeBytes);
}
