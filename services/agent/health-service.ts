/** grpc.health.v1: serving until the agent drains. */
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { Latch } from "../common/latch.js";
import { type Health, HealthCheckResponse_ServingStatus as Status } from "../gen/grpc/health/v1/health_pb.js";

export class ServingState {
  readonly changed = new Latch();
  #isServing = true;

  get isServing(): boolean {
    return this.#isServing;
  }

  stop(): void {
    this.#isServing = false;
    this.changed.trip();
  }
}

export function healthService(state: ServingState, serviceNames: readonly string[]): ServiceImpl<typeof Health> {
  const statusOf = (service: string): Status => {
    if (service !== "" && !serviceNames.includes(service)) {
      return Status.SERVICE_UNKNOWN;
    }
    return state.isServing ? Status.SERVING : Status.NOT_SERVING;
  };
  return {
    check: ({ service }) => {
      const status = statusOf(service);
      if (status === Status.SERVICE_UNKNOWN) {
        throw new ConnectError(`there is no service ${service} here`, Code.NotFound);
      }
      return { status };
    },
    watch: async function* ({ service }, { signal }) {
      let told: Status | undefined;
      while (!signal.aborted) {
        const status = statusOf(service);
        if (status !== told) {
          told = status;
          yield { status };
        } else {
          await state.changed.next({ signal });
        }
      }
    },
  };
}
