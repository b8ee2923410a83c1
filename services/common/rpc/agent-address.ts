/**
 * Where an agent listens, and a gRPC transport to it.
 *
 * `unix:/run/blockmover/agent.sock` or an absolute path is a unix socket; `http://host:port` is TCP in plain text.
 */
import { connect } from "node:net";
import { createGrpcTransport } from "@connectrpc/connect-node";
import type { Transport } from "@connectrpc/connect";
import { BlockmoverError } from "../errors.js";

export type AgentAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "plaintext"; readonly host: string; readonly port: number };

/** The largest message that either side takes: 100,000 changed ranges fit well. */
export const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;

/** @throws BlockmoverError INVALID_ARGUMENT */
export function parseAgentAddress(text: string): AgentAddress {
  const path = text.startsWith("unix:") ? text.slice("unix:".length).replace(/^\/\/(?=\/)/, "") : text;
  if (path.startsWith("/")) {
    return { kind: "unix", path };
  }
  const match = /^http:\/\/(\[[0-9a-fA-F:]+\]|[^:/[\]]+):(\d{1,5})\/?$/.exec(text);
  const port = Number(match?.[2]);
  if (match?.[1] === undefined || port < 1 || port > 65_535) {
    throw new BlockmoverError("INVALID_ARGUMENT", `${text} is not the address of an agent`, {
      hint: "Give unix:/path/of/agent.sock, or http://host:port for an agent that listens in plain text.",
    });
  }
  return { kind: "plaintext", host: match[1], port };
}

/** A transport that dials when it is first used, and again when the connection was lost. */
export function openAgentTransport(address: AgentAddress): Transport {
  const limits = { readMaxBytes: MAX_MESSAGE_BYTES, writeMaxBytes: MAX_MESSAGE_BYTES };
  if (address.kind === "unix") {
    // The URL's host is for the Host header only.
    return createGrpcTransport({
      ...limits,
      baseUrl: "http://localhost",
      nodeOptions: { createConnection: () => connect(address.path) },
    });
  }
  return createGrpcTransport({ ...limits, baseUrl: `http://${address.host}:${address.port}` });
}
