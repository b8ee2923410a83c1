/**
 * Opens the store that a user names: a path or a `file:` URL. Object stores are recognised, and not there yet.
 */

import { fileURLToPath } from "node:url";
import { BlockmoverError } from "../../../common/errors.js";
import type { BlobStorage } from "./blob-storage.js";
import { openFilesystemStorage } from "./filesystem.js";
import { retrying, type RetryPolicy } from "./retrying.js";

const objectStoreSchemes = new Set(["s3", "azblob", "gs"]);

export interface OpenStorageOptions {
  /** Make the place where it is missing, for a new repository. */
  readonly create?: boolean;
  readonly retry?: Partial<RetryPolicy>;
}

/**
 * Opens a store, with retries.
 *
 * @param location a path, absolute or relative, or `file:///path`
 * @throws BlockmoverError INVALID_ARGUMENT, UNIMPLEMENTED (object stores), or what `openFilesystemStorage` throws
 * @example const storage = await openStorage("/srv/backup");
 */
export async function openStorage(location: string, options: OpenStorageOptions = {}): Promise<BlobStorage> {
  const store = await openFilesystemStorage(pathOf(location), { create: options.create });
  return retrying(store, options.retry);
}

function pathOf(location: string): string {
  // Messages name the scheme only: the rest of a URL may hold credentials.
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(location)?.[1]?.toLowerCase();
  if (scheme === undefined) {
    if (location === "" || location.includes("\0")) {
      throw new BlockmoverError("INVALID_ARGUMENT", `${JSON.stringify(location)} is not a path`);
    }
    return location;
  }
  if (objectStoreSchemes.has(scheme)) {
    throw new BlockmoverError(
      "UNIMPLEMENTED",
      `${scheme}:// is not supported yet: object stores come in a later version`,
      {
        hint: "Use a repository in a directory (a path, or file:///path).",
      },
    );
  }
  if (scheme !== "file") {
    throw new BlockmoverError("INVALID_ARGUMENT", `storage of kind ${scheme}:// is not known`, {
      hint: "Give a path or file:///path.",
    });
  }
  try {
    return fileURLToPath(location);
  } catch (error) {
    throw new BlockmoverError("INVALID_ARGUMENT", `not a file URL with an absolute path on this machine`, {
      cause: error,
      hint: "Write three slashes, as in file:///srv/backup.",
    });
  }
}
