/**
 * Writes contents into packs: deduplicates, compresses, encrypts, packs, uploads, indexes.
 *
 *     writeContents ─▶ hash (vector lanes) ─▶ known? ─▶ compress ─▶ reserve in pack ─▶ seal in place ─▶ upload
 *                                              └─ live in the index or pending: nothing to write
 *
 * What it guarantees (kopia-format.md §9.7, §10): a session marker exists before the first pack of a session is
 * stored; an index blob names a pack only after the pack is durable; the marker goes after the index is durable.
 * Packs without an index never get older than FLUSH_INTERVAL_MS while contents are written.
 *
 * Memory: one slab for each open pack, two more under way to the store; never more than MAX_PENDING_CONTENTS
 * entries that are not yet in an index blob.
 *
 * Calls may overlap. After the first failure every further call fails with it: the caller gives up its backup.
 */
import type { ContentCipher, KeyedHash } from "../../../../native/index.js";
import { ContentCipher as Cipher } from "../../../../native/index.js";
import { assert } from "../../../common/assert.js";
import { BlockmoverError } from "../../../common/errors.js";
import { raceAbort, throwIfAborted } from "../../../common/cancellation.js";
import type { BlobStorage } from "../storage/blob-storage.js";
import { compressionByName } from "./compression.js";
import { GroupCompressor, type CompressedGroupItem, type WritableCompression } from "./group-compressor.js";
import { contentIdIv, contentIdOf, type ContentId, type ContentPrefix } from "./content-id.js";
import type { RepositoryFormat } from "./format-blob.js";
import type { ContentEntry } from "./index-entry.js";
import type { IndexStore } from "./index-store.js";
import { PackBuilder } from "./pack-builder.js";
import type { PackKind } from "./pack.js";
import { openSession, type Session } from "./session-marker.js";
import { SlabPool } from "./slab-pool.js";

/** Kopia flushes its index when the last flush is this old; un-indexed packs look like garbage to maintenance. */
const FLUSH_INTERVAL_MS = 10 * 60 * 1000;

/** An index blob of this many entries has about 2.2 MB: the bound of what is pending in memory. */
const MAX_PENDING_CONTENTS = 65_536;

/** An index view older than this must not be used to decide that a content is already there (§10.4 #4). */
const INDEX_MAX_AGE_MS = 15 * 60 * 1000;

/** Room for one content beyond a full pack: 1 MiB, the compression header and the cipher's overhead, page-rounded. */
const SLAB_HEADROOM_BYTES = 1024 * 1024 + 64 * 1024;

/** One open data pack, one open metadata pack, two on their way to the store. */
const SLAB_COUNT = 4;

export interface ContentWriterStats {
  uploadedBytes: number;
  newContentBytes: number;
  deduplicatedBytes: number;
}

export interface ContentWriterOptions {
  readonly storage: BlobStorage;
  readonly format: RepositoryFormat;
  readonly hash: KeyedHash;
  readonly cipher: ContentCipher;
  readonly index: IndexStore;
  readonly identity: { readonly userName: string; readonly host: string };
  readonly nowMs: () => number;
  /** Called before the index is read anew during a long run. */
  readonly beforeReload?: (signal: AbortSignal | undefined) => Promise<void>;
}

export interface WrittenContents {
  readonly ids: readonly ContentId[];
  /** Plaintext bytes of those that the repository did not have. */
  readonly newBytes: number;
}

export class ContentWriter {
  readonly stats: ContentWriterStats = { uploadedBytes: 0, newContentBytes: 0, deduplicatedBytes: 0 };
  readonly #options: ContentWriterOptions;
  readonly #slabs: SlabPool;
  readonly #compressor = new GroupCompressor();
  /** Contents of this session: claimed by a call (undefined) or sealed into a pack. Not yet in an index blob. */
  readonly #pending = new Map<ContentId, ContentEntry | undefined>();
  readonly #openPacks: Record<PackKind, PackBuilder | undefined> = { p: undefined, q: undefined };
  readonly #packTurns: Record<PackKind, Promise<unknown>> = { p: Promise.resolve(), q: Promise.resolve() };
  readonly #uploads = new Set<Promise<void>>();
  /** Calls of writeContents between their claim of contents and their last seal. */
  readonly #activeWrites = new Set<Promise<unknown>>();
  #flushing: Promise<void> | undefined;
  #session: Promise<Session> | undefined;
  #sessionStartedMs = 0;
  #failure: { readonly error: unknown } | undefined;
  /** Ends uploads that nobody wants any more, which a store out of order may keep trying for minutes. */
  readonly #abandoned = new AbortController();

  constructor(options: ContentWriterOptions) {
    this.#options = options;
    this.#slabs = new SlabPool({
      slabSizeBytes: options.format.maxPackSizeBytes + SLAB_HEADROOM_BYTES,
      capacity: SLAB_COUNT,
    });
  }

  /**
   * Makes sure that the repository has these contents, and returns their ids in order.
   *
   * The parts must not change until the promise settles. They are durable only after `flush`.
   *
   * @param prefix kind of content: "" for data, "k" directory, "m" manifest, "x" entry table
   * @param compression name of a compressor; kept only where it makes a content smaller
   */
  async writeContents(
    prefix: ContentPrefix,
    parts: readonly Uint8Array[],
    compression: string,
    signal?: AbortSignal,
  ): Promise<WrittenContents> {
    while (!this.#isReady()) {
      await this.#makeReady(signal);
    }
    throwIfAborted(signal);
    this.#throwIfFailed();
    // From here to `add` nothing waits: a flush that starts later sees this call and waits for it.
    const write = this.#writeContents(prefix, parts, compressionByName(compression), signal);
    this.#activeWrites.add(write);
    try {
      return await write;
    } catch (error) {
      this.#fail(error);
      throw error;
    } finally {
      this.#activeWrites.delete(write);
    }
  }

  /** Writes a content again although the index has it, because that entry is marked deleted (§10.4 #5). */
  async rewriteDeleted(id: ContentId, plaintext: Uint8Array, compression: string, signal?: AbortSignal): Promise<void> {
    const prefix = (id.length % 2 === 1 ? id.slice(0, 1) : "") as ContentPrefix;
    const { ids } = await this.writeContents(prefix, [plaintext], compression, signal);
    if (ids[0] !== id) {
      throw new BlockmoverError("DATA_LOSS", `content ${id}: its bytes have the id ${ids[0]}: it is damaged`);
    }
  }

  /** Uploads every open pack and makes everything written so far part of the index. */
  async flush(signal?: AbortSignal): Promise<void> {
    while (this.#flushing) {
      await this.#flushing;
    }
    this.#throwIfFailed();
    const flushing = this.#flush(signal);
    const settled = flushing.then(
      () => undefined,
      () => undefined,
    );
    this.#flushing = settled;
    try {
      await flushing;
    } catch (error) {
      this.#fail(error);
      throw error;
    } finally {
      this.#flushing = undefined;
    }
  }

  /** Gives up what is not flushed, once nothing of it is under way, and removes this session's marker. */
  async abandon(): Promise<void> {
    const closed = new BlockmoverError("FAILED_PRECONDITION", "the repository has been closed");
    this.#fail(closed);
    this.#abandoned.abort(closed);
    await Promise.allSettled([...this.#activeWrites, this.#flushing]);
    await Promise.allSettled([...this.#uploads]);
    const session = await this.#session?.catch(() => undefined);
    this.#session = undefined;
    // The store may be what failed; a marker that stays is harmless, maintenance removes it after 96 hours.
    await session?.remove().catch(() => undefined);
  }

  async #writeContents(
    prefix: ContentPrefix,
    parts: readonly Uint8Array[],
    compression: WritableCompression | undefined,
    signal: AbortSignal | undefined,
  ): Promise<WrittenContents> {
    const { hash } = this.#options;
    const digests =
      parts.length === 1 && (parts[0] as Uint8Array).length < 65_536
        ? hash.digest(parts[0] as Uint8Array)
        : await hash.digestMany(parts);
    this.#throwIfFailed();
    const ids: ContentId[] = [];
    const missing: { readonly id: ContentId; readonly plaintext: Uint8Array }[] = [];
    let newBytes = 0;
    for (const [position, plaintext] of parts.entries()) {
      const id = contentIdOf(prefix, digests.subarray(position * hash.outputBytes, (position + 1) * hash.outputBytes));
      ids.push(id);
      if (this.#pending.has(id) || this.#options.index.isLive(id)) {
        this.stats.deduplicatedBytes += plaintext.length;
      } else {
        this.#pending.set(id, undefined);
        missing.push({ id, plaintext });
        newBytes += plaintext.length;
      }
    }
    if (missing.length > 0) {
      const kind = prefix === "" ? "p" : "q";
      await this.#compressor.with(missing, compression, (jobs) => this.#sealIntoPacks(kind, jobs, signal), signal);
      this.stats.newContentBytes += newBytes;
    }
    return { ids, newBytes };
  }

  async #sealIntoPacks(
    kind: PackKind,
    jobs: readonly CompressedGroupItem[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { cipher, format, index, nowMs } = this.#options;
    let next = 0;
    while (next < jobs.length) {
      throwIfAborted(signal);
      const pack = await this.#packWithRoom(kind, sealedLength(jobs[next] as CompressedGroupItem), signal);
      this.#throwIfFailed();
      const batch: { readonly job: CompressedGroupItem; readonly offset: number; readonly target: Uint8Array }[] = [];
      while (next < jobs.length) {
        const job = jobs[next] as CompressedGroupItem;
        const reserved = pack.reserve(sealedLength(job));
        if (reserved === undefined) {
          break;
        }
        batch.push({ job, ...reserved });
        next++;
      }
      await cipher.sealMany(
        batch.map(({ job, target }) => ({ plaintext: job.stored, iv: contentIdIv(job.id), target })),
      );
      for (const { job, offset, target } of batch) {
        const entry: ContentEntry = {
          contentId: job.id,
          packBlobId: pack.blobId,
          packOffset: offset,
          packedLength: target.length,
          originalLength: job.originalLength,
          timestampSeconds: Math.max(Math.floor(nowMs() / 1000), index.newestTimestampSeconds(job.id) + 1),
          deleted: false,
          formatVersion: format.version,
          compressionHeaderId: job.compressionHeaderId,
          encryptionKeyId: 0,
        };
        this.#pending.set(job.id, entry);
        pack.add(entry);
      }
      if (pack.isFull) {
        this.#closePack(kind, pack);
      }
      if (pack.isClosed && pack.isComplete) {
        this.#upload(pack);
      }
    }
  }

  /** The open pack of this kind if `lengthBytes` fit, else a new one. One caller at a time decides. */
  #packWithRoom(kind: PackKind, lengthBytes: number, signal: AbortSignal | undefined): Promise<PackBuilder> {
    const turn = this.#packTurns[kind].then(async () => {
      this.#throwIfFailed();
      const open = this.#openPacks[kind];
      if (open?.fits(lengthBytes)) {
        return open;
      }
      if (open) {
        this.#closePack(kind, open);
        if (open.isComplete) {
          this.#upload(open);
        }
      }
      const session = await this.#currentSession(signal);
      const slab = await this.#slabs.acquire(signal);
      const pack = new PackBuilder({
        kind,
        sessionId: session.id,
        slab,
        fullAtBytes: this.#options.format.maxPackSizeBytes,
        leastBytes: lengthBytes,
      });
      this.#openPacks[kind] = pack;
      return pack;
    });
    this.#packTurns[kind] = turn.catch(() => undefined);
    return turn;
  }

  #closePack(kind: PackKind, pack: PackBuilder): void {
    if (this.#openPacks[kind] === pack) {
      this.#openPacks[kind] = undefined;
    }
    pack.close();
  }

  /** Starts the upload of a closed, complete pack. Its slab comes back when the pack is durable. */
  #upload(pack: PackBuilder): void {
    if (!pack.claimUpload()) {
      return;
    }
    const { storage, cipher, hash } = this.#options;
    const upload = (async () => {
      try {
        const parts = pack.finish({ hash, cipher });
        await storage.put(pack.blobId, parts, { onlyIfAbsent: false, signal: this.#abandoned.signal });
        this.stats.uploadedBytes += parts.reduce((sum, part) => sum + part.length, 0);
      } catch (error) {
        this.#fail(error);
      } finally {
        this.#slabs.release(pack.slab);
      }
    })();
    this.#uploads.add(upload);
    void upload.finally(() => this.#uploads.delete(upload));
  }

  async #flush(signal: AbortSignal | undefined): Promise<void> {
    await Promise.allSettled([...this.#activeWrites]);
    this.#throwIfFailed();
    for (const kind of ["p", "q"] as const) {
      await this.#packTurns[kind];
      const pack = this.#openPacks[kind];
      if (pack) {
        this.#closePack(kind, pack);
        assert(pack.isComplete, "nothing is being sealed during a flush");
        this.#upload(pack);
      }
    }
    // An abort does not wait for the uploads; `abandon` does.
    await raceAbort(Promise.all([...this.#uploads]), signal);
    this.#throwIfFailed();
    throwIfAborted(signal);
    if (this.#session === undefined) {
      assert(this.#pending.size === 0, "contents belong to a session");
      return;
    }
    const session = await this.#session;
    if (this.#pending.size > 0) {
      const entries: ContentEntry[] = [];
      for (const entry of this.#pending.values()) {
        assert(entry !== undefined, "a content that is flushed has been sealed");
        entries.push(entry);
      }
      this.stats.uploadedBytes += await this.#options.index.write(entries, session.id, signal);
      this.#pending.clear();
    }
    this.#session = undefined;
    // What was flushed is in the repository, a snapshot perhaps: a marker that stays does not undo that.
    await session.remove().catch(() => undefined);
  }

  #isReady(): boolean {
    return this.#flushing === undefined && !this.#mustFlush() && !this.#mustReload();
  }

  #mustFlush(): boolean {
    const isOld = this.#session !== undefined && this.#options.nowMs() - this.#sessionStartedMs >= FLUSH_INTERVAL_MS;
    return this.#pending.size >= MAX_PENDING_CONTENTS || isOld;
  }

  #mustReload(): boolean {
    return this.#options.nowMs() - this.#options.index.loadedAtMs >= INDEX_MAX_AGE_MS;
  }

  async #makeReady(signal: AbortSignal | undefined): Promise<void> {
    throwIfAborted(signal);
    this.#throwIfFailed();
    if (this.#flushing) {
      await this.#flushing;
    } else if (this.#mustFlush()) {
      await this.flush(signal);
    } else {
      await this.#options.beforeReload?.(signal);
      await this.#options.index.load(signal);
    }
  }

  #currentSession(signal: AbortSignal | undefined): Promise<Session> {
    if (this.#session === undefined) {
      if (this.#options.format.indexVersion !== 2) {
        throw new BlockmoverError("UNIMPLEMENTED", "writing indexes of version 1 is not supported", {
          hint: "Upgrade the repository with `kopia repository upgrade`.",
        });
      }
      this.#sessionStartedMs = this.#options.nowMs();
      this.#session = openSession(this.#options, signal);
    }
    return this.#session;
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
  }

  #throwIfFailed(): void {
    if (this.#failure) {
      throw this.#failure.error;
    }
  }
}

function sealedLength(job: CompressedGroupItem): number {
  return job.stored.length + Cipher.overheadBytes;
}
