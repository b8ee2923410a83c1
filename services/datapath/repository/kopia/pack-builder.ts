/**
 * One pack under construction, in one slab of memory.
 *
 * Room is reserved synchronously and sealed asynchronously, so that several groups of chunks can be encrypted into
 * the same pack at once, each straight into its place. A pack goes open → closed (nothing more is reserved) →
 * complete (all that was reserved has been sealed) → uploaded.
 */
import { randomBytes } from "node:crypto";
import type { ContentCipher, KeyedHash } from "../../../../native/index.js";
import { assert } from "../../../common/assert.js";
import type { ContentEntry } from "./index-entry.js";
import { encodeIndexV2 } from "./index-v2.js";
import {
  encodeLocalIndexSuffix,
  encodePostamble,
  newPackBlobId,
  paddingLength,
  PREAMBLE_BYTES,
  type PackKind,
} from "./pack.js";

export class PackBuilder {
  readonly blobId: string;
  readonly slab: Buffer;
  readonly #memory: Buffer;
  readonly #fullAtBytes: number;
  readonly #entries: ContentEntry[] = [];
  #lengthBytes: number;
  #reservedCount = 0;
  #closed = false;
  #uploadClaimed = false;

  /**
   * @param options.fullAtBytes a pack of at least this length takes nothing more
   * @param options.leastBytes a content that must fit; one longer than the slab gets memory of its own
   */
  constructor(options: { kind: PackKind; sessionId: string; slab: Buffer; fullAtBytes: number; leastBytes: number }) {
    this.blobId = newPackBlobId(options.kind, options.sessionId);
    this.slab = options.slab;
    const needed = PREAMBLE_BYTES + options.leastBytes + 8192;
    this.#memory = needed > options.slab.length ? Buffer.allocUnsafeSlow(needed) : options.slab;
    this.#fullAtBytes = options.fullAtBytes;
    randomBytes(PREAMBLE_BYTES).copy(this.#memory, 0);
    this.#lengthBytes = PREAMBLE_BYTES;
  }

  get isFull(): boolean {
    return this.#lengthBytes >= this.#fullAtBytes;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** All that was reserved has been sealed. */
  get isComplete(): boolean {
    return this.#entries.length === this.#reservedCount;
  }

  fits(lengthBytes: number): boolean {
    // The padding is written behind the contents in the same memory, hence the page kept free.
    return !this.#closed && !this.isFull && this.#lengthBytes + lengthBytes + 4096 <= this.#memory.length;
  }

  /** Room for one sealed content, or undefined when the pack takes no more. */
  reserve(lengthBytes: number): { readonly offset: number; readonly target: Uint8Array } | undefined {
    if (!this.fits(lengthBytes)) {
      return undefined;
    }
    const offset = this.#lengthBytes;
    this.#lengthBytes += lengthBytes;
    this.#reservedCount++;
    return { offset, target: this.#memory.subarray(offset, offset + lengthBytes) };
  }

  /** Tells that the content at a reserved place has been sealed. */
  add(entry: ContentEntry): void {
    this.#entries.push(entry);
    assert(this.#entries.length <= this.#reservedCount, "a content is sealed into reserved room");
  }

  close(): void {
    this.#closed = true;
  }

  /** True for the first caller only: the one that uploads. */
  claimUpload(): boolean {
    const first = !this.#uploadClaimed;
    this.#uploadClaimed = true;
    return first;
  }

  /** The pack's bytes: contents and padding in the slab, then the encrypted local index and the postamble. */
  finish(options: { hash: KeyedHash; cipher: ContentCipher }): Uint8Array[] {
    assert(this.#closed && this.isComplete && this.#entries.length > 0, "a pack is finished once all is sealed");
    const padding = paddingLength(this.#lengthBytes);
    randomBytes(padding).copy(this.#memory, this.#lengthBytes);
    const localIndexOffset = this.#lengthBytes + padding;
    const localIndex = Buffer.concat([encodeIndexV2(this.#entries), encodeLocalIndexSuffix()]);
    const iv = options.hash.digest(localIndex);
    const sealedIndex = options.cipher.seal(localIndex, iv);
    const postamble = encodePostamble({ iv, localIndexOffset, localIndexLength: sealedIndex.length });
    return [this.#memory.subarray(0, localIndexOffset), sealedIndex, postamble];
  }
}
