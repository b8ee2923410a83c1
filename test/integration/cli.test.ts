/**
 * The command line as a user or a script meets it: exit status, what is printed, what each mistake is called.
 */
import { constants } from "node:fs";
import { chmod, copyFile, mkdir, mkdtemp, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { expect } from "chai";

import { writableCompressionNames } from "../../services/datapath/repository/kopia/compression.js";
import { encodeDirectory } from "../../services/datapath/repository/kopia/directory.js";
import { encodeSnapshotManifest, snapshotLabels } from "../../services/datapath/repository/kopia/snapshot-manifest.js";
import {
  sourcePath,
  volumeDirectory,
  volumeSnapshot,
  volumeSource,
} from "../../services/datapath/repository/kopia/velero-block-layout.js";
import type { BackupResult } from "../../services/datapath/uploader/backup.js";
import { startCli, type CliOptions, type CliResult, type JsonLine } from "../support/cli.js";
import { assertSameBytes } from "../support/compare.js";
import { LoopDevice, skipUnlessLoopDevices, sparseFile } from "../support/loop-device.js";
import { makeFileSystem, Mount } from "../support/mounts.js";
import { Random, testSeed, writeRandom } from "../support/random-data.js";
import { newMemoryRepository } from "../support/memory-repository.js";
import { backUp, blobFiles, createRepository, PASSWORD, restoreTo, withRepository } from "../support/repositories.js";
import { run } from "../support/run.js";
import { GiB, MiB } from "../support/sizes.js";
import { useTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait-for.js";

/** Runs the command line with the password in its environment; whatever it prints never has the password. */
async function blockmover(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const result = await startCli(args, {
    ...options,
    env: { BLOCKMOVER_PASSWORD: PASSWORD, ...options.env },
  }).done;
  expect(result.stdout + result.stderr).not.to.contain(PASSWORD);
  return result;
}

async function succeed(args: readonly string[], options: CliOptions = {}): Promise<JsonLine> {
  const result = await blockmover([...args, "--json"], options);
  expect(result.code, result.stdout + result.stderr).to.equal(0);
  return result.jsonResult();
}

/** The error that ends a failed run, which has the same text with and without `--json`. */
async function fail(args: readonly string[], code: number, options: CliOptions = {}): Promise<JsonLine> {
  const [human, json] = await Promise.all([blockmover(args, options), blockmover([...args, "--json"], options)]);
  const error = json.jsonLines().at(-1);
  expect(error, json.stdout + json.stderr).to.include({ type: "error" });
  expect([human.code, json.code], human.stderr).to.deep.equal([code, code]);
  expect(human.stderr).to.contain(String(error?.message));
  expect(human.stderr, "no stack trace for what is the user's business").not.to.match(/^\s+at /m);
  if (error?.hint !== undefined) expect(human.stderr).to.contain(error.hint);
  return error!;
}

describe("blockmover", () => {
  const seed = testSeed();
  const random = new Random(seed).fork("cli");
  const temp = useTempDir();
  /** Shared by the tests that do not change it: a repository with one snapshot. */
  let shared: { directory: string; repository: string; image: string; snapshotId: string };

  before(async function () {
    this.timeout(60_000);
    const directory = await mkdtemp(path.join(tmpdir(), "blockmover-cli-"));
    const repository = await createRepository(path.join(directory, "repository"));
    const image = path.join(directory, "image");
    await writeRandom(image, random, { lengthBytes: 3 * MiB + 512 });
    const { snapshotId } = await succeed(["backup", image, "--repo", repository, "--source", "shop/shared"]);
    shared = { directory, repository, image, snapshotId: String(snapshotId) };
  });

  after(async () => {
    await rm(shared.directory, { recursive: true, force: true });
  });

  describe("its arguments", () => {
    it("has the version of package.json", async () => {
      const result = await blockmover(["--version"]);
      const { version } = JSON.parse(await readFile("package.json", "utf8")) as { version: string };
      expect([result.code, result.stdout]).to.deep.equal([0, `${version}\n`]);
    });

    const repositoryOptions = ["--repo", "--password-file", "--json"];
    const options: Readonly<Record<string, readonly string[]>> = {
      "repository create": [
        "--hash",
        "--encryption",
        "--splitter",
        "--key-derivation",
        "--max-pack-size-mib",
        "--owner",
      ],
      "repository status": [],
      backup: [
        "--agent",
        "--transfer-id",
        ...["--source", "--description", "--compression", "--full", "--parent", "--changed-ranges"],
        ...["--base-change-id", "--change-id", "--volume-id"],
      ],
      restore: ["--agent", "--transfer-id", "--force"],
      "snapshot list": ["--source", "--all"],
      "snapshot show": [],
      "snapshot verify": ["--sample"],
      "snapshot delete": [],
    };
    for (const [command, own] of Object.entries(options)) {
      it(`explains every option of ${command}`, async () => {
        const result = await blockmover([...command.split(" "), "--help"]);
        expect(result.code).to.equal(0);
        const explained = [...result.stdout.matchAll(/^ {2}(?:-\w, )?(--[a-z-]+)(?: <[^>]+>)? +\S/gm)].map(
          ([, name]) => name,
        );
        expect(explained).to.have.members([...repositoryOptions, ...own, "--help"]);
      });
    }

    it("names every command in its help", async () => {
      const texts = await Promise.all(
        [[], ["repository"], ["snapshot"]].map((args) => blockmover([...args, "--help"])),
      );
      const help = texts.map(({ stdout }) => stdout).join("");
      for (const command of Object.keys(options))
        expect(help).to.match(new RegExp(`^ {2}${command.split(" ").at(-1)} `, "m"));
      expect(help).to.contain("130 cancelled");
    });

    const repo = ["--repo", "/nonexistent"];
    const mistakes: readonly (readonly [title: string, args: readonly string[], text: string])[] = [
      ["no command", [], "Usage: blockmover"],
      ["an unknown command", ["back-up"], "unknown command 'back-up'"],
      ["an unknown option", ["backup", "x", ...repo, "--fast"], "unknown option '--fast'"],
      ["no device", ["backup", ...repo], "missing required argument 'device'"],
      ["no repository", ["backup", "x"], "required option '--repo <url>' not specified"],
      ["an unknown compression", ["backup", "x", ...repo, "--compression", "lzma"], "Allowed choices are none, gzip"],
      [
        "changed ranges without a base",
        ["backup", "x", ...repo, "--changed-ranges", "-", "--volume-id", "v"],
        "--changed-ranges needs --base-change-id",
      ],
      [
        "changed ranges without a volume",
        ["backup", "x", ...repo, "--changed-ranges", "-", "--base-change-id", "a"],
        "--changed-ranges needs --volume-id",
      ],
      [
        "a base without changed ranges",
        ["backup", "x", ...repo, "--base-change-id", "a"],
        "--base-change-id needs --changed-ranges",
      ],
      ["a change id without a volume", ["backup", "x", ...repo, "--change-id", "a"], "--change-id needs --volume-id"],
      ["an empty change id", ["backup", "x", ...repo, "--change-id", "", "--volume-id", "v"], "--change-id is empty"],
      [
        "--full with a parent",
        ["backup", "x", ...repo, "--full", "--parent", "abcdef"],
        "--full and --parent exclude each other",
      ],
      [
        "a source of three parts",
        ["backup", "x", ...repo, "--source", "a/b/c"],
        "--source a/b/c: expected NAMESPACE/NAME",
      ],
      ["a sample of nothing", ["snapshot", "verify", ...repo, "--sample", "0"], "a share is more than 0"],
      [
        "a pack size that is no number",
        ["repository", "create", ...repo, "--max-pack-size-mib", "big"],
        "not a whole number",
      ],
      ["a storage of an unknown kind", ["snapshot", "list", "--repo", "ftp://host/x"], "ftp:// is not known"],
    ];
    for (const [title, args, text] of mistakes) {
      it(`exits with 2 for ${title}`, async () => {
        const [human, json] = await Promise.all([blockmover(args), blockmover([...args, "--json"])]);
        expect([human.code, json.code], human.stderr).to.deep.equal([2, 2]);
        expect(human.stderr).to.contain(text);
        expect(human.stderr).not.to.match(/^\s+at /m);
        expect(json.jsonLines().at(-1)).to.include({ type: "error", code: "INVALID_ARGUMENT" });
      });
    }
  });

  describe("repository", () => {
    it("creates one, and shows its status", async () => {
      const repo = temp.file("new", "repository");
      const args = [
        "--hash",
        "HMAC-SHA256-128",
        "--encryption",
        "CHACHA20-POLY1305-HMAC-SHA256",
        "--splitter",
        "FIXED-1M",
      ];
      args.push("--key-derivation", "pbkdf2-sha256-600000", "--max-pack-size-mib", "10", "--owner", "me@here");
      expect(await succeed(["repository", "create", "--repo", repo, ...args])).to.include({ repository: repo });
      expect(await succeed(["repository", "status", "--repo", `file://${repo}`])).to.include({
        repository: repo,
        formatVersion: 3,
        hash: "HMAC-SHA256-128",
        encryption: "CHACHA20-POLY1305-HMAC-SHA256",
        splitter: "FIXED-1M",
        keyDerivation: "pbkdf2-sha256-600000",
        maxPackSizeBytes: 10 * MiB,
        maintenanceOwner: "me@here",
        snapshotCount: 0,
      });
    });

    it("refuses a directory that is not empty, and changes nothing in it", async () => {
      await mkdir(temp.file("q", "abc"), { recursive: true });
      const blob = temp.file("q", "abc", "0".repeat(40) + ".f");
      await writeFile(blob, "something of somebody");
      const error = await fail(["repository", "create", "--repo", temp.path], 1);
      expect(error.message).to.match(/is not empty: it has blob qabc0+/);
      expect(await blobFiles(temp.path)).to.have.length(1);
    });

    it("refuses to make another one where one is", async () => {
      const before = await readFile(path.join(shared.repository, "kopia.repository.f"));
      const error = await fail(["repository", "create", "--repo", shared.repository], 1);
      expect(error).to.include({ code: "ALREADY_EXISTS" });
      expect(error.message).to.contain(`there is a repository in ${shared.repository} already`);
      expect(await readFile(path.join(shared.repository, "kopia.repository.f"))).to.deep.equal(before);
    });

    for (const [option, value, code] of [
      ["--hash", "MD5", 1],
      ["--hash", "BLAKE3-256", 1],
      ["--encryption", "ROT13", 1],
      ["--splitter", "FIXED-3M", 2],
      ["--key-derivation", "md5", 2],
    ] as const) {
      it(`says that ${option} ${value} cannot be had, and makes nothing`, async () => {
        const error = await fail(["repository", "create", "--repo", temp.file("r"), option, value], code);
        expect(error.message).to.contain(value);
        expect(await blobFiles(temp.path)).to.have.length(0);
      });
    }

    it("says that there is none", async () => {
      await mkdir(temp.file("empty"));
      const error = await fail(["snapshot", "list", "--repo", temp.file("empty")], 1);
      expect(error).to.include({ code: "NOT_FOUND", message: `there is no repository in ${temp.file("empty")}` });
      expect(error.hint).to.contain("blockmover repository create");
      expect((await fail(["snapshot", "list", "--repo", temp.file("none")], 1)).message).to.contain(
        `${temp.file("none")} does not exist`,
      );
      expect((await fail(["snapshot", "list", "--repo", shared.image], 1)).message).to.contain("is not a directory");
    });

    it("takes its location from the environment", async () => {
      const result = await succeed(["snapshot", "list"], { env: { BLOCKMOVER_REPO: shared.repository } });
      expect(result.snapshots).to.have.length(1);
    });
  });

  describe("the password", () => {
    const status = (): string[] => ["repository", "status", "--repo", shared.repository];

    it("can be wrong", async () => {
      const error = await fail(status(), 1, { env: { BLOCKMOVER_PASSWORD: "open barley" } });
      expect(error).to.include({ code: "UNAUTHENTICATED" });
      expect(error.message).to.contain("wrong repository password");
    });

    for (const value of [undefined, ""]) {
      it(`can be missing (${value === undefined ? "no variable" : "an empty one"})`, async () => {
        const error = await fail(status(), 2, { env: { BLOCKMOVER_PASSWORD: value } });
        expect(error.message).to.equal("no password for the repository was given");
        expect(error.hint).to.match(/BLOCKMOVER_PASSWORD.*--password-file/);
      });
    }

    it("comes from a file, which counts more than the variable", async () => {
      await writeFile(temp.file("password"), `${PASSWORD}\n`);
      const env = { BLOCKMOVER_PASSWORD: "another" };
      await succeed([...status(), "--password-file", temp.file("password")], { env });
    });

    it("is missing when its file is missing or empty", async () => {
      await writeFile(temp.file("empty"), "\n");
      const args = (name: string): string[] => [...status(), "--password-file", temp.file(name)];
      expect((await fail(args("none"), 2)).message).to.match(/cannot read the password file.*none/);
      expect((await fail(args("empty"), 2)).message).to.contain(`${temp.file("empty")} is empty`);
    });

    it("is never an argument of a process", async function () {
      if (process.platform !== "linux") this.skip();
      await writeRandom(temp.file("image"), random, { lengthBytes: 48 * MiB });
      const repository = await createRepository(temp.file("repository"));
      const started = startCli(["backup", temp.file("image"), "--repo", repository, "--json"], {
        env: { BLOCKMOVER_PASSWORD: PASSWORD },
      });
      let isRunning = true;
      const done = started.done.finally(() => (isRunning = false));
      let seen = 0;
      await waitFor(
        async () => {
          const { stdout } = await run("ps", ["-eo", "args", "--no-headers"]);
          expect(stdout).not.to.contain(PASSWORD);
          if (stdout.includes(temp.file("image"))) seen++;
          return !isRunning;
        },
        { what: "the backup", deadlineMs: 60_000 },
      );
      expect(seen, "looks at the running command").to.be.greaterThan(0);
      expect((await done).code).to.equal(0);
    });
  });

  describe("backup", () => {
    const backup = (...more: string[]): string[] => ["backup", ...more, "--repo", shared.repository];

    it("says that there is no such device", async () => {
      const error = await fail(backup(temp.file("missing")), 1);
      expect(error).to.include({ code: "NOT_FOUND" });
      expect(error.message).to.match(/open .*missing: .*ENOENT|ENOENT.*missing/);
    });

    it("says that a directory or a character device is no device", async () => {
      expect((await fail(backup(temp.path), 2)).message).to.contain(temp.path);
      expect((await fail(backup("/dev/null"), 2)).message).to.contain("/dev/null");
    });

    it("says that there is nothing in an empty file", async () => {
      await writeFile(temp.file("empty"), "");
      expect((await fail(backup(temp.file("empty")), 2)).message).to.contain("is empty: there is nothing to back up");
    });

    it("says that a device may not be read", async function () {
      if (process.getuid?.() === 0) {
        // Root may read everything: another user runs it.
        await chmod(temp.path, 0o755);
        await writeFile(temp.file("secret"), "x", { mode: 0o600 });
        const args = [process.execPath, path.resolve("bin/blockmover.cjs"), ...backup(temp.file("secret"))];
        const env = { ...process.env, BLOCKMOVER_PASSWORD: PASSWORD, HOME: "/nonexistent" };
        const result = await run("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", ...args], { env });
        if (/MODULE_NOT_FOUND|has not been built|Cannot find module/.test(result.stderr)) this.skip(); // a private checkout
        expect([result.code, result.stderr]).to.satisfy(
          ([code, text]: [number, string]) => code === 1 && /EACCES.*secret|secret.*EACCES/.test(text),
          result.stderr,
        );
      }
    });

    it("prints progress and ends with the result, as JSON lines", async () => {
      await sparseFile(temp.file("large"), 12 * GiB);
      const result = await blockmover([...backup(temp.file("large"), "--source", "shop/large"), "--json"]);
      const lines = result.jsonLines();
      expect(lines.length, "it takes more than a second").to.be.greaterThan(1);
      for (const line of lines.slice(0, -1)) {
        expect(line).to.include({ type: "progress", operation: "full backup", volumeSizeBytes: 12 * GiB });
      }
      expect(lines.at(-1)).to.include({
        type: "result",
        backupType: "full",
        volumeSizeBytes: 12 * GiB,
        totalBytes: 12 * GiB,
        zeroBytes: 12 * GiB,
        incrementalBytes: 12 * GiB,
      });
      expect(lines.at(-1)).to.have.property("durationMs").that.is.a("number");
    });

    it("prints a summary for people", async () => {
      const result = await blockmover(backup(shared.image, "--source", "shop/people"));
      expect(result.code).to.equal(0);
      expect(result.stdout).to.match(
        /^Snapshot [0-9a-f]{32} \(full\)\n {2}read .*\n {2}zero .*\n {2}new .*\n {2}stored .*\n$/,
      );
      expect(result.stderr).to.equal("");
    });

    it("names the line of the changed ranges that is wrong", async function () {
      this.timeout(60_000);
      const tracked = (id: string): string[] => ["--source", "shop/ranges", "--volume-id", "v", "--change-id", id];
      await succeed(backup(shared.image, ...tracked("c1")));
      const args = [...backup(shared.image, ...tracked("c2"), "--base-change-id", "c1"), "--changed-ranges"];
      const good = '{"offset":0,"length":512}\n\n';
      for (const [bad, why] of [
        ["{offset:1}", "not JSON"],
        ["5", "not an object"],
        ["null", "not an object"],
        ['{"offset":-1,"length":5}', "whole numbers"],
        ['{"offset":1}', "whole numbers"],
        ['{"offset":1.5,"length":5}', "whole numbers"],
        ['{"offset":"1","length":5}', "whole numbers"],
        ['{"offset":0,"length":4', "not JSON"],
        [" ".repeat(5000) + '{"offset":0,"length":4}', "too long"],
      ] as const) {
        const error = await fail([...args, "-"], 2, { stdin: `${good}${bad}` });
        expect(error.message).to.match(/^standard input, line 3: /);
        expect(error.message).to.contain(why);
      }
      await writeFile(temp.file("ranges"), `${good}nonsense\n`);
      const named = await fail([...args, temp.file("ranges")], 2);
      expect(named.message).to.contain(`${temp.file("ranges")}, line 3: not JSON: nonsense`);
      expect((await fail([...args, temp.file("none")], 2)).message).to.contain("cannot read the changed ranges from");
      // Nothing of this has become a snapshot, and the parent still is one.
      await writeFile(temp.file("ranges"), good);
      const result = await succeed([...args, temp.file("ranges")]);
      expect(result).to.include({ backupType: "incremental", incrementalBytes: MiB, changeId: "c2" });
    });

    it("makes increments, and full backups with the reason where it cannot", async function () {
      this.timeout(120_000);
      const repo = await createRepository(temp.file("repository"));
      const image = temp.file("image");
      await writeRandom(image, random, { lengthBytes: 6 * MiB });
      const attempt = (
        options: { source?: string; volume?: string; id?: string; base?: string; parent?: string; full?: boolean } = {},
      ): Promise<JsonLine> => {
        const args = ["backup", image, "--repo", repo, "--source", options.source ?? "shop/db"];
        if (options.id !== undefined) args.push("--change-id", options.id);
        if (options.id !== undefined || options.base !== undefined) args.push("--volume-id", options.volume ?? "v");
        if (options.base !== undefined) args.push("--base-change-id", options.base, "--changed-ranges", "-");
        if (options.parent !== undefined) args.push("--parent", options.parent);
        if (options.full === true) args.push("--full");
        return succeed(args, { stdin: '{"offset":1048576,"length":1}\n' });
      };
      const expectFull = (result: JsonLine, reason: RegExp | undefined): void => {
        expect(result.backupType).to.equal("full");
        expect(result).not.to.have.property("parentSnapshotId");
        if (reason === undefined) expect(result).not.to.have.property("fallbackReason");
        else expect(result.fallbackReason).to.match(reason);
      };

      expectFull(await attempt(), undefined);
      expectFull(await attempt({ source: "shop/other", id: "c1", base: "c0" }), /no earlier snapshot of this source/);
      expectFull(await attempt({ id: "c1", base: "c0" }), /snapshot [0-9a-f]{32} has no change id or no volume id/);
      const first = await attempt({ id: "c1" });
      expectFull(first, undefined);
      const second = await attempt({ id: "c2", base: "c1" });
      expect(second).to.include({
        backupType: "incremental",
        parentSnapshotId: first.snapshotId,
        incrementalBytes: MiB,
      });
      expectFull(
        await attempt({ source: "shop/volume", id: "d2", base: "c2", parent: String(second.snapshotId) }),
        /is not a complete snapshot of this source/,
      );
      expectFull(await attempt({ id: "c3", base: "c2", volume: "w" }), /is of volume v, not w/);
      // The newest snapshot is now of volume w.
      expectFull(await attempt({ id: "c4", base: "c2" }), /is of volume w, not v/);
      expectFull(await attempt({ id: "c5", base: "c1" }), /relative to c1, but snapshot [0-9a-f]{32} has change id c4/);

      const chosen = await attempt({ id: "c6", base: "c2", parent: String(second.snapshotId).slice(0, 12) });
      expect(chosen).to.include({ backupType: "incremental", parentSnapshotId: second.snapshotId });
      expectFull(await attempt({ id: "c7", base: "c6", parent: "none" }), undefined);
      expectFull(await attempt({ id: "c8", base: "c7", full: true }), undefined);
      expectFull(await attempt({ id: "c9", parent: String(second.snapshotId) }), /no changed ranges were given/);
      expectFull(await attempt({ id: "c10", base: "c9", parent: "0".repeat(32) }), /0{32} does not exist/);

      const last = await attempt({ id: "c11", base: "c10" });
      expect(last).to.include({ backupType: "incremental" });
      await succeed(["snapshot", "delete", String(last.snapshotId), "--repo", repo]);
      expectFull(
        await attempt({ id: "c12", base: "c11" }),
        /relative to c11, but snapshot [0-9a-f]{32} has change id c10/,
      );
      expectFull(await attempt({ id: "c13", base: "c11", parent: String(last.snapshotId) }), /does not exist/);

      const people = await blockmover(
        [
          "backup",
          image,
          "--repo",
          repo,
          "--source",
          "shop/db",
          "--volume-id",
          "v",
          "--base-change-id",
          "x",
          "--changed-ranges",
          "-",
        ],
        { stdin: "" },
      );
      expect(people.stderr).to.match(/^warning: a full backup was made, because the changes are relative to x, but/);
    });

    it("does not continue from a parent of a foreign layout", async () => {
      const repo = await createRepository(temp.file("repository"));
      const source = volumeSource(sourcePath("shop", "foreign"));
      const startTimeNs = BigInt(Date.now()) * 1_000_000n;
      await withRepository(repo, async (repository) => {
        const half = await repository.writeMetadata(random.bytes(MiB / 2));
        const table = `{"stream":"kopia:indirect","entries":[{"l":524288,"o":"${half}"},{"s":524288,"l":524288,"o":"${half}"}]}\n`;
        const volume = {
          path: source.path,
          objectId: `I${await repository.writeMetadata(Buffer.from(table))}`,
          objectSizeBytes: MiB,
          startTimeNs,
        };
        const manifest = volumeSnapshot({
          ...volume,
          kind: "complete",
          directoryObjectId: await repository.writeMetadata(encodeDirectory(volumeDirectory(volume))),
          endTimeNs: startTimeNs,
          volumeSizeBytes: MiB,
          changeId: "c1",
          volumeId: "v",
        });
        await repository.putManifest(snapshotLabels(manifest), encodeSnapshotManifest(manifest));
      });
      await writeRandom(temp.file("image"), random, { lengthBytes: MiB });
      const tracked = [
        "--source",
        "shop/foreign",
        "--volume-id",
        "v",
        "--base-change-id",
        "c1",
        "--changed-ranges",
        "-",
      ];
      const result = await succeed(["backup", temp.file("image"), "--repo", repo, ...tracked], { stdin: "" });
      expect(result.backupType).to.equal("full");
      expect(result.fallbackReason).to.match(/cannot be a parent: an entry of 524288 bytes lies at 0/);
    });

    /** Text for the most part, and other text each time. */
    const compressible = async (): Promise<string> => {
      const block = Buffer.alloc(4 * MiB + 512, `all work and no play makes jack a dull boy ${random.uint32()} `);
      random.fill(block.subarray(0, 1.5 * MiB));
      await writeFile(temp.file("image"), block);
      return temp.file("image");
    };
    const expectCompressed = (
      { newContentBytes, uploadedBytes }: JsonLine | BackupResult,
      compression: string,
    ): void => {
      expect(newContentBytes).to.equal(5 * MiB);
      expect(uploadedBytes, compression).to.be.within(1.5 * MiB, compression === "none" ? 5.1 * MiB : 1.6 * MiB);
    };

    for (const compression of ["none", "zstd-fastest", "gzip", "deflate-default"]) {
      it(`stores and restores with --compression ${compression}`, async () => {
        const image = await compressible();
        const repo = await createRepository(temp.file("repository"));
        const result = await succeed(["backup", image, "--repo", repo, "--compression", compression]);
        expectCompressed(result, compression);
        await succeed(["restore", String(result.snapshotId), temp.file("restored"), "--repo", repo]);
        await assertSameBytes(image, temp.file("restored"));
        await succeed(["snapshot", "verify", "--repo", repo]);
      });
    }

    it("stores and restores with every compression that it offers", async () => {
      const { repository } = await newMemoryRepository();
      temp.defer(() => repository.close());
      for (const compression of writableCompressionNames) {
        const image = await compressible();
        const result = await backUp(repository, image, { compression });
        expectCompressed(result, compression);
        await restoreTo(repository, result.snapshotId, temp.file("restored"));
        await assertSameBytes(image, temp.file("restored"));
        await rm(temp.file("restored"));
      }
    });
  });

  describe("restore", () => {
    const restore = (target: string, ...more: string[]): string[] => [
      "restore",
      shared.snapshotId,
      target,
      "--repo",
      shared.repository,
      ...more,
    ];

    it("makes a file, for its owner alone", async () => {
      const result = await succeed(restore(temp.file("target")));
      expect(result).to.include({
        snapshotId: shared.snapshotId,
        volumeSizeBytes: 3 * MiB + 512,
        writtenBytes: 3 * MiB + 512,
      });
      expect((await stat(temp.file("target"))).mode & 0o777).to.equal(0o600);
      await assertSameBytes(shared.image, temp.file("target"));
      const people = await blockmover(restore(temp.file("target"), "--force"));
      expect(people.stdout).to.match(/^Restored 3.00 MiB to .*\n {2}written .*\n {2}zeroed .*\n$/);
    });

    it("refuses a file that is not empty, unless forced", async () => {
      await copyFile(shared.image, temp.file("target"));
      await writeRandom(temp.file("target"), random, { lengthBytes: 100 });
      const before = await readFile(temp.file("target"));
      const error = await fail(restore(temp.file("target")), 1);
      expect(error.message).to.equal(`target file ${temp.file("target")} exists and is not empty`);
      expect(error.hint).to.contain("--force");
      expect(await readFile(temp.file("target"))).to.deep.equal(before);
      await succeed(restore(temp.file("target"), "--force"));
      await assertSameBytes(shared.image, temp.file("target"));
    });

    it("refuses a file that is too small, forced or not", async () => {
      await writeRandom(temp.file("target"), random, { lengthBytes: 3 * MiB + 511 });
      for (const force of [[], ["--force"]]) {
        expect((await fail(restore(temp.file("target"), ...force), 1)).message).to.contain(
          `has ${3 * MiB + 511} bytes, the restore needs ${3 * MiB + 512}`,
        );
      }
    });

    it("refuses directories and what is no volume", async () => {
      expect((await fail(restore(temp.path), 2)).message).to.contain(temp.path);
      expect((await fail(restore("/dev/null"), 2)).message).to.contain("/dev/null");
    });

    it("does not make files below /dev, or in directories that are not there", async () => {
      expect((await fail(restore("/dev/blockmover-no-such-device"), 1)).message).to.contain(
        "/dev/blockmover-no-such-device does not exist",
      );
      expect((await fail(restore(temp.file("none", "target")), 1)).message).to.contain("ENOENT");
    });

    it("refuses a file that another restore writes", async function () {
      await sparseFile(temp.file("target"), 4 * MiB);
      const holder = run("flock", ["-x", temp.file("target"), "sleep", "4"]);
      await waitFor(async () => (await run("flock", ["-n", "-x", temp.file("target"), "true"])).code !== 0, {
        what: "the lock",
      });
      expect((await fail(restore(temp.file("target"), "--force"), 1)).message).to.match(/EAGAIN|EWOULDBLOCK/);
      await holder;
    });

    describe("to a device", () => {
      let device: LoopDevice;

      beforeEach(async function () {
        skipUnlessLoopDevices(this);
        device = await LoopDevice.create(temp.file("backing"), 32 * MiB);
        temp.defer(() => device.detach());
      });

      const expectUntouched = async (message: string, target = device.path): Promise<void> => {
        const before = await readFile(temp.file("backing"));
        const error = await fail(restore(target, "--force"), 1);
        expect(error).to.include({ code: "FAILED_PRECONDITION" });
        expect(error.message).to.contain(message);
        expect((await readFile(temp.file("backing"))).equals(before), "the target is untouched").to.equal(true);
      };

      it("writes it", async () => {
        await succeed(restore(device.path));
        await assertSameBytes(shared.image, device.path, { lengthBytes: 3 * MiB + 512 });
      });

      it("refuses one that is too small", async () => {
        const small = await LoopDevice.create(temp.file("small"), 3 * MiB);
        temp.defer(() => small.detach());
        expect((await fail(restore(small.path), 1)).message).to.equal(
          `target device ${small.path} has ${3 * MiB} bytes, the restore needs ${3 * MiB + 512}`,
        );
      });

      it("refuses one that is mounted, and names the mount", async () => {
        await makeFileSystem(device.path, "ext4");
        const mount = await Mount.mount({ source: device.path, target: temp.file("mounted"), options: "ro" });
        temp.defer(() => mount.unmount());
        await expectUntouched(`target ${device.path} is mounted on ${temp.file("mounted")}`);
      });

      it("refuses one that somebody holds exclusively", async () => {
        const holder = await open(device.path, constants.O_RDONLY | constants.O_EXCL);
        try {
          await expectUntouched("EBUSY");
        } finally {
          await holder.close();
        }
      });

      it("refuses the backing file of one, and names the device", async () => {
        await expectUntouched(
          `target ${temp.file("backing")} is the backing file of ${device.path}`,
          temp.file("backing"),
        );
      });

      it("refuses one that is read-only", async () => {
        const readOnly = await LoopDevice.create(temp.file("read-only"), 32 * MiB, { readOnly: true });
        temp.defer(() => readOnly.detach());
        expect((await fail(restore(readOnly.path), 1)).message).to.match(/EROFS|EACCES|EPERM/);
      });
    });
  });

  describe("snapshot", () => {
    let repo: string;
    let ids: string[];

    beforeEach(async function () {
      this.timeout(30_000);
      repo = await createRepository(temp.file("repository"));
      ids = [];
      for (const name of ["a", "b", "a"]) {
        const tracked = ["--source", `shop/${name}`, "--change-id", `c${ids.length}`, "--volume-id", `v-${name}`];
        const args = ["backup", shared.image, "--repo", repo, "--description", `number ${ids.length}`, ...tracked];
        ids.push(String((await succeed(args)).snapshotId));
      }
    });

    const listed = async (...more: string[]): Promise<JsonLine[]> =>
      (await succeed(["snapshot", "list", "--repo", repo, ...more])).snapshots as JsonLine[];

    it("lists them, oldest first", async () => {
      const snapshots = await listed();
      expect(snapshots.map(({ snapshotId }) => snapshotId)).to.deep.equal(ids);
      expect(snapshots[1]).to.deep.include({
        description: "number 1",
        volumeSizeBytes: 3 * MiB + 512,
        changeId: "c1",
        volumeId: "v-b",
        isVolume: true,
        pins: ["velero-pin"],
        source: volumeSource(sourcePath("shop", "b")),
      });
      expect((await listed("--source", "shop/b")).map(({ snapshotId }) => snapshotId)).to.deep.equal([ids[1]]);
      const people = await blockmover(["snapshot", "list", "--repo", repo]);
      expect(people.stdout.split("\n").slice(0, 2).join("\n")).to.match(
        /^SNAPSHOT +TIME +SIZE +CHANGE ID +SOURCE\n[0-9a-f]{32} .*3\.00 MiB +c0 +snap/,
      );
    });

    it("shows one, by its id or the beginning of it", async () => {
      const shown = await succeed(["snapshot", "show", ids[0]!, "--repo", repo]);
      expect(shown).to.include({ snapshotId: ids[0], changeId: "c0", chunkCount: 4, zeroChunkCount: 0 });
      expect(await succeed(["snapshot", "show", ids[0]!.slice(0, 12), "--repo", repo])).to.deep.equal(shown);
      await succeed(["restore", ids[0]!.slice(0, 12), temp.file("target"), "--repo", repo]);
      await assertSameBytes(shared.image, temp.file("target"));
    });

    it("says when an id is none, too short, or nobody's", async () => {
      const show = (id: string): Promise<JsonLine> => fail(["snapshot", "show", id, "--repo", repo], 1);
      expect((await show("f".repeat(32))).message).to.contain("there is none of this id");
      expect((await show("f".repeat(31))).message).to.contain("no id begins like this");
      expect((await show(ids[0]!.slice(0, 5))).message).to.contain("at least the first 6");
      expect((await show("../../etc")).message).to.contain("32 hexadecimal digits");
      expect((await fail(["restore", "f".repeat(32), temp.file("t"), "--repo", repo], 1)).hint).to.contain(
        "snapshot list",
      );
      expect(await run("test", ["-e", temp.file("t")])).to.include({ code: 1 });
    });

    it("verifies them", async () => {
      const all = await succeed(["snapshot", "verify", "--repo", repo]);
      expect(all).to.deep.include({ problemCount: 0 });
      expect(all.snapshots).to.have.length(3);
      const one = await succeed(["snapshot", "verify", ids[1]!.slice(0, 10), "--repo", repo]);
      expect(one.snapshots).to.deep.equal([
        { snapshotId: ids[1], entryCount: 4, verifiedBytes: 4 * MiB, problemCount: 0, problems: [] },
      ]);
      const sample = await succeed(["snapshot", "verify", "--sample", "0.000001", "--repo", repo]);
      expect(sample.snapshots).to.satisfy((reports: { verifiedBytes: number }[]) =>
        reports.every(({ verifiedBytes }) => verifiedBytes < 4 * MiB),
      );
    });

    it("deletes them, none if one of the ids is wrong", async () => {
      await fail(["snapshot", "delete", ids[0]!, "0".repeat(32), "--repo", repo], 1);
      expect(await listed()).to.have.length(3);
      expect(await succeed(["snapshot", "delete", ids[0]!, ids[2]!.slice(0, 16), "--repo", repo])).to.deep.include({
        deleted: [ids[0], ids[2]],
      });
      expect((await listed()).map(({ snapshotId }) => snapshotId)).to.deep.equal([ids[1]]);
      expect((await fail(["snapshot", "show", ids[0]!, "--repo", repo], 1)).code).to.equal("NOT_FOUND");
    });
  });
});
