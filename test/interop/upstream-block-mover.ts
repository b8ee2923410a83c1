/**
 * Writes volumes as Velero's own block mover does (velero-block-layout.md, kopia-format.md §8.13): every byte of JSON by
 * hand, so that nothing of what our own writer does better slips in.
 *
 * Only the layers below objects are ours: contents, packs, indexes.
 */
import { randomBytes } from "node:crypto";
import { open } from "node:fs/promises";
import { gzipSync } from "node:zlib";

import type { ContentPrefix } from "../../services/datapath/repository/kopia/content-id.js";
import { ContentWriter } from "../../services/datapath/repository/kopia/content-writer.js";
import { newContentCipher } from "../../services/datapath/repository/kopia/encryption.js";
import { decodeFormatBlob, FORMAT_BLOB_ID } from "../../services/datapath/repository/kopia/format-blob.js";
import { newContentHash } from "../../services/datapath/repository/kopia/hashing.js";
import { IndexStore } from "../../services/datapath/repository/kopia/index-store.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { openStorage } from "../../services/datapath/repository/storage/storage-url.js";
import { KiB, MiB } from "../support/sizes.js";
import type { SharedRepository } from "./shared-repository.js";

/** An overflow of Go's zero time, which upstream writes for a time that it does not have. */
const noTime = "1754-08-30T22:43:41.128654848Z";

const tablePieceBytes = 128 * KiB;

export interface UpstreamVolume {
  /** Last part of the source. */
  readonly name: string;
  readonly image: string;
  readonly sizeBytes: number;
  /** Beyond the requester and uploader tags. */
  readonly tags?: Readonly<Record<string, string>>;
  readonly startTime?: string;
  /** Default: as upstream, the length of the object. */
  readonly totalSize?: number;
  /** Further files in the root directory, as no block mover writes them. */
  readonly otherEntries?: readonly string[];
}

export class UpstreamBlockMover {
  private constructor(
    private readonly storage: BlobStorage,
    private readonly contents: ContentWriter,
  ) {}

  static async open(repository: SharedRepository): Promise<UpstreamBlockMover> {
    const storage = await openStorage(repository.path);
    const { format } = await decodeFormatBlob(await storage.get(FORMAT_BLOB_ID), repository.password);
    const hash = newContentHash(format.hash, format.secret);
    const cipher = newContentCipher(format.encryption, format.masterKey);
    const { epochRefreshFrequencyMs } = format.epochParameters;
    const index = new IndexStore({ storage, hash, cipher, epochRefreshFrequencyMs, nowMs: Date.now });
    await index.load();
    const identity = { userName: "default", host: "default" };
    return new UpstreamBlockMover(
      storage,
      new ContentWriter({ storage, format, hash, cipher, index, identity, nowMs: Date.now }),
    );
  }

  /** Backs up an image and returns the snapshot's id. */
  async backUp(volume: UpstreamVolume): Promise<string> {
    const source = `snapshot-data-upload-download/velero-block/interop/${volume.name}`;
    const objectSize = Math.ceil(volume.sizeBytes / MiB) * MiB;
    const object = await this.writeVolume(volume.image, objectSize);
    const mode = "0777";
    const file = { name: source.replaceAll("/", "-"), type: "f", mode, size: objectSize, mtime: noTime, obj: object };
    const others = (volume.otherEntries ?? []).map((name) => ({ ...file, name }));
    const directory = await this.writeJson("k", {
      stream: "kopia:directory",
      entries: [file, ...others],
      summary: null,
    });
    const totalSize = volume.totalSize ?? objectSize;
    const counters = ["excludedTotalSize", "fileCount", "cachedFiles", "nonCachedFiles", "dirCount"];
    counters.push("excludedFileCount", "excludedDirCount", "ignoredErrorCount", "errorCount");
    const tags = {
      "snapshot-requester": "snapshot-data-upload-download",
      "snapshot-uploader": "velero-block",
      ...volume.tags,
    };
    const now = new Date().toISOString();
    const id = randomBytes(16).toString("hex");
    const manifest = {
      id: "",
      source: { host: "default", userName: "default", path: source },
      description: "Block Uploader",
      startTime: volume.startTime ?? now,
      endTime: now,
      stats: { totalSize, ...Object.fromEntries(counters.map((name) => [name, 0])) },
      rootEntry: {
        type: "d",
        mode,
        mtime: noTime,
        obj: directory,
        summ: { size: totalSize, files: 0, symlinks: 0, dirs: 0, maxTime: "1970-01-01T00:00:00Z", numFailed: 0 },
      },
      tags,
      pins: ["velero-pin"],
    };
    const labels = { type: "snapshot", hostname: "default", username: "default", path: source, ...tags };
    await this.writeManifestContent([{ id, labels, modified: now, data: manifest }]);
    return id;
  }

  /** A manifest content of these entries, whatever they are. */
  async writeManifestContent(entries: readonly unknown[]): Promise<void> {
    await this.writeManifestText(`{"entries":[${entries.map((entry) => JSON.stringify(entry)).join(",")}]}\n`);
  }

  async writeManifestText(text: string): Promise<void> {
    await this.write("m", gzipSync(text), "zstd-fastest");
    await this.contents.flush();
  }

  async close(): Promise<void> {
    await this.contents.abandon();
    await this.storage.close();
  }

  private async writeVolume(image: string, objectSize: number): Promise<string> {
    const handle = await open(image, "r");
    const rows: object[] = [];
    try {
      for (let at = 0; at < objectSize; at += MiB) {
        const chunk = Buffer.alloc(MiB);
        await handle.read(chunk, 0, MiB, at);
        const id = await this.write("", chunk, "none");
        rows.push({ s: at === 0 ? undefined : at, l: MiB, o: id });
      }
    } finally {
      await handle.close();
    }
    const table = Buffer.from(`${JSON.stringify({ stream: "kopia:indirect", entries: rows })}\n`);
    const pieces: { s: number | undefined; l: number; o: string }[] = [];
    for (let at = 0; at < table.length; at += tablePieceBytes) {
      const piece = table.subarray(at, at + tablePieceBytes);
      const id = await this.write("x", piece, "zstd-fastest");
      pieces.push({ s: at === 0 ? undefined : at, l: piece.length, o: id });
    }
    if (pieces.length === 1) return `I${pieces[0]!.o}`;
    const upper = JSON.stringify({ stream: "kopia:indirect", entries: pieces });
    return `II${await this.write("x", Buffer.from(`${upper}\n`), "none")}`;
  }

  private writeJson(prefix: ContentPrefix, value: unknown): Promise<string> {
    return this.write(prefix, Buffer.from(`${JSON.stringify(value)}\n`), "zstd-fastest");
  }

  private async write(prefix: ContentPrefix, bytes: Uint8Array, compression: string): Promise<string> {
    const { ids } = await this.contents.writeContents(prefix, [bytes], compression);
    return ids[0]!;
  }
}
