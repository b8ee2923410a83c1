/** One suite, every kind of client: grpc-js, Connect's gRPC and Connect's own protocol with JSON. */
import { writeFile } from "node:fs/promises";
import { connect } from "node:net";

import { fromBinary, toBinary, type DescMessage, type DescMethod, type MessageShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Client as GrpcJsClient, credentials, type ServiceError } from "@grpc/grpc-js";
import { expect } from "chai";

import { openAgentTransport, parseAgentAddress } from "../../../services/common/rpc/agent-address.js";
import { AgentService } from "../../../services/gen/blockmover/v1/agent_pb.js";
import { TransferState, type Transfer } from "../../../services/gen/blockmover/v1/transfer_pb.js";
import { Health, HealthCheckResponse_ServingStatus } from "../../../services/gen/grpc/health/v1/health_pb.js";
import { PASSWORD, startAgent, type AgentProcess } from "../../support/agent.js";
import { backupRequest } from "../../support/agent-requests.js";
import { runCliOrThrow } from "../../support/cli.js";
import { Random } from "../../support/random-data.js";
import { MiB } from "../../support/sizes.js";
import { useTempDir } from "../../support/temp-dir.js";

/** What the suite needs of a client; failures are gRPC codes as numbers. */
interface ApiClient {
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethod & { input: I; output: O },
    input: MessageShape<I>,
  ): Promise<MessageShape<O>>;
  progress(transferId: string): Promise<Transfer[]>;
  close(): void;
}

class CodeError extends Error {
  constructor(readonly code: number) {
    super(`code ${code}`);
  }
}

const { startBackup, getTransfer, cancel, listTransfers, progress } = AgentService.method;

function connectClient(client: Client<typeof AgentService>): ApiClient {
  const mapped = async <T>(call: () => Promise<T>): Promise<T> => {
    try {
      return await call();
    } catch (error) {
      throw new CodeError(ConnectError.from(error).code);
    }
  };
  return {
    unary: (method, input) =>
      mapped(() => {
        const call = client[method.localName as "getTransfer"] as unknown as (message: unknown) => Promise<never>;
        return call(input);
      }),
    progress: (transferId) =>
      mapped(async () => {
        const seen: Transfer[] = [];
        for await (const { transfer } of client.progress({ transferId })) seen.push(transfer!);
        return seen;
      }),
    close: () => undefined,
  };
}

function grpcJsClient(target: string): ApiClient {
  const client = new GrpcJsClient(target, credentials.createInsecure());
  const pathOf = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;
  return {
    unary: (method, input) =>
      new Promise((resolve, reject) => {
        client.makeUnaryRequest(
          pathOf(method),
          (message: typeof input) => Buffer.from(toBinary(method.input, message)),
          (bytes) => fromBinary(method.output, bytes),
          input,
          (error: ServiceError | null, response) =>
            error === null && response !== undefined ? resolve(response) : reject(new CodeError(error?.code ?? -1)),
        );
      }),
    progress: (transferId) =>
      new Promise((resolve, reject) => {
        const seen: Transfer[] = [];
        client
          .makeServerStreamRequest(
            pathOf(progress),
            (message: MessageShape<typeof progress.input>) => Buffer.from(toBinary(progress.input, message)),
            (bytes) => fromBinary(progress.output, bytes),
            { $typeName: "blockmover.v1.ProgressRequest", transferId },
          )
          .on("data", ({ transfer }: MessageShape<typeof progress.output>) => seen.push(transfer!))
          .on("error", (error: ServiceError) => reject(new CodeError(error.code)))
          .on("end", () => resolve(seen));
      }),
    close: () => client.close(),
  };
}

const kinds: readonly (readonly [string, (agent: AgentProcess, plaintext: string) => ApiClient])[] = [
  ["grpc-js on the unix socket", ({ socketPath }) => grpcJsClient(`unix:${socketPath}`)],
  ["grpc-js on TCP", (_, plaintext) => grpcJsClient(plaintext.replace("http://", ""))],
  ["a connect client speaking gRPC on the unix socket", ({ client }) => connectClient(client)],
  [
    "a connect client speaking gRPC on TCP",
    (_, plaintext) => connectClient(createClient(AgentService, openAgentTransport(parseAgentAddress(plaintext)))),
  ],
  [
    "a connect client speaking JSON on the unix socket",
    ({ socketPath }) =>
      connectClient(
        createClient(
          AgentService,
          createConnectTransport({
            baseUrl: "http://localhost",
            httpVersion: "2",
            useBinaryFormat: false,
            nodeOptions: { createConnection: () => connect(socketPath) },
          }),
        ),
      ),
  ],
];

describe("the agent's API", () => {
  const temp = useTempDir();

  for (const [name, open] of kinds) {
    it(`works with ${name}`, async () => {
      await runCliOrThrow(["repository", "create", "--repo", temp.file("repo")], {
        env: { BLOCKMOVER_PASSWORD: PASSWORD },
      });
      await writeFile(temp.file("a.img"), new Random(1).bytes(8 * MiB));
      const agent = await startAgent(temp, ["--listen", "127.0.0.1:0", "--plaintext"]);
      const plaintext = agent.run.output().match(/http:\/\/127\.0\.0\.1:\d+/)?.[0] ?? "";
      const api = open(agent, plaintext);
      temp.defer(() => api.close());
      const codeOf = (call: Promise<unknown>): Promise<number> =>
        call.then(
          () => 0,
          (error: unknown) => (error as CodeError).code,
        );

      const request = backupRequest("b1", {
        repository: { url: temp.file("repo"), password: PASSWORD },
        devicePath: temp.file("a.img"),
      });
      const { transfer } = await api.unary(startBackup, request);
      expect(transfer?.transferId).to.equal("b1");
      const seen = await api.progress("b1");
      expect(seen.at(-1)?.state).to.equal(TransferState.COMPLETED);
      expect(seen.filter(({ endTime }) => endTime !== undefined)).to.have.length(1);
      const list = await api.unary(listTransfers, {
        $typeName: "blockmover.v1.ListTransfersRequest",
        states: [],
        pageSize: 0,
        pageToken: "",
      });
      expect(list.transfers.map(({ transferId }) => transferId)).to.deep.equal(["b1"]);

      const getRequest = { $typeName: "blockmover.v1.GetTransferRequest", transferId: "none" } as const;
      const cancelRequest = { $typeName: "blockmover.v1.CancelRequest", transferId: "b1" } as const;
      expect(await codeOf(api.unary(getTransfer, getRequest))).to.equal(Code.NotFound);
      expect(await codeOf(api.progress("none"))).to.equal(Code.NotFound);
      expect(await codeOf(api.progress("not a name"))).to.equal(Code.InvalidArgument);
      expect((await api.unary(cancel, cancelRequest)).transfer?.state).to.equal(TransferState.COMPLETED);
      request.priority = 7;
      expect(await codeOf(api.unary(startBackup, request))).to.equal(Code.AlreadyExists);
    });
  }

  it("answers health, and announces its end while it drains", async () => {
    const agent = await startAgent(temp);
    const health = createClient(Health, openAgentTransport(parseAgentAddress(agent.address)));
    expect((await health.check({ service: "blockmover.v1.AgentService" })).status).to.equal(
      HealthCheckResponse_ServingStatus.SERVING,
    );
    const unknown = await health.check({ service: "x" }).catch((error: unknown) => ConnectError.from(error));
    expect(unknown).to.have.property("code", Code.NotFound);
    const seen: HealthCheckResponse_ServingStatus[] = [];
    try {
      for await (const { status } of health.watch({ service: "" })) {
        seen.push(status);
        agent.run.kill("SIGTERM");
      }
    } catch {
      // the server goes, as it said
    }
    expect(seen).to.deep.equal([
      HealthCheckResponse_ServingStatus.SERVING,
      HealthCheckResponse_ServingStatus.NOT_SERVING,
    ]);
  });

  it("serves data movers on the unix socket alone", async () => {
    const agent = await startAgent(temp, ["--listen", "127.0.0.1:0", "--plaintext"]);
    const plaintext = agent.run.output().match(/http:\/\/127\.0\.0\.1:\d+/)?.[0] ?? "";
    const { MoverService } = await import("../../../services/gen/blockmover/v1/mover_pb.js");
    const codeOver = async (address: string): Promise<Code | undefined> => {
      const movers = createClient(MoverService, openAgentTransport(parseAgentAddress(address)));
      const hello = { transferId: "x", token: "t", session: Buffer.alloc(16) };
      const requests = (async function* () {
        yield { message: { case: "hello" as const, value: hello } };
      })();
      try {
        for await (const _ of movers.attach(requests));
        return undefined;
      } catch (error) {
        return ConnectError.from(error).code;
      }
    };
    expect(await codeOver(agent.address)).to.equal(Code.NotFound);
    expect(await codeOver(plaintext)).to.equal(Code.Unimplemented);
  });
});
