/**
 * Where a repository's password comes from: a file or the environment, never an argument, which everybody could see.
 *
 * White space at its ends is no part of it: Kopia's command line and Velero both cut it off, so a repository made with
 * it could be opened by neither.
 */
import { readFile } from "node:fs/promises";
import { BlockmoverError, messageOf } from "../common/errors.js";

export const PASSWORD_VARIABLE = "BLOCKMOVER_PASSWORD";

/**
 * @param passwordFile the value of `--password-file`; undefined for the environment
 * @throws BlockmoverError INVALID_ARGUMENT when there is no password or it is empty
 */
export async function readPassword(passwordFile: string | undefined): Promise<string> {
  if (passwordFile === undefined) {
    const password = process.env[PASSWORD_VARIABLE]?.trim();
    // It has been read: processes started from here and dumps of the environment need not have it.
    delete process.env[PASSWORD_VARIABLE];
    if (password === undefined || password === "") {
      throw new BlockmoverError("INVALID_ARGUMENT", "no password for the repository was given", {
        hint: `Set ${PASSWORD_VARIABLE}, or name a file with --password-file.`,
      });
    }
    return password;
  }
  let text: string;
  try {
    text = await readFile(passwordFile, "utf8");
  } catch (error) {
    throw new BlockmoverError("INVALID_ARGUMENT", `cannot read the password file: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const password = text.trim();
  if (password === "") {
    throw new BlockmoverError("INVALID_ARGUMENT", `password file ${passwordFile} is empty`);
  }
  return password;
}
