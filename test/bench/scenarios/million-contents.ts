/**
 * Makes a repository look as if somebody else had stored very many contents in it.
 *
 * Only their index blobs are made: packs that nobody reads need not be there.
 */
import { ContentCipher, type KeyedHash } from "../../../native/index.js";
import { sealHashedBlob } from "../../../services/datapath/repository/kopia/blob-crypto.js";
import { contentIdOf } from "../../../services/datapath/repository/kopia/content-id.js";
import { newContentCipher } from "../../../services/datapath/repository/kopia/encryption.js";
import { indexBlobSuffix, uncompactedPrefix } from "../../../services/datapath/repository/kopia/epoch.js";
import { decodeFormatBlob, FORMAT_BLOB_ID } from "../../../services/datapath/repository/kopia/format-blob.js";
import { newContentHash } from "../../../services/datapath/repository/kopia/hashing.js";
import type { ContentEntry } from "../../../services/datapath/repository/kopia/index-entry.js";
import { encodeIndexV2 } from "../../../services/datapath/repository/kopia/index-v2.js";
import { newPackBlobId } from "../../../services/datapath/repository/kopia/pack.js";
import { newSessionId } from "../../../services/datapath/repository/kopia/session.js";
import { openStorage } from "../../../services/datapath/repository/storage/storage-url.js";
import { Random } from "../../support/random-data.js";
import { MiB } from "../../support/sizes.js";

/** 1 MiB contents in packs of 20 MiB. */
const CONTENTS_A_PACK = 20;

export async function addForeignContents(options: {
  readonly repository: string;
  readonly password: string;
  readonly contentCount: number;
  readonly blobCount: number;
  readonly seed: number;
}): Promise<void> {
  const { repository, password, contentCount, blobCount, seed } = options;
  const storage = await openStorage(repository);
  try {
    const { format } = await decodeFormatBlob(await storage.get(FORMAT_BLOB_ID), password);
    const crypto: { hash: KeyedHash; cipher: ContentCipher } = {
      hash: newContentHash(format.hash, format.secret),
      cipher: newContentCipher(format.encryption, format.masterKey),
    };
    const random = new Random(seed).fork("contents");
    const sessionId = newSessionId(Date.now());
    for (let blob = 0; blob < blobCount; blob++) {
      const count = Math.floor(contentCount / blobCount);
      const payload = encodeIndexV2([...entriesOf(random, count, crypto.hash.outputBytes, sessionId)]);
      const suffix = indexBlobSuffix(sessionId, 1).replace(/^-/, "");
      const { id, bytes } = sealHashedBlob(crypto, { prefix: uncompactedPrefix(0), suffix, payload });
      await storage.put(id, [bytes]);
    }
  } finally {
    await storage.close();
  }
}

function* entriesOf(random: Random, count: number, hashBytes: number, sessionId: string): Generator<ContentEntry> {
  const timestampSeconds = Math.floor(Date.now() / 1000);
  let packBlobId = "";
  for (let index = 0; index < count; index++) {
    const place = index % CONTENTS_A_PACK;
    if (place === 0) packBlobId = newPackBlobId("p", sessionId);
    yield {
      contentId: contentIdOf("", random.bytes(hashBytes)),
      packBlobId,
      packOffset: 40 + place * (MiB + ContentCipher.overheadBytes),
      packedLength: MiB + ContentCipher.overheadBytes,
      originalLength: MiB,
      timestampSeconds,
      deleted: false,
      formatVersion: 3,
      compressionHeaderId: 0,
      encryptionKeyId: 0,
    };
  }
}
