import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readlinkSync } from "node:fs";
import {
  chmod,
  mkdtemp,
  mkdir,
  open,
  readFile,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
  type FileHandle,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { seededRandom } from "../../../../../services/datapath/repository/storage/faulty.js";
import { openFilesystemStorage } from "../../../../../services/datapath/repository/storage/filesystem.js";
import { bytesOf, describeBlobStorage, failure, listed, randomBytes, rejection, seed, textOf } from "./conformance.js";

const layouts: Readonly<Record<string, string | undefined>> = {
  "new [1,3]": undefined,
  "old [3,3]": '{"default":[3,3],"maxNonShardedLength":20}\n',
  "flat []": '{"default":null,"maxNonShardedLength":20}\n',
  "with overrides":
    '{"default":[2,2,2],"maxNonShardedLength":5,"overrides":[{"prefix":"xn1","shards":[5]},{"prefix":"x","shards":null},{"prefix":"p","shards":[1,3]}]}',
};

for (const [name, shards] of Object.entries(layouts)) {
  describeBlobStorage(`FilesystemStorage, ${name},`, async () => {
    const root = await mkdtemp(join(tmpdir(), "blockmover-storage-"));
    if (shards !== undefined) {
      await writeFile(join(root, ".shards"), shards);
    }
    const descriptorsBefore = openFilesBelow(root);
    const store = await openFilesystemStorage(root, { create: true });
    return {
      store,
      dispose: async () => {
        const left = filesBelow(root).filter((path) => path.includes(".tmp."));
        const descriptors = openFilesBelow(root);
        await rm(root, { recursive: true });
        expect(left, "temporary files").to.deep.equal([]);
        expect(descriptors, "open files").to.deep.equal(descriptorsBefore);
      },
    };
  });
}

describe("FilesystemStorage", () => {
  let root: string;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "blockmover-storage-"));
  });

  afterEach(async () => {
    await rm(root, { recursive: true });
  });

  describe("the layout", () => {
    const pack = "p0bb110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147";

    it("is Kopia's for new repositories, with private modes", async () => {
      const store = await openFilesystemStorage(join(root, "a/b"), { create: true });
      await store.put(pack, [bytesOf("x")]);
      await store.put("kopia.repository", [bytesOf("x")]);
      expect(await readFile(join(root, "a/b/.shards"), "utf8")).to.equal(
        '{"default":[1,3],"maxNonShardedLength":20}\n',
      );
      const path = join(root, "a/b/p/0bb/110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147.f");
      expect((await stat(path)).mode & 0o777).to.equal(0o600);
      expect((await stat(dirname(path))).mode & 0o777).to.equal(0o700);
      expect((await stat(join(root, "a/b"))).mode & 0o777).to.equal(0o700);
      await stat(join(root, "a/b/kopia.repository.f"));
    });

    it("is [3,3] for a repository without .shards, which is written with the first blob and not before", async () => {
      const store = await openFilesystemStorage(root);
      expect(await listed(store, "")).to.deep.equal([]);
      await failure(store.get(pack), "NOT_FOUND");
      expect(readdirSync(root)).to.deep.equal([]);
      await Promise.all([store.put(pack, []), store.put("xe1", [])]);
      expect(await readFile(join(root, ".shards"), "utf8")).to.equal('{"default":[3,3],"maxNonShardedLength":20}\n');
      await stat(join(root, "p0b/b11/0664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147.f"));
    });

    it("stays old when a repository without .shards is to be created again", async () => {
      await writeFile(join(root, "kopia.repository.f"), "");
      const store = await openFilesystemStorage(root, { create: true });
      await store.put(pack, []);
      await stat(join(root, "p0b"));
    });

    it("refuses to write when somebody else has chosen another one meanwhile", async () => {
      const store = await openFilesystemStorage(root);
      await openFilesystemStorage(root, { create: true });
      await failure(store.put(pack, []), "FAILED_PRECONDITION");
    });

    it("reports a damaged .shards with what it should hold", async () => {
      await writeFile(join(root, ".shards"), "{");
      const error = await failure(openFilesystemStorage(root), "DATA_LOSS");
      expect(error.message).to.contain(join(root, ".shards"));
      expect(error.hint).to.contain("[1,3]");
    });

    it("leaves out of a list what is no blob, or lies where no get would find it", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      await store.put(pack, []);
      for (const directory of ["p/0bb/deeper", "lost+found", "p/longer", "x.f", "n"]) {
        await mkdir(join(root, directory), { recursive: true });
      }
      for (const file of [
        "notes.txt",
        "p/0bb/110.tmp.0123456789abcdef",
        "p/short.f",
        "a23456789012345678901.f",
        "lost+found/y.f",
      ]) {
        await writeFile(join(root, file), "");
      }
      await symlink("nowhere", join(root, "dangling.f"));
      expect((await listed(store, "")).map(({ id }) => id)).to.deep.equal([pack]);
    });

    for (const [what, shards] of [
      ["directories", "[1,3]"],
      ["files", "[]"],
    ] as const) {
      it(`does not mind ${what} that vanish while it lists`, async () => {
        await writeFile(join(root, ".shards"), `{"default":${shards},"maxNonShardedLength":20}`);
        const store = await openFilesystemStorage(root);
        for (let index = 0; index < 100; index++) {
          await store.put(`p${index.toString().padStart(3, "0")}${"0".repeat(28)}`, []);
        }
        let found = 0;
        for await (const { id } of store.list("p")) {
          expect(id).to.have.length(32);
          if (++found === 1) {
            for (const name of readdirSync(root).filter((entry) => entry.startsWith("p"))) {
              await rm(join(root, name), { recursive: true });
            }
          }
        }
        expect(found).to.be.within(1, 64); // what it had in hand
      });
    }

    it("reads blobs and directories behind symbolic links", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      await mkdir(join(root, "elsewhere/0bb"), { recursive: true });
      await symlink("elsewhere", join(root, "p"));
      await store.put(pack, [bytesOf("x")]);
      expect((await listed(store, "p")).map(({ id, lengthBytes }) => [id, lengthBytes])).to.deep.equal([[pack, 1]]);
      expect(readdirSync(join(root, "elsewhere/0bb"))).to.have.length(1);
    });

    it("never leaves the root, whatever an index says", async () => {
      await writeFile(join(root, ".shards"), '{"default":[2,2],"maxNonShardedLength":3}');
      const store = await openFilesystemStorage(root);
      await failure(store.get("....etc"), "INVALID_ARGUMENT");
      await failure(store.put("ab..etc", []), "INVALID_ARGUMENT");
    });

    it("keeps milliseconds with their fraction", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      await store.put("xe1", []);
      await utimes(join(root, "xe1.f"), 1_700_000_000.5, 1_700_000_000.12345);
      expect((await store.stat("xe1")).modifiedMs).to.be.closeTo(1_700_000_000_123.45, 0.01);
      expect((await listed(store, ""))[0]?.modifiedMs).to.be.closeTo(1_700_000_000_123.45, 0.01);
    });
  });

  describe("opening", () => {
    it("says that a directory is missing, and does not create it", async () => {
      const path = join(root, "missing");
      const error = await failure(openFilesystemStorage(path), "NOT_FOUND");
      expect(error.message).to.contain(path);
      expect(error.hint).to.contain("mounted");
      expect(readdirSync(root)).to.deep.equal([]);
    });

    it("says that a file is no directory", async () => {
      const path = join(root, "file");
      await writeFile(path, "");
      for (const create of [false, true]) {
        const error = await failure(openFilesystemStorage(path, { create }), "FAILED_PRECONDITION");
        expect(error.message).to.contain(`${path} is not a directory`);
        await failure(openFilesystemStorage(join(path, "below"), { create }), "FAILED_PRECONDITION");
      }
    });

    it("keeps the root's mode and its blobs when it is created again", async () => {
      await (await openFilesystemStorage(root, { create: true })).put("xe1", [bytesOf("x")]);
      await chmod(root, 0o750);
      const store = await openFilesystemStorage(root, { create: true });
      expect(textOf(await store.get("xe1"))).to.equal("x");
      expect((await stat(root)).mode & 0o777).to.equal(0o750);
    });

    it("without permission says so, at opening and at writing", async function () {
      if (process.getuid?.() !== 0 || process.seteuid === undefined) {
        this.skip();
      }
      await openFilesystemStorage(root, { create: true });
      await chmod(root, 0o755);
      await chmod(join(root, ".shards"), 0o644);
      const locked = join(root, "locked");
      mkdirSync(locked, 0o700);
      process.seteuid(65_534); // access() still asks for the real user, so only opening and writing files tell
      try {
        const store = await openFilesystemStorage(root);
        const error = await failure(store.put("xe1", []), "PERMISSION_DENIED");
        expect(error.message).to.contain("xe1");
        expect(error.hint).to.contain("owner");
        await failure(openFilesystemStorage(locked), "PERMISSION_DENIED");
      } finally {
        process.seteuid(0);
      }
    });
  });

  it("tells a repository that has gone from one that is empty", async () => {
    const path = join(root, "mount");
    const store = await openFilesystemStorage(path, { create: true });
    const pack = "p0bb110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147";
    await store.put(pack, []);
    await rm(path, { recursive: true });
    const check = async (): Promise<void> => {
      expect((await failure(store.get(pack), "FAILED_PRECONDITION")).hint).to.contain("mounted");
      await failure(store.stat(pack), "FAILED_PRECONDITION");
      await failure(store.put(pack, []), "FAILED_PRECONDITION");
      await failure(listed(store, "p"), "FAILED_PRECONDITION");
    };
    await check();
    expect(readdirSync(root)).to.deep.equal([]);
    await mkdir(path); // the bare mount point
    await check();
    expect(readdirSync(path)).to.deep.equal([]);
  });

  it("makes shard directories again when they vanish", async () => {
    const store = await openFilesystemStorage(root, { create: true });
    const pack = "p0bb110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147";
    await store.put(pack, []);
    await rm(join(root, "p"), { recursive: true });
    await store.put(pack, [bytesOf("again")]);
    expect(textOf(await store.get(pack))).to.equal("again");
  });

  describe("durability", () => {
    const pack = "p0bb110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147";

    it("syncs the file before it has its name, then its directory and the new ones above, these once", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      const leaf = join(root, "p/0bb");
      const synced: string[] = [];
      const put = async (id: string): Promise<string[]> => {
        synced.length = 0;
        await store.put(id, [bytesOf("x")]);
        return synced;
      };
      await withPatched(
        "sync",
        (original) =>
          async function (this: FileHandle) {
            const path = readlinkSync(`/proc/self/fd/${this.fd}`);
            const named = filesBelow(root).some((file) => file.endsWith(".f") && !file.endsWith("other.f"));
            synced.push(`${path.replace(/[0-9a-f]{16}$/, "#")} ${named ? "named" : "unnamed"}`);
            return original.call(this);
          },
        async () => {
          expect(await put(pack)).to.deep.equal([
            `${leaf}/110664e8b5b7c31fd49c9e3ba469a-s531bea9f2b3eaa72147.f.tmp.# unnamed`,
            `${leaf} named`,
            `${join(root, "p")} named`,
            `${root} named`,
          ]);
          expect((await put(`${pack}2`)).slice(1)).to.deep.equal([`${leaf} named`]);
          expect((await put("xe1")).slice(1)).to.deep.equal([`${root} named`]);
        },
      );
    });

    it("syncs directories that another process has made", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      await mkdir(join(root, "p/0bb"), { recursive: true });
      const synced: string[] = [];
      await withPatched(
        "sync",
        (original) =>
          async function (this: FileHandle) {
            synced.push(readlinkSync(`/proc/self/fd/${this.fd}`));
            return original.call(this);
          },
        () => store.put(pack, []),
      );
      expect(synced.slice(1)).to.deep.equal([join(root, "p/0bb"), join(root, "p"), root]);
    });
  });

  describe("failing system calls", () => {
    it("a write error leaves nothing behind, and is worth another try", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      await store.put("xe1", [bytesOf("old")]);
      const before = filesBelow(root);
      for (const method of ["writev", "sync", "close"] as const) {
        await withPatched(
          method === "writev" ? "writev" : "sync",
          () =>
            async function (this: FileHandle) {
              if (method === "close") {
                const close = this.close.bind(this);
                this.close = async () => {
                  await close();
                  throw systemError("EIO");
                };
              } else {
                throw systemError("EIO");
              }
            },
          async () => {
            const error = await failure(store.put("xe1", [bytesOf("new")]), "UNAVAILABLE");
            expect(error.message).to.contain("xe1").and.to.contain("EIO");
            await failure(store.put("xe2", [bytesOf("new")], { onlyIfAbsent: true }), "UNAVAILABLE");
          },
        );
        expect(filesBelow(root), method).to.deep.equal(before);
        expect(textOf(await store.get("xe1"))).to.equal("old");
      }
      expect(openFilesBelow(root)).to.deep.equal([]);
    });

    it("a directory that cannot be synced fails the put, unless directories never can be there", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      for (const [errno, outcome] of [
        ["EIO", "UNAVAILABLE"],
        ["EINVAL", undefined],
      ] as const) {
        await withPatched(
          "sync",
          (original) =>
            async function (this: FileHandle) {
              if ((await this.stat()).isDirectory()) {
                throw systemError(errno);
              }
              return original.call(this);
            },
          async () => {
            const error = await rejection(store.put("xe1", []));
            expect((error as { code?: string } | undefined)?.code).to.equal(outcome);
          },
        );
      }
    });

    it("a read error is data loss, a stale handle is not", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      await store.put("xe1", [bytesOf("x")]);
      for (const [errno, code] of [
        ["EIO", "DATA_LOSS"],
        ["ESTALE", "UNAVAILABLE"],
      ] as const) {
        await withPatched(
          "read",
          () => async () => {
            throw systemError(errno);
          },
          async () => {
            expect((await failure(store.get("xe1"), code)).message)
              .to.contain("xe1")
              .and.to.contain(errno);
          },
        );
      }
      expect(openFilesBelow(root)).to.deep.equal([]);
    });

    it(`short writes and reads are continued (seed ${seed})`, async () => {
      const random = seededRandom(seed);
      const store = await openFilesystemStorage(root, { create: true });
      const data = randomBytes(random, 300_000);
      const parts = Array.from({ length: 300 }, (_, index) => data.subarray(index * 1000, (index + 1) * 1000));
      await withPatched(
        "writev",
        (original) =>
          async function (this: FileHandle, all: Uint8Array[], position: number) {
            const some = all.slice(0, Math.ceil(random() * 40));
            const last = some.length - 1;
            some[last] = some[last]!.subarray(0, Math.ceil(random() * some[last]!.length));
            return original.call(this, some, position);
          },
        () => store.put("blob", parts),
      );
      await withPatched(
        "read",
        (original) =>
          async function (this: FileHandle, target: Uint8Array, offset: number, length: number, position: number) {
            return original.call(this, target, offset, Math.ceil(random() * length), position);
          },
        async () => {
          expect(Buffer.compare(await store.get("blob"), data)).to.equal(0);
          const range = { offsetBytes: 5, lengthBytes: 1234 };
          const target = new Uint8Array(2000);
          expect(Buffer.compare(await store.get("blob", { range, target }), data.subarray(5, 1239))).to.equal(0);
        },
      );
    });
  });

  describe("on a small file system", () => {
    let mount: string;

    beforeEach(async function () {
      mount = join(root, "mount");
      await mkdir(mount);
      try {
        execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", mount], { stdio: "ignore" });
      } catch {
        this.skip(); // needs root
      }
    });

    afterEach(() => {
      try {
        execFileSync("umount", [mount], { stdio: "ignore" });
      } catch {
        // it was not mounted
      }
    });

    it("reports a full disk with a hint, leaves nothing behind, and works again afterwards", async () => {
      const store = await openFilesystemStorage(mount, { create: true });
      const before = filesBelow(mount);
      for (const onlyIfAbsent of [false, true]) {
        const parts = [new Uint8Array(3_000_000), new Uint8Array(3_000_000)];
        const error = await failure(store.put("blob", parts, { onlyIfAbsent }), "RESOURCE_EXHAUSTED");
        expect(error.message).to.contain("blob").and.to.contain(mount).and.to.contain("ENOSPC");
        expect(error.hint).to.contain("full");
        expect(filesBelow(mount)).to.deep.equal(before);
      }
      await store.put("blob", [new Uint8Array(3_000_000)]);
      expect((await store.get("blob")).length).to.equal(3_000_000);
    });

    it("reads where nothing can be written, and says why it does not write", async () => {
      await (await openFilesystemStorage(mount, { create: true })).put("xe1", [bytesOf("x")]);
      execFileSync("mount", ["-o", "remount,ro", mount]);
      const store = await openFilesystemStorage(mount);
      expect(textOf(await store.get("xe1"))).to.equal("x");
      expect(await listed(store, "")).to.have.length(1);
      const error = await failure(store.put("xe2", []), "FAILED_PRECONDITION");
      expect(error.hint).to.contain("read-only");
      await failure(store.delete("xe1"), "FAILED_PRECONDITION");
      expect((await failure(openFilesystemStorage(mount, { create: true }), "FAILED_PRECONDITION")).message).to.contain(
        "writable",
      );
    });
  });

  describe("removeStaleTemporaryFiles", () => {
    it("removes what is older than a day, and nothing else", async () => {
      const store = await openFilesystemStorage(root, { create: true });
      await store.put("p0bb110664e8b5b7c31fd49c9e3ba469a", []);
      const old = (Date.now() - 25 * 3600 * 1000) / 1000;
      const young = (Date.now() - 23 * 3600 * 1000) / 1000;
      const files: [string, number][] = [
        ["p/0bb/110.f.tmp.0123456789abcdef", old],
        ["xe1.f.tmp.fedcba9876543210", old],
        [".shards.tmp.fedcba9876543210", old],
        ["xe2.f.tmp.0123456789abcdef", young],
        ["xe3.f.tmp.0123", old],
        ["xe1.tmp.0123456789abcdef.f", old], // a blob, whatever its name
      ];
      for (const [file, seconds] of files) {
        await writeFile(join(root, file), "12345");
        await utimes(join(root, file), seconds, seconds);
      }
      expect(await store.removeStaleTemporaryFiles()).to.deep.equal({ files: 3, bytes: 15 });
      expect(filesBelow(root).sort()).to.deep.equal([
        ".shards",
        "p/0bb/110664e8b5b7c31fd49c9e3ba469a.f",
        "xe1.tmp.0123456789abcdef.f",
        "xe2.f.tmp.0123456789abcdef",
        "xe3.f.tmp.0123",
      ]);
      expect(await store.removeStaleTemporaryFiles({ nowMs: Date.now() + 7_200_000 })).to.deep.equal({
        files: 1,
        bytes: 5,
      });
    });
  });
});

/** All files below a directory, as paths relative to it. */
function filesBelow(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1));
}

/** The files below a directory that this process has open. */
function openFilesBelow(root: string): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const path = readlinkSync(`/proc/self/fd/${fd}`);
      return path.startsWith(root) ? [path] : [];
    } catch {
      return []; // the one that listed them
    }
  });
}

type Method = (this: FileHandle, ...args: never[]) => Promise<unknown>;
// The patched methods have many overloads; the tests know which one is called.
type AnyMethod = (this: FileHandle, ...args: unknown[]) => Promise<unknown>;

/** Runs `work` while a method of all file handles is another one. */
async function withPatched(
  name: "sync" | "writev" | "read",
  replacement: (original: AnyMethod) => Method,
  work: () => Promise<void>,
): Promise<void> {
  const handle = await open("/dev/null");
  const prototype = Object.getPrototypeOf(handle) as Record<string, AnyMethod>;
  await handle.close();
  const original = prototype[name]!;
  prototype[name] = replacement(original) as AnyMethod;
  try {
    await work();
  } finally {
    prototype[name] = original;
  }
}

function systemError(errno: string): Error {
  return Object.assign(new Error(`${errno}: made up, for a test`), { code: errno, syscall: "test" });
}
