/**
 * The requests of transfers whose data mover has not taken them yet, with the repository's password: one file each, of
 * mode 0600, in a directory of mode 0700, removed as soon as the mover has it or the transfer has ended.
 *
 * They are on disk so that what was accepted survives a crash of the agent. A state directory on a tmpfs keeps them off
 * the disk, at the price that a reboot forgets transfers; the movers do not survive that either.
 */
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { writeFileDurably } from "../common/write-file-durably.js";
import {
  StartBackupRequestSchema,
  StartRestoreRequestSchema,
  type StartBackupRequest,
  type StartRestoreRequest,
} from "../gen/blockmover/v1/agent_pb.js";

/** What starts a transfer; `case` as in Welcome.request. */
export type StartRequest =
  | { readonly case: "backup"; readonly value: StartBackupRequest }
  | { readonly case: "restore"; readonly value: StartRestoreRequest };

export class RequestStore {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async open(directory: string): Promise<RequestStore> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    return new RequestStore(directory);
  }

  /** Resolves when it is durable. */
  async put(transferId: string, request: StartRequest): Promise<void> {
    const bytes =
      request.case === "backup"
        ? toBinary(StartBackupRequestSchema, request.value)
        : toBinary(StartRestoreRequestSchema, request.value);
    await writeFileDurably(this.#file(transferId), bytes);
  }

  /** The request, or undefined when there is none. */
  async get(transferId: string, kind: StartRequest["case"]): Promise<StartRequest | undefined> {
    let bytes: Uint8Array;
    try {
      bytes = await readFile(this.#file(transferId));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") {
        return undefined;
      }
      throw error;
    }
    return kind === "backup"
      ? { case: kind, value: fromBinary(StartBackupRequestSchema, bytes) }
      : { case: kind, value: fromBinary(StartRestoreRequestSchema, bytes) };
  }

  /** Idempotent. */
  async remove(transferId: string): Promise<void> {
    await rm(this.#file(transferId), { force: true });
  }

  /** Removes what belongs to no transfer: left by a crash while one was accepted. */
  async removeAllBut(isKept: (transferId: string) => boolean): Promise<void> {
    for (const name of await readdir(this.#directory)) {
      if (!name.endsWith(".request") || !isKept(name.slice(0, -".request".length))) {
        await rm(join(this.#directory, name), { force: true });
      }
    }
  }

  #file(transferId: string): string {
    return join(this.#directory, `${transferId}.request`);
  }
}
