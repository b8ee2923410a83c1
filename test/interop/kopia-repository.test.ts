/** Repositories that the real Kopia made: we open, list, back up, restore and verify, and Kopia still finds no fault. */
import { mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";

import { expect } from "chai";

import { supportedEncryptionNames } from "../../services/datapath/repository/kopia/encryption.js";
import { supportedHashNames } from "../../services/datapath/repository/kopia/hashing.js";
import { kopiaVersions, skipUnlessKopia, type Kopia } from "../support/kopia.js";
import { Random, testSeed } from "../support/random-data.js";
import { MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import {
  allSettledOrThrow,
  expectRestoredByKopia,
  expectRestoredByUs,
  expectSound,
  expectTrees,
  expectVolumes,
  snapshotTree,
  writeTree,
} from "./expectations.js";
import { SharedRepository } from "./shared-repository.js";
import { TestVolume } from "./test-volume.js";

const seed = testSeed();

/** At least these are tried for volumes; any other is read in same-identity.test.ts. */
const splitters = ["FIXED-1M", "FIXED-128K", "DYNAMIC-4M-BUZHASH", "DYNAMIC-1M-BUZHASH", "DYNAMIC-2M-RABINKARP"];

for (const version of kopiaVersions) {
  describe(`a repository of Kopia ${version}, to us (SEED=${seed})`, function () {
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

    /** Kopia writes, we write, both read everything. */
    async function expectShared(kopia: Kopia): Promise<void> {
      const tree = await snapshotTree(kopia, await writeTree(repository, random));
      const volume = await TestVolume.create({ repository, name: "shared", sizeBytes: 3 * MiB + 512, random });
      const full = await volume.backUp();
      await volume.writeSomewhere(1);
      const increment = await volume.backUp();
      const listed = await repository.listByUs(["--all"]);
      expect(listed.map(({ snapshotId }) => snapshotId)).to.have.members([tree.id, full.id, increment.id]);
      expect(listed.filter(({ isVolume }) => isVolume)).to.have.length(2);
      const fresh = await expectSound(repository);
      await expectVolumes(repository, fresh, [increment]);
      await expectTrees(repository, fresh, [tree]);
    }

    for (const hash of supportedHashNames) {
      it(`shares ${hash}, with each encryption`, async () => {
        await allSettledOrThrow(supportedEncryptionNames.map((encryption) => expectSharedHash(hash, encryption)));
      });
    }

    async function expectSharedHash(hash: string, encryption: string): Promise<void> {
      const each = new SharedRepository({ version, scratch: temp.path, path: temp.file(encryption) });
      const kopia = await each.createByKopia({ hash, encryption, splitter: "FIXED-1M" });
      const status = await each.blockmover(["repository", "status"]);
      expect(status).to.include({ hash, encryption, formatVersion: 3, maintenanceOwner: "default@default" });

      // The same bytes are the same contents under this hash: Kopia has them, we write none.
      const own = random.fork(hash + encryption);
      const volume = await TestVolume.create({ repository: each, name: "hashed", sizeBytes: 3 * MiB, random: own });
      const directory = await each.makeDirectory("tree");
      await writeFile(path.join(directory, "small"), own.bytes(1000));
      await volume.copyTo(path.join(directory, "image"));
      const tree = await snapshotTree(kopia, directory);
      const full = await volume.backUp();
      expect(full.report.newContentBytes, "bytes that Kopia did not have").to.equal(0);

      await volume.writeSomewhere(1);
      const increment = await volume.backUp();
      const listed = await each.listByUs(["--all"]);
      expect(listed.map(({ snapshotId }) => snapshotId)).to.have.members([tree.id, full.id, increment.id]);
      const fresh = await expectSound(each);
      await expectRestoredByUs(each, full);
      await expectRestoredByKopia(each, fresh, increment);
    }

    for (const splitter of splitters) {
      it(`shares splitter ${splitter}`, async () => {
        await expectShared(await repository.createByKopia({ splitter }));
      });
    }

    for (const formatVersion of [2, 3]) {
      it(`shares format version ${formatVersion}`, async () => {
        await expectShared(await repository.createByKopia({ extraArgs: [`--format-version=${formatVersion}`] }));
        const status = await repository.blockmover(["repository", "status"]);
        expect(status).to.have.property("formatVersion", formatVersion);
      });
    }

    it("shares format version 2, also after Kopia has upgraded it to 3", async () => {
      const kopia = await repository.createByKopia({ extraArgs: ["--format-version=2"] });
      const volume = await TestVolume.create({ repository, name: "upgraded", sizeBytes: MiB + 512, random });
      const snapshots = [await volume.backUp()];
      const args = ["repository", "upgrade", "begin", "--upgrade-owner-id=test"];
      await kopia.runOrThrow(args, { env: { KOPIA_UPGRADE_LOCK_ENABLED: "1" } });
      expect(await repository.blockmover(["repository", "status"])).to.have.property("formatVersion", 3);
      await volume.writeSomewhere(1);
      snapshots.push(await volume.backUp());
      await expectVolumes(repository, await expectSound(repository), snapshots);
    });

    it("shares a key derived by PBKDF2", async () => {
      const keyDerivation = "pbkdf2-sha256-600000";
      const extraArgs = [`--format-block-key-derivation-algorithm=${keyDerivation}`];
      await expectShared(await repository.createByKopia({ extraArgs }));
      expect(await repository.blockmover(["repository", "status"])).to.include({ keyDerivation });
    });

    it("shares files in one flat directory", async () => {
      await expectShared(await repository.createByKopia({ extraArgs: ["--flat"] }));
    });

    it("shares files in directories of other lengths", async () => {
      const shards = {
        default: [2, 2],
        maxNonShardedLength: 20,
        overrides: [
          { prefix: "q", shards: [5] },
          { prefix: "xn", shards: [] },
        ],
      };
      await mkdir(repository.path);
      await writeFile(path.join(repository.path, ".shards"), JSON.stringify(shards));
      await expectShared(await repository.createByKopia());
    });

    it("shares an old directory without a file that tells the lengths", async () => {
      await mkdir(repository.path);
      const shardsFile = path.join(repository.path, ".shards");
      await writeFile(shardsFile, JSON.stringify({ default: [3, 3], maxNonShardedLength: 20 }));
      const kopia = await repository.createByKopia();
      await rm(shardsFile);
      await expectShared(kopia);
    });

    for (const [what, password] of [
      ["letters beyond ASCII, composed", "h\u00f6henma\u00df \u4e2d\u6587 \u{1f511}"],
      ["letters beyond ASCII, decomposed", "ho\u0308henmass"],
      ["quotes and dollars", `"it's" $HOME \\n %41`],
    ] as const) {
      it(`shares a password of ${what}`, async () => {
        repository = new SharedRepository({ version, scratch: temp.path, password });
        const kopia = await repository.createByKopia();
        const volume = await TestVolume.create({ repository, name: "secret", sizeBytes: MiB, random });
        const snapshot = await volume.backUp();
        await expectRestoredByKopia(repository, kopia, snapshot);
        const other = new SharedRepository({ version, scratch: temp.path, password: `${password}?` });
        const refused = await other.tryBlockmover(["repository", "status"]);
        expect(refused.code).to.equal(1);
        expect(refused.stderr).to.contain("password");
      });
    }

    it("opens with a password that Kopia has changed, and no more with the old one", async () => {
      const kopia = await repository.createByKopia();
      const volume = await TestVolume.create({ repository, name: "before", sizeBytes: MiB + 512, random });
      const snapshot = await volume.backUp();
      const password = "später";
      await kopia.runOrThrow(["repository", "change-password", `--new-password=${password}`]);

      const refused = await repository.tryBlockmover(["snapshot", "list"]);
      expect(refused.code).to.equal(1);
      expect(refused.stderr).to.contain("password");
      repository = new SharedRepository({ version, scratch: temp.path, password });
      await expectRestoredByUs(repository, snapshot);
      await repository.blockmover(["snapshot", "delete", snapshot.id]);
      await expectShared(await repository.kopia());
    });

    it("opens as Velero makes it, below its prefix and with its password file", async () => {
      // Velero: <fspath>/kopia/<namespace>/, Kopia's defaults, default@default, white space around the password cut off.
      const password = "static-passw0rd";
      const directory = temp.file("velero", "kopia", "my-namespace");
      repository = new SharedRepository({ version, scratch: temp.path, path: directory, password });
      const kopia = await repository.createByKopia({ extraArgs: ["--no-auto-maintenance"] });
      // What Velero sets for its file backups: no retention ends anything.
      await kopia.runOrThrow([
        "policy",
        "set",
        "default@default:snapshot-data-upload-download/kopia/my-namespace/data",
        ...["latest", "hourly", "daily", "weekly", "monthly", "annual"].map((name) => `--keep-${name}=2147483647`),
        "--compression=none",
        "--manual",
        "--parallel-upload-above-size-mib=2147483647",
        "--max-parallel-file-reads=2",
      ]);
      const passwordFile = temp.file("repository-password");
      await writeFile(passwordFile, ` ${password}\n`);
      const args = ["--repo", `file://${directory}/`, "--password-file", passwordFile];
      const status = await repository.tryBlockmover(["repository", "status", "--json", ...args]);
      expect(status.jsonResult()).to.include({ splitter: "DYNAMIC-4M-BUZHASH", maintenanceOwner: "default@default" });
      await expectShared(kopia);
    });

    const refused: readonly (readonly [string, readonly string[], RegExp])[] = [
      ["format version 1", ["--format-version=1"], /format version 1\b/],
      ["hash BLAKE3-256", ["--block-hash=BLAKE3-256"], /BLAKE3-256"/],
      ["hash BLAKE3-256-128", ["--block-hash=BLAKE3-256-128"], /BLAKE3-256-128/],
      ["error correction", ["--ecc=REED-SOLOMON-CRC32", "--ecc-overhead-percent=2"], /REED-SOLOMON-CRC32/],
    ];
    for (const [what, extraArgs, name] of refused) {
      it(`refuses ${what} by its name, and leaves the repository alone`, async () => {
        const kopia = await repository.createByKopia({ extraArgs });
        await snapshotTree(kopia, await writeTree(repository, random));
        const before = await repository.blobs("");
        const image = repository.newPath("image");
        await writeFile(image, random.bytes(MiB));
        for (const args of [
          ["repository", "status"],
          ["snapshot", "list"],
          ["backup", image, "--source=a/b"],
        ]) {
          const result = await repository.tryBlockmover(args);
          expect(result.code, args.join(" ")).to.equal(1);
          expect(result.stderr, args.join(" ")).to.match(name);
          expect(result.stdout).to.equal("");
        }
        expect(await repository.blobs("")).to.deep.equal(before);
      });
    }
  });
}
