/** A block device in memory: for tests of the data path that need no kernel, with a hook before each call. */
import type { BlockDevice, DeviceInfo, ZeroMethod } from "../../services/datapath/device/block-device.js";

export type DeviceCall = "read" | "write" | "zero" | "flush";

export class MemoryDevice implements BlockDevice {
  readonly path = "memory";
  readonly info: DeviceInfo;
  readonly calls: { readonly call: DeviceCall; readonly offsetBytes: number; readonly lengthBytes: number }[] = [];
  /** Called before each call; what it throws is what the call rejects with. */
  before: (call: DeviceCall, offsetBytes: number) => Promise<void> | void = () => undefined;

  constructor(public bytes: Buffer) {
    this.info = { kind: "file", sizeBytes: bytes.length, logicalSectorBytes: 512, physicalSectorBytes: 512 };
  }

  async read(target: Uint8Array, offsetBytes: number): Promise<number> {
    await this.#enter("read", offsetBytes, target.length);
    return this.bytes.copy(target, 0, offsetBytes);
  }

  async readChunks(
    target: Uint8Array,
    offsetBytes: number,
    chunkSizeBytes: number,
  ): Promise<{ bytesRead: number; zeroChunks: number }> {
    const bytesRead = await this.read(target, offsetBytes);
    target.fill(0, bytesRead);
    let zeroChunks = 0;
    for (let start = 0; start < target.length; start += chunkSizeBytes) {
      if (target.subarray(start, start + chunkSizeBytes).every((byte) => byte === 0)) {
        zeroChunks |= 1 << (start / chunkSizeBytes);
      }
    }
    return { bytesRead, zeroChunks };
  }

  async write(source: Uint8Array, offsetBytes: number): Promise<void> {
    await this.#enter("write", offsetBytes, source.length);
    if (offsetBytes + source.length > this.bytes.length) {
      throw new Error(`write of ${source.length} bytes at ${offsetBytes} reaches past the end`);
    }
    this.bytes.set(source, offsetBytes);
  }

  async zeroRange(offsetBytes: number, lengthBytes: number): Promise<ZeroMethod> {
    await this.#enter("zero", offsetBytes, lengthBytes);
    this.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes);
    return "punch-hole";
  }

  async flush(): Promise<void> {
    await this.#enter("flush", 0, 0);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async #enter(call: DeviceCall, offsetBytes: number, lengthBytes: number): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    await this.before(call, offsetBytes);
    this.calls.push({ call, offsetBytes, lengthBytes });
  }
}
