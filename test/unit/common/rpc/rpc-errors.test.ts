import { Code, ConnectError } from "@connectrpc/connect";
import { expect } from "chai";

import { BlockmoverError } from "../../../../services/common/errors.js";
import { fromConnectError, toConnectError } from "../../../../services/common/rpc/rpc-errors.js";

describe("errors on the wire", () => {
  it("come back as they were: code, message, hint, reason and violations", () => {
    const error = new BlockmoverError("RESOURCE_EXHAUSTED", "the queue is full", {
      hint: "Wait.",
      reason: "QUEUE_FULL",
      violations: [{ field: "a.b", description: "is wrong" }],
    });
    const back = fromConnectError(toConnectError(error));
    expect(back).to.include({ code: error.code, message: error.message, hint: error.hint, reason: error.reason });
    expect(back.violations).to.deep.equal(error.violations);
  });

  it("tell nothing of a mistake of ours but that it happened, and log the rest", () => {
    const logged: unknown[] = [];
    const mistake = new TypeError("cannot read the password hunter2");
    const wire = toConnectError(mistake, (error) => logged.push(error));
    expect(wire.code).to.equal(Code.Internal);
    expect(wire.message).not.to.contain("hunter2");
    expect(logged).to.deep.equal([mistake]);
  });

  it("leave an error alone that is one of the wire's already, and know codes that are not ours", () => {
    const error = new ConnectError("replaced", Code.Aborted);
    expect(toConnectError(error)).to.equal(error);
    expect(fromConnectError(error).code).to.equal("INTERNAL");
  });
});
