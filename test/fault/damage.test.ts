/**
 * Damaged repositories, full disks, failing devices: each an error that names the thing, with exit status 1, never
 * wrong data, and nothing that was good before is worse afterwards.
 */
import { cp, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import path from "node:path";

import { expect } from "chai";

import { BlockmoverError } from "../../services/common/errors.js";
import { runCli, runCliOrThrow, type CliResult } from "../support/cli.js";
import { assertSameBytes } from "../support/compare.js";
import { FailingFile, skipUnlessFuse } from "../support/failing-file/failing-file.js";
import { flipBit } from "../support/flip-bit.js";
import { LoopDevice, skipUnlessLoopDevices, sparseFile } from "../support/loop-device.js";
import { Random, testSeed, writeRandom } from "../support/random-data.js";
import {
  backUp,
  blobFiles,
  createRepository,
  openRepository,
  PASSWORD,
  restoreTo,
  sessionMarkers,
  temporaryFiles,
  withRepository,
} from "../support/repositories.js";
import { runOrThrow } from "../support/run.js";
import { MiB } from "../support/sizes.js";
import { skipUnlessRoot } from "../support/skip.js";
import { useTempDir } from "../support/temp-dir.js";
import { mountTmpfs } from "../support/tmpfs.js";

const VOLUME_BYTES = 12 * MiB + 512;

const cli = (...args: readonly string[]): Promise<CliResult> =>
  runCli(args, { env: { BLOCKMOVER_PASSWORD: PASSWORD } });

describe("a damaged repository", () => {
  const seed = testSeed();
  const random = new Random(seed).fork("damage");
  const temp = useTempDir();
  let repository: string;
  let image: string;
  let snapshotId: string;

  beforeEach(async () => {
    image = await sparseFile(temp.file("volume"), VOLUME_BYTES);
    await writeRandom(image, random, { lengthBytes: 5 * MiB });
    await writeRandom(image, random, { offsetBytes: 9 * MiB, lengthBytes: 2 * MiB });
    repository = await createRepository(temp.file("repository"));
    ({ snapshotId } = await withRepository(repository, (opened) => backUp(opened, image)));
  });

  const restoreByCli = (): Promise<CliResult> =>
    cli("restore", snapshotId, temp.file("restored"), "--repo", repository);
  const expectRefusal = async (result: CliResult, ...texts: readonly (string | RegExp)[]): Promise<void> => {
    expect(result.code, result.stderr).to.equal(1);
    for (const text of texts) expect(result.stderr).to.match(new RegExp(text));
    expect(result.stderr).to.not.match(/\n\s+at /); // a text for people, not a stack
    expect(await stat(temp.file("restored")).catch(() => undefined), "a half-restored file").to.equal(undefined);
  };
  /** The only blob, or the one in the middle, of a kind that the backup has written. */
  const blobOf = async (prefix: string): Promise<{ readonly id: string; readonly path: string }> => {
    const blobs = await blobFiles(repository, prefix);
    const blob = blobs[Math.floor(blobs.length / 2)];
    if (blob === undefined) throw new Error(`no blob ${prefix}`);
    return blob;
  };

  it("says so when the format blob is damaged, cut short or missing", async () => {
    const { path: file } = await blobOf("kopia.repository");
    const good = await readFile(file);
    const text = good.toString();
    const sealed = /"encryptedBlockFormat": *"(.)/.exec(text);
    const at = (sealed?.index ?? 0) + (sealed?.[0].length ?? 0) + 40;
    await writeFile(file, text.slice(0, at) + (text[at] === "A" ? "B" : "A") + text.slice(at + 1));
    await expectRefusal(await restoreByCli(), "password|kopia.repository");
    await truncate(file, 100);
    await expectRefusal(await restoreByCli(), "kopia.repository");
    await rm(file);
    await expectRefusal(await restoreByCli(), "no repository");
    await writeFile(file, good);
    expect((await restoreByCli()).code).to.equal(0);
  });

  it("refuses a wrong password", async () => {
    const result = await runCli(["restore", snapshotId, temp.file("restored"), "--repo", repository], {
      env: { BLOCKMOVER_PASSWORD: "guess" },
    });
    await expectRefusal(result, "password");
    expect(result.stderr).to.not.contain("guess");
  });

  it("names an index blob that is damaged, cut short or missing", async () => {
    for (const { id, path: file } of await blobFiles(repository, "xn")) {
      const good = await readFile(file);
      await flipBit(file, random.below(good.length));
      await expectRefusal(await restoreByCli(), id);
      await truncate(file, good.length - 5);
      await expectRefusal(await restoreByCli(), id);
      await writeFile(file, good);
    }
    for (const { path: file } of await blobFiles(repository, "xn")) await rm(file);
    await expectRefusal(await restoreByCli(), `snapshot ${snapshotId}`);
  });

  it("names a data pack that is cut short or missing, and the content that is damaged", async () => {
    const { id, path: file } = await blobOf("p");
    const good = await readFile(file);
    await flipBit(file, 2 * MiB);
    await expectRefusal(await restoreByCli(), id, /content [0-9a-f]{32}/);
    await truncate(file, 2 * MiB);
    await expectRefusal(await restoreByCli(), id);
    await rm(file);
    await expectRefusal(await restoreByCli(), id);
    await writeFile(file, good);
    expect((await restoreByCli()).code).to.equal(0);
    await assertSameBytes(image, temp.file("restored"));
  });

  it("names a metadata pack that is missing", async () => {
    for (const { id, path: file } of await blobFiles(repository, "q")) {
      const good = await readFile(file);
      await rm(file);
      await expectRefusal(await restoreByCli(), id);
      await writeFile(file, good);
    }
  });

  it("is found by verify, which tells every damaged content and exits with 1", async () => {
    const { id, path: file } = await blobOf("p");
    await flipBit(file, 1.5 * MiB);
    await flipBit(file, 3.5 * MiB);
    const result = await cli("snapshot", "verify", "--repo", repository);
    expect(result.code).to.equal(1);
    expect(result.stderr.match(new RegExp(`content [0-9a-f]+ in pack ${id} is damaged`, "g"))).to.have.length(2);
    expect(result.stderr).to.contain(snapshotId);
  });

  it("still takes backups, and keeps the snapshots that the damage does not touch", async () => {
    const other = await sparseFile(temp.file("other"), 2 * MiB);
    await writeRandom(other, random, { lengthBytes: 2 * MiB });
    const { path: file } = await blobOf("p");
    await flipBit(file, 2 * MiB);
    const made = await withRepository(repository, (opened) => backUp(opened, other));
    await withRepository(repository, (opened) => restoreTo(opened, made.snapshotId, temp.file("other-restored")));
    await assertSameBytes(other, temp.file("other-restored"));
  });

  for (const prefix of ["p", "q", "xn"]) {
    it(`restores exactly or not at all with any one bit flipped in a blob ${prefix}… (seed ${seed})`, async () => {
      const blobs = await blobFiles(repository, prefix);
      const target = temp.file("swept");
      let refusals = 0;
      for (let round = 0; round < 25; round++) {
        const { id, path: file } = random.pick(blobs);
        const at = random.below((await stat(file)).size);
        await flipBit(file, at);
        try {
          await withRepository(repository, (opened) => restoreTo(opened, snapshotId, target));
          await assertSameBytes(image, target);
        } catch (error) {
          expect(error, `byte ${at} of ${id}`).to.be.instanceOf(BlockmoverError);
          expect((error as BlockmoverError).code, `byte ${at} of ${id}: ${String(error)}`).to.equal("DATA_LOSS");
          refusals++;
        } finally {
          await flipBit(file, at);
          await rm(target, { force: true });
        }
      }
      expect(refusals, "flips that mattered").to.be.above(0);
    });
  }
});

describe("a backup or restore that cannot be finished", () => {
  const seed = testSeed();
  const random = new Random(seed).fork("unfinished");
  const temp = useTempDir();
  let image: string;

  beforeEach(async () => {
    image = await sparseFile(temp.file("volume"), VOLUME_BYTES);
    await writeRandom(image, random, { lengthBytes: 5 * MiB });
  });

  const firstBackup = async (repository: string): Promise<string> =>
    (await withRepository(repository, (opened) => backUp(opened, image))).snapshotId;
  /** The snapshot is the only one, whole, and restores; nobody seems to be writing. */
  const expectUnharmed = async (repository: string, snapshotId: string): Promise<void> => {
    expect(await sessionMarkers(repository)).to.deep.equal([]);
    expect(await temporaryFiles(repository)).to.deep.equal([]);
    const listed = (await runCliOrThrow(["snapshot", "list", "--repo", repository, "--json"], {
      env: { BLOCKMOVER_PASSWORD: PASSWORD },
    }).then((result) => result.jsonResult())) as { snapshots?: { snapshotId: string }[] };
    expect(listed.snapshots?.map((snapshot) => snapshot.snapshotId)).to.deep.equal([snapshotId]);
    const verified = await cli("snapshot", "verify", "--repo", repository);
    expect(verified.code, verified.stderr).to.equal(0);
    const opened = await openRepository(repository);
    try {
      await restoreTo(opened, snapshotId, temp.file("unharmed"));
    } finally {
      await opened.close();
    }
    await assertSameBytes(image, temp.file("unharmed"));
  };

  it("stops with the reason when the repository's disk is full", async function () {
    skipUnlessRoot(this);
    const small = temp.file("small");
    const mount = await mountTmpfs(small, 48 * MiB);
    temp.defer(() => mount.unmount());
    const repository = await createRepository(path.join(small, "repository"));
    const snapshotId = await firstBackup(repository);
    const large = await sparseFile(temp.file("large"), 100 * MiB);
    await writeRandom(large, random, { lengthBytes: 100 * MiB });
    const result = await cli("backup", large, "--repo", repository, "--source", "a/b");
    expect(result.code, result.stderr).to.equal(1);
    expect(result.stderr)
      .to.match(/cannot write blob [pq]/)
      .and.to.match(/space|full/i);
    await expectUnharmed(repository, snapshotId);
  });

  it("names device and place when the device cannot be read, as a file and behind a loop device", async function () {
    skipUnlessLoopDevices(this);
    await skipUnlessFuse(this);
    const repository = await createRepository(temp.file("repository"));
    const snapshotId = await firstBackup(repository);
    const failing = await FailingFile.mount({ backingFile: image, directory: temp.file("failing") });
    temp.defer(() => failing.unmount());
    const loop = await LoopDevice.attach(failing.imagePath);
    temp.defer(() => loop.detach());
    await failing.failReads({ offsetBytes: 3 * MiB + 4096, lengthBytes: 512 });
    for (const source of [failing.imagePath, loop.path]) {
      const result = await cli("backup", source, "--repo", repository, "--source", "a/b");
      expect(result.code, result.stderr).to.equal(1);
      expect(result.stderr)
        .to.contain(source)
        .and.to.match(/offset 31\d{5}/)
        .and.to.contain("EIO");
    }
    await failing.clear();
    await expectUnharmed(repository, snapshotId);
  });

  it("says that a repository is read-only, which can still be listed and restored from", async function () {
    skipUnlessRoot(this);
    const place = temp.file("place");
    const mount = await mountTmpfs(place, 64 * MiB);
    temp.defer(() => mount.unmount());
    const repository = await createRepository(path.join(place, "repository"));
    const snapshotId = await firstBackup(repository);
    await runOrThrow("mount", ["-o", "remount,ro", place]);
    const result = await cli("backup", image, "--repo", repository, "--source", "a/b");
    expect(result.code, result.stderr).to.equal(1);
    expect(result.stderr).to.match(/read-only/i);
    await expectUnharmed(repository, snapshotId);
  });

  it("names the target when it cannot be written", async function () {
    skipUnlessLoopDevices(this);
    await skipUnlessFuse(this);
    const repository = await createRepository(temp.file("repository"));
    const snapshotId = await firstBackup(repository);
    const backing = await sparseFile(temp.file("backing"), 16 * MiB);
    const failing = await FailingFile.mount({ backingFile: backing, directory: temp.file("failing") });
    temp.defer(() => failing.unmount());
    const loop = await LoopDevice.attach(failing.imagePath);
    temp.defer(() => loop.detach());
    await failing.failWrites({ offsetBytes: 2 * MiB, lengthBytes: 4096 });
    const result = await cli("restore", snapshotId, loop.path, "--repo", repository);
    expect(result.code, result.stderr).to.equal(1);
    expect(result.stderr).to.contain(loop.path);
    await failing.clear();
    await expectUnharmed(repository, snapshotId);
  });

  it("fails, and says why, when a thin target runs out of space", async function () {
    skipUnlessLoopDevices(this);
    const repository = await createRepository(temp.file("repository"));
    const snapshotId = await firstBackup(repository);
    const place = temp.file("place");
    const mount = await mountTmpfs(place, 3 * MiB);
    temp.defer(() => mount.unmount());
    const loop = await LoopDevice.attach(await sparseFile(path.join(place, "thin"), 16 * MiB));
    temp.defer(() => loop.detach());
    const result = await cli("restore", snapshotId, loop.path, "--repo", repository);
    expect(result.code, result.stderr).to.equal(1);
    expect(result.stderr)
      .to.contain(loop.path)
      .and.to.match(/ENOSPC|EIO/);
    // A file as the target: removed, for it looks whole and is not.
    const file = path.join(place, "restored");
    const toFile = await cli("restore", snapshotId, file, "--repo", repository);
    expect(toFile.code, toFile.stderr).to.equal(1);
    expect(toFile.stderr)
      .to.contain(file)
      .and.to.match(/space|ENOSPC/i);
    expect(await stat(file).catch(() => undefined)).to.equal(undefined);
    await expectUnharmed(repository, snapshotId);
  });

  it("leaves an unharmed copy of the repository as it was", async () => {
    // A restore reads only: not a byte of the repository changes.
    const repository = await createRepository(temp.file("repository"));
    const snapshotId = await firstBackup(repository);
    await cp(repository, temp.file("copy"), { recursive: true });
    await runCliOrThrow(["restore", snapshotId, temp.file("restored"), "--repo", repository], {
      env: { BLOCKMOVER_PASSWORD: PASSWORD },
    });
    await runOrThrow("diff", ["-r", repository, temp.file("copy")]);
  });
});
