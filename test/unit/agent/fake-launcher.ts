/** Data movers without processes: the test says what becomes of them. */
import type {
  LaunchRequest,
  MoverEndReport,
  MoverIdentity,
  MoverLauncher,
  RunningMover,
} from "../../../services/agent/launcher.js";

export class FakeMover implements RunningMover {
  readonly identity: MoverIdentity;
  readonly ended: Promise<MoverEndReport>;
  readonly token: string;
  killed = false;
  /** Whether a kill ends it; false for a process that is stuck in the kernel. */
  isMortal = true;
  #end!: (report: MoverEndReport) => void;

  constructor(pid: number, token: string) {
    this.identity = { pid, startTicks: "1", bootId: "boot" };
    this.token = token;
    this.ended = new Promise((resolve) => (this.#end = resolve));
  }

  end(report: Partial<MoverEndReport> = {}): void {
    this.#end({ exitCode: undefined, signal: undefined, outOfMemory: false, lastWords: "", ...report });
  }

  kill(): void {
    this.killed = true;
    if (this.isMortal) this.end({ signal: "SIGKILL" });
  }
}

/** Survives the agents that use it, as processes do. */
export class FakeLauncher implements MoverLauncher {
  readonly movers = new Map<string, FakeMover>();
  readonly outcomes = new Map<string, string>();
  launches = 0;
  failure: Error | undefined;

  async launch({ transferId, token }: LaunchRequest): Promise<RunningMover> {
    if (this.failure !== undefined) throw this.failure;
    const mover = new FakeMover(++this.launches, token);
    this.movers.set(transferId, mover);
    return mover;
  }

  async adopt(transferId: string, identity: MoverIdentity): Promise<RunningMover> {
    const mover = this.movers.get(transferId);
    if (mover?.identity.pid === identity.pid) return mover;
    const gone = new FakeMover(identity.pid, "");
    gone.end();
    return gone;
  }

  async identify(pid: number): Promise<MoverIdentity | undefined> {
    return [...this.movers.values()].find(({ identity }) => identity.pid === pid)?.identity;
  }

  async readOutcome(transferId: string): Promise<string | undefined> {
    return this.outcomes.get(transferId);
  }

  async cleanUp(transferId: string): Promise<void> {
    this.outcomes.delete(transferId);
  }
}
