import { expect } from "chai";

import { parseAgentAddress } from "../../../../services/common/rpc/agent-address.js";

describe("parseAgentAddress", () => {
  it("knows unix sockets and plain text TCP", () => {
    expect(parseAgentAddress("unix:/run/a.sock")).to.deep.equal({ kind: "unix", path: "/run/a.sock" });
    expect(parseAgentAddress("unix:///run/a.sock")).to.deep.equal({ kind: "unix", path: "/run/a.sock" });
    expect(parseAgentAddress("/run/a.sock")).to.deep.equal({ kind: "unix", path: "/run/a.sock" });
    expect(parseAgentAddress("http://node-1:9443")).to.deep.equal({ kind: "plaintext", host: "node-1", port: 9443 });
    expect(parseAgentAddress("http://[::1]:1/")).to.deep.equal({ kind: "plaintext", host: "[::1]", port: 1 });
  });

  it("refuses everything else, and says what to give", () => {
    for (const text of [
      "",
      "host:1",
      "unix:relative",
      "http://host",
      "http://host:0",
      "http://host:65536",
      "https://host:1",
    ]) {
      expect(() => parseAgentAddress(text), text).to.throw(/is not the address of an agent/);
    }
  });
});
