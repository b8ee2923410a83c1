/**
 * The agent's listeners: Connect, gRPC and gRPC-Web over HTTP/2, on a unix socket and, where asked for, on TCP.
 *
 * The unix socket is of mode 0600 from its first moment: who may open it may do everything. TCP is in plain text and has
 * no authentication yet, so the command asks for a flag that says so; data movers are served on the unix socket alone.
 */
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import { chmod, unlink } from "node:fs/promises";
import { connect, type AddressInfo, type Socket } from "node:net";
import { type ConnectError, type ConnectRouter, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { BlockmoverError, messageOf } from "../common/errors.js";
import type { Log } from "../common/log.js";
import { MAX_MESSAGE_BYTES } from "../common/rpc/agent-address.js";
import { toConnectError } from "../common/rpc/rpc-errors.js";
import { AgentService } from "../gen/blockmover/v1/agent_pb.js";
import { MoverService } from "../gen/blockmover/v1/mover_pb.js";
import { file_google_rpc_error_details } from "../gen/google/rpc/error_details_pb.js";
import { Health } from "../gen/grpc/health/v1/health_pb.js";
import { ServerReflection } from "../gen/grpc/reflection/v1/reflection_pb.js";
import type { Agent } from "./agent.js";
import { agentService } from "./agent-service.js";
import { healthService, ServingState } from "./health-service.js";
import { moverService } from "./mover-service.js";
import { reflectionService } from "./reflection-service.js";

const MAX_CONNECTIONS = 1_000;
const MAX_STREAMS_A_CONNECTION = 1_000;
const MAX_HEADER_BYTES = 16 * 1024;
/** A connection with no open stream is closed after this long. */
const IDLE_CONNECTION_MS = 10 * 60_000;

const CLOSE_GRACE_MS = 500;

export interface AgentServer {
  /** "unix:/path" or "http://host:port". */
  readonly address: string;
  /** From now on health says NOT_SERVING. */
  announceEnd(): void;
  /** Closes the listener and what is connected; a unix socket goes from its directory. */
  close(): Promise<void>;
}

/**
 * @param socketPath made with mode 0600; one that nobody listens on any more is replaced
 * @throws BlockmoverError FAILED_PRECONDITION when an agent listens there already
 */
export async function serveOnUnixSocket(agent: Agent, socketPath: string, log: Log): Promise<AgentServer> {
  await removeDeadSocket(socketPath);
  const state = new ServingState();
  const { server, connected } = newServer(agent, state, log, { withMovers: true });
  // The mode is right before anyone can connect: listen binds before it returns.
  const umask = process.umask(0o177);
  let listening: Promise<void>;
  try {
    listening = listen(server, { path: socketPath });
  } finally {
    process.umask(umask);
  }
  await listening;
  await chmod(socketPath, 0o600);
  return {
    address: `unix:${socketPath}`,
    announceEnd: () => state.stop(),
    close: () => closeServer(server, connected),
  };
}

/** Plain text, without authentication. @throws BlockmoverError FAILED_PRECONDITION when the port is taken */
export async function serveInPlaintext(
  agent: Agent,
  listenOn: { readonly host: string; readonly port: number },
  log: Log,
): Promise<AgentServer> {
  const state = new ServingState();
  const { server, connected } = newServer(agent, state, log, { withMovers: false });
  await listen(server, listenOn);
  const { address, port, family } = server.address() as AddressInfo;
  const host = family === "IPv6" ? `[${address}]` : address;
  return {
    address: `http://${host}:${port}`,
    announceEnd: () => state.stop(),
    close: () => closeServer(server, connected),
  };
}

function newServer(
  agent: Agent,
  state: ServingState,
  log: Log,
  { withMovers }: { readonly withMovers: boolean },
): { readonly server: Http2Server; readonly connected: Connected } {
  const services = [AgentService, Health, ServerReflection, ...(withMovers ? [MoverService] : [])];
  const routes = (router: ConnectRouter): void => {
    router.service(AgentService, agentService(agent));
    router.service(
      Health,
      healthService(
        state,
        services.map(({ typeName }) => typeName),
      ),
    );
    router.service(ServerReflection, reflectionService(services, [file_google_rpc_error_details]));
    if (withMovers) {
      router.service(MoverService, moverService(agent, log));
    }
  };
  const handler = connectNodeAdapter({
    routes,
    readMaxBytes: MAX_MESSAGE_BYTES,
    writeMaxBytes: MAX_MESSAGE_BYTES,
    // A misspelt field would be a wish that is not heard.
    jsonOptions: { ignoreUnknownFields: false },
    interceptors: [mapErrors(log)],
  });
  const server = createServer(
    { settings: { maxConcurrentStreams: MAX_STREAMS_A_CONNECTION, maxHeaderListSize: MAX_HEADER_BYTES } },
    handler,
  );
  server.maxConnections = MAX_CONNECTIONS;
  const sessions = new Set<ServerHttp2Session>();
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  server.on("session", (session) => {
    sessions.add(session);
    session.once("close", () => sessions.delete(session));
    // Each call has its own outcome; and grpc-go ends every connection with what Node calls a protocol error.
    session.on("error", () => undefined);
    let openStreams = 0;
    session.on("stream", (stream) => {
      openStreams++;
      stream.once("close", () => openStreams--);
    });
    session.setTimeout(IDLE_CONNECTION_MS, () => {
      if (openStreams === 0) {
        session.close();
      }
    });
  });
  return { server, connected: { sessions, sockets } };
}

/** The one place where errors of handlers, of streams too, become statuses. */
function mapErrors(log: Log): Interceptor {
  return (next) => async (request) => {
    const map = (error: unknown): ConnectError =>
      toConnectError(error, (unexpected) =>
        log("error", "call.failed", {
          method: `${request.service.typeName}/${request.method.name}`,
          error: unexpected instanceof Error ? (unexpected.stack ?? unexpected.message) : String(unexpected),
        }),
      );
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: mapped(response.message, map) } : response;
    } catch (error) {
      throw map(error);
    }
  };
}

async function* mapped<T>(messages: AsyncIterable<T>, map: (error: unknown) => ConnectError): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    throw map(error);
  }
}

function listen(
  server: Http2Server,
  options: { readonly path: string } | { readonly host: string; readonly port: number },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error): void => {
      const where = "path" in options ? options.path : `${options.host}:${options.port}`;
      reject(
        new BlockmoverError("FAILED_PRECONDITION", `cannot listen on ${where}: ${messageOf(error)}`, { cause: error }),
      );
    };
    server.once("error", onError);
    server.listen(options, () => {
      server.off("error", onError);
      resolve();
    });
  });
}

interface Connected {
  readonly sessions: ReadonlySet<ServerHttp2Session>;
  readonly sockets: ReadonlySet<Socket>;
}

async function closeServer(server: Http2Server, { sessions, sockets }: Connected): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  // Streams have been told to end; what is still being written gets a moment.
  for (const session of sessions) {
    session.close();
  }
  const timer = setTimeout(() => {
    // The sockets, because a session waits for its peer, which may be stopped or stuck.
    for (const socket of sockets) {
      socket.destroy();
    }
  }, CLOSE_GRACE_MS);
  await closed;
  clearTimeout(timer);
}

/**
 * Removes a socket that a killed agent left.
 *
 * @throws BlockmoverError FAILED_PRECONDITION when an agent listens there
 */
export async function removeDeadSocket(path: string): Promise<void> {
  const answer = await new Promise<string | undefined>((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve("listening");
    });
    socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code));
  });
  if (answer === "listening") {
    throw new BlockmoverError("FAILED_PRECONDITION", `an agent listens on ${path} already`, {
      hint: "Stop it first, or choose another --socket.",
    });
  }
  if (answer === "ECONNREFUSED") {
    await unlink(path);
  }
}
