/** Another client of the same repository, in the hand of a test: what Kopia's maintenance does to contents. */
import { deriveContentKey } from "../../services/datapath/repository/kopia/keys.js";
import type { ContentId } from "../../services/datapath/repository/kopia/content-id.js";
import { newContentCipher } from "../../services/datapath/repository/kopia/encryption.js";
import { decodeFormatBlob, FORMAT_BLOB_ID } from "../../services/datapath/repository/kopia/format-blob.js";
import { newContentHash } from "../../services/datapath/repository/kopia/hashing.js";
import { watermarkName } from "../../services/datapath/repository/kopia/epoch.js";
import { IndexStore } from "../../services/datapath/repository/kopia/index-store.js";
import { newSessionId } from "../../services/datapath/repository/kopia/session.js";
import type { BlobStorage } from "../../services/datapath/repository/storage/blob-storage.js";
import { TEST_PASSWORD } from "./memory-repository.js";

export class OtherClient {
  private constructor(
    private readonly storage: BlobStorage,
    readonly index: IndexStore,
    /** 32 bytes; equal for all clients of one repository. */
    readonly contentKey: Buffer,
  ) {}

  static async open(storage: BlobStorage, nowMs: () => number = Date.now): Promise<OtherClient> {
    const { format } = await decodeFormatBlob(await storage.get(FORMAT_BLOB_ID), TEST_PASSWORD);
    const index = new IndexStore({
      storage,
      hash: newContentHash(format.hash, format.secret),
      cipher: newContentCipher(format.encryption, format.masterKey),
      epochRefreshFrequencyMs: format.epochParameters.epochRefreshFrequencyMs,
      nowMs,
    });
    await index.load();
    return new OtherClient(storage, index, deriveContentKey(format.masterKey));
  }

  /** Marks contents as deleted, as snapshot GC does with what no manifest reaches. */
  async markDeleted(ids: readonly ContentId[]): Promise<void> {
    await this.index.load();
    const entries = ids.map((id) => {
      const entry = this.index.find(id);
      if (entry === undefined) throw new Error(`content ${id} is not in the index`);
      return { ...entry, deleted: true, timestampSeconds: entry.timestampSeconds + 1 };
    });
    await this.index.write(entries, newSessionId(Date.now()));
  }

  /** Marks contents as deleted and moves the watermark past them: from now on they do not exist. */
  async drop(ids: readonly ContentId[]): Promise<void> {
    await this.markDeleted(ids);
    const newest = Math.max(...ids.map((id) => this.index.newestTimestampSeconds(id)));
    await this.storage.put(watermarkName(newest), [Buffer.from("deletion-watermark")]);
  }
}
