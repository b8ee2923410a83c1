/** MoverService: one stream of one data mover, both directions at once, until either side ends it. */
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { BlockmoverError, messageOf } from "../common/errors.js";
import type { Log } from "../common/log.js";
import { AttachResponseSchema, type AttachRequest, type MoverService } from "../gen/blockmover/v1/mover_pb.js";
import type { Agent, Attachment } from "./agent.js";

const HEARTBEAT_INTERVAL_MS = 1_000;

export function moverService(agent: Agent, log: Log): ServiceImpl<typeof MoverService> {
  return {
    attach: async function* (requests, { signal }) {
      const incoming = requests[Symbol.asyncIterator]();
      const first = await incoming.next();
      if (first.done === true || first.value.message.case !== "hello") {
        throw new BlockmoverError("INVALID_ARGUMENT", "an Attach stream begins with hello");
      }
      const attachment = await agent.attach(first.value.message.value);
      // Aborted when either direction has ended, so that the other does too.
      const over = new AbortController();
      const ended = AbortSignal.any([signal, over.signal]);
      const listening = listen(agent, attachment, incoming)
        .catch((error: unknown) => log("info", "mover.stream.broke", { error: messageOf(error) }))
        .finally(() => over.abort());
      try {
        yield create(AttachResponseSchema, {
          message: {
            case: "welcome",
            value: {
              request: attachment.request ?? { case: undefined },
              heartbeatInterval: durationFromMs(HEARTBEAT_INTERVAL_MS),
            },
          },
        });
        for await (const news of attachment.news(ended)) {
          switch (news) {
            case "stop":
              yield create(AttachResponseSchema, { message: { case: "cancel", value: {} } });
              break;
            case "recorded":
              yield create(AttachResponseSchema, { message: { case: "finishedRecorded", value: {} } });
              return;
            case "replaced":
              throw new ConnectError("a newer stream of this data mover has taken its place", Code.Aborted);
            case "dismissed":
              throw new BlockmoverError("FAILED_PRECONDITION", "the transfer has ended");
          }
        }
      } finally {
        agent.detach(attachment);
        over.abort();
        void listening; // ends with the stream, which is over when this handler is
      }
    },
  };
}

async function listen(agent: Agent, attachment: Attachment, incoming: AsyncIterator<AttachRequest>): Promise<void> {
  for (;;) {
    const next = await incoming.next();
    if (next.done === true) {
      return;
    }
    const { message } = next.value;
    switch (message.case) {
      case "report":
        await agent.report(attachment, message.value);
        break;
      case "finished":
        await agent.finished(attachment, message.value);
        break;
      case "hello":
        throw new BlockmoverError("INVALID_ARGUMENT", "an Attach stream has one hello");
      case undefined:
        break; // from a newer mover
    }
  }
}
