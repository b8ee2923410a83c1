/**
 * What an agent tells a data mover on its standard input: where to attach, and with what.
 *
 * Never in the arguments or the environment, which others can read: the token is a secret. The request itself, with the
 * repository's password, comes over the stream afterwards.
 */
import type { Readable } from "node:stream";
import { BlockmoverError } from "../common/errors.js";

export interface MoverBootstrap {
  readonly transferId: string;
  /** One-time token for MoverService.Attach. */
  readonly token: string;
  /** The agent's unix socket. */
  readonly agentSocket: string;
  /** Where the mover leaves its outcome, in case that the agent does not hear of it. */
  readonly resultFile: string;
  /** How long the mover goes on without its agent. */
  readonly awayLimitMs: number;
}

const MAX_BYTES = 64 * 1024;

/** @throws BlockmoverError INVALID_ARGUMENT when it is not there or not whole: the agent died while it wrote */
export async function readMoverBootstrap(input: Readable): Promise<MoverBootstrap> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of input as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BYTES) {
      break;
    }
    chunks.push(chunk);
  }
  let value: Partial<Record<keyof MoverBootstrap, unknown>> = {};
  try {
    value = (JSON.parse(Buffer.concat(chunks).toString()) ?? {}) as typeof value;
  } catch {
    // told below; the text is not, because it may hold the token
  }
  const { transferId, token, agentSocket, resultFile, awayLimitMs } = value;
  if (
    typeof transferId !== "string" ||
    typeof token !== "string" ||
    typeof agentSocket !== "string" ||
    typeof resultFile !== "string" ||
    typeof awayLimitMs !== "number"
  ) {
    throw new BlockmoverError("INVALID_ARGUMENT", "standard input does not say which transfer to run", {
      hint: "A data mover is started by an agent: use `blockmover backup` or `blockmover restore`.",
    });
  }
  return { transferId, token, agentSocket, resultFile, awayLimitMs };
}
