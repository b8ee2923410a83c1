/**
 * The manifests of a repository: what the index's `m` contents say, merged (kopia-format.md §8.2).
 *
 * Contents never change, so each is read once. A content that vanishes while it is read was compacted with others by
 * another client: the index is loaded again and everything starts over.
 */
import { BlockmoverError } from "../../../common/errors.js";
import type { ContentId } from "./content-id.js";
import { isMissing, type ContentReader } from "./content-reader.js";
import type { IndexStore } from "./index-store.js";
import {
  decodeManifestContent,
  hasLabels,
  mergeManifests,
  type ManifestItem,
  type ManifestLabels,
} from "./manifest.js";

const MAX_ATTEMPTS = 5;

/** Manifest contents read at once. */
const READ_DEPTH = 8;

export class ManifestStore {
  readonly #contents: ContentReader;
  readonly #index: IndexStore;
  #known = new Map<ContentId, readonly ManifestItem[]>();

  constructor(options: { contents: ContentReader; index: IndexStore }) {
    this.#contents = options.contents;
    this.#index = options.index;
  }

  /** The live items that have all of these labels. */
  async find(labels: ManifestLabels, signal?: AbortSignal): Promise<ManifestItem[]> {
    const items = await this.#load(signal);
    return [...items.values()].filter((item) => hasLabels(item, labels));
  }

  async get(id: string, signal?: AbortSignal): Promise<ManifestItem | undefined> {
    return (await this.#load(signal)).get(id);
  }

  async #load(signal: AbortSignal | undefined): Promise<Map<string, ManifestItem>> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#readMissing(signal);
        return mergeManifests(this.#known.values());
      } catch (error) {
        const isRace = isMissing(error);
        if (!isRace || attempt === MAX_ATTEMPTS) {
          throw isRace
            ? new BlockmoverError("DATA_LOSS", `the repository's manifests cannot be read: ${error.message}`, {
                cause: error,
              })
            : error;
        }
        await this.#index.load(signal);
      }
    }
  }

  async #readMissing(signal: AbortSignal | undefined): Promise<void> {
    const live = [...this.#index.manifestContents()];
    const known = new Map<ContentId, readonly ManifestItem[]>();
    const missing: ContentId[] = [];
    for (const id of live) {
      const items = this.#known.get(id);
      if (items) {
        known.set(id, items);
      } else {
        missing.push(id);
      }
    }
    for (let start = 0; start < missing.length; start += READ_DEPTH) {
      await Promise.all(
        missing.slice(start, start + READ_DEPTH).map(async (id) => {
          known.set(id, decodeManifestContent(await this.#contents.read(id, signal), id));
        }),
      );
    }
    this.#known = known;
  }
}
