/**
 * What an index says about one content: where its bytes lie, how long they are, since when, and whether it is deleted.
 *
 * This is the value in memory; `index-v1.ts` and `index-v2.ts` know its bytes. Source: Kopia repo/content/index/info.go.
 */
import { type ContentId } from "./content-id.js";

export interface ContentEntry {
  readonly contentId: ContentId;
  /** Blob that holds the bytes; opaque, whoever wrote it chose the name. */
  readonly packBlobId: string;
  /** Offset in bytes from the start of the pack blob; writers keep it below 2^30. */
  readonly packOffset: number;
  /** Bytes in the pack: compressed and encrypted. Below 2^28. */
  readonly packedLength: number;
  /** Bytes of the plaintext. Below 2^28. */
  readonly originalLength: number;
  /** Unix seconds; of several entries for one content the latest counts. */
  readonly timestampSeconds: number;
  /** A deleted content can still be read, but nothing new may refer to it. */
  readonly deleted: boolean;
  /** The repository's `version` when it was written; 3 today. */
  readonly formatVersion: number;
  /** Compressor (kopia-format.md §5.2), 0 for none. */
  readonly compressionHeaderId: number;
  /** Always 0 today. */
  readonly encryptionKeyId: number;
}

/** Pack offsets that a writer may record are below this. */
export const PACK_OFFSET_LIMIT_BYTES = 2 ** 30;

/** Content lengths, packed and original, are below this. */
export const CONTENT_LENGTH_LIMIT_BYTES = 2 ** 28;
