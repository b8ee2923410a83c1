/** AgentService: checks the request, asks the agent, maps the error. */
import type { ServiceImpl } from "@connectrpc/connect";
import type { AgentService } from "../gen/blockmover/v1/agent_pb.js";
import type { Agent } from "./agent.js";
import {
  MAX_PAGE_SIZE,
  validateListTransfers,
  validateStartBackup,
  validateStartRestore,
  validateTransferId,
} from "./request-validation.js";

export function agentService(agent: Agent): ServiceImpl<typeof AgentService> {
  return {
    startBackup: async (request) => {
      validateStartBackup(request);
      return { transfer: await agent.start({ case: "backup", value: request }) };
    },
    startRestore: async (request) => {
      validateStartRestore(request);
      return { transfer: await agent.start({ case: "restore", value: request }) };
    },
    cancel: async ({ transferId }) => {
      validateTransferId("Cancel", transferId);
      return { transfer: await agent.cancel(transferId) };
    },
    progress: async function* ({ transferId }, { signal }) {
      validateTransferId("Progress", transferId);
      for await (const transfer of agent.watch(transferId, signal)) {
        yield { transfer };
      }
    },
    listTransfers: (request) => {
      validateListTransfers(request);
      const { transfers, nextArrival } = agent.list({
        states: request.states,
        fromArrival: Number(request.pageToken),
        limit: request.pageSize || MAX_PAGE_SIZE,
      });
      return { transfers: [...transfers], nextPageToken: nextArrival === undefined ? "" : String(nextArrival) };
    },
    getTransfer: ({ transferId }) => {
      validateTransferId("GetTransfer", transferId);
      return { transfer: agent.get(transferId) };
    },
  };
}
