import { expect } from "chai";
import { BlockmoverError } from "../../../../../services/common/errors.js";
import { errnoOf, filesystemError } from "../../../../../services/datapath/repository/storage/filesystem-errors.js";

describe("filesystemError", () => {
  const systemError = (code: string): Error =>
    Object.assign(new Error(`${code}: text, open '/x'`), { code, syscall: "open" });

  const cases: [string, "read" | "write", string][] = [
    ["EIO", "read", "DATA_LOSS"],
    ["EIO", "write", "UNAVAILABLE"],
    ["ENOSPC", "write", "RESOURCE_EXHAUSTED"],
    ["EDQUOT", "write", "RESOURCE_EXHAUSTED"],
    ["EFBIG", "write", "RESOURCE_EXHAUSTED"],
    ["EACCES", "read", "PERMISSION_DENIED"],
    ["EPERM", "write", "PERMISSION_DENIED"],
    ["EROFS", "write", "FAILED_PRECONDITION"],
    ["ESTALE", "read", "UNAVAILABLE"],
    ["ETIMEDOUT", "write", "UNAVAILABLE"],
    ["EMFILE", "read", "UNAVAILABLE"],
    ["ENOTDIR", "read", "FAILED_PRECONDITION"],
    ["ENAMETOOLONG", "write", "INVALID_ARGUMENT"],
  ];
  for (const [errno, kind, code] of cases) {
    it(`makes ${code} of ${errno} at a ${kind}`, () => {
      const cause = systemError(errno);
      const error = filesystemError(cause, { kind, message: "cannot do it" }) as BlockmoverError;
      expect([error.code, error.message, error.cause]).to.deep.equal([code, `cannot do it: ${cause.message}`, cause]);
    });
  }

  it("passes on what is no errno", () => {
    const others = [new TypeError("x"), new BlockmoverError("DATA_LOSS", "x"), "text", undefined];
    for (const other of others) {
      expect(filesystemError(other, { kind: "read", message: "" })).to.equal(other);
      expect(errnoOf(other)).to.equal(undefined);
    }
    // Node's own errors have codes, too.
    expect(errnoOf(Object.assign(new Error("x"), { code: "ERR_INVALID_ARG_TYPE" }))).to.equal(undefined);
  });
});
