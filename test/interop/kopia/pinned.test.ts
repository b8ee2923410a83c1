import { writeFile } from "node:fs/promises";

import { expect } from "chai";

import { Kopia, kopiaVersions, skipUnlessKopia } from "../../support/kopia.js";
import { useTempDir } from "../../support/temp-dir.js";

for (const version of kopiaVersions) {
  describe(`Kopia ${version}`, () => {
    const temp = useTempDir();
    const client = (name: string, password = "secret"): Kopia =>
      new Kopia({ version, directory: temp.file(name), password });

    before(function () {
      skipUnlessKopia(this, version);
    });

    it("is the pinned version", async () => {
      expect(await client("kopia").runOrThrow(["--version"])).to.match(
        new RegExp(`^${version.slice(1).replaceAll(".", "\\.")} `),
      );
    });

    it("creates a repository that a second client opens, with nothing but the given directories", async () => {
      const one = client("one");
      await one.createRepository({ path: temp.file("repository"), splitter: "FIXED-1M", hash: "BLAKE2B-256" });
      await writeFile(temp.file("data"), "content");
      await one.runOrThrow(["snapshot", "create", temp.file("data")]);

      const two = client("two");
      await two.connect({ path: temp.file("repository"), hostname: "host", username: "user" });
      const status = (await two.runJson(["repository", "status", "--json"])) as Record<string, unknown>;
      expect(status).to.have.nested.property("contentFormat.hash", "BLAKE2B-256");
      expect(status).to.have.nested.property("objectFormat.splitter", "FIXED-1M");
      expect(status).to.have.nested.property("clientOptions.username", "user");
      expect(await two.runJson(["snapshot", "list", "--all", "--json"])).to.have.length(1);
    });

    it("refuses a wrong password", async () => {
      await client("one").createRepository({ path: temp.file("repository") });
      const result = await client("two", "wrong")
        .connect({ path: temp.file("repository") })
        .catch(String);
      expect(result).to.contain("invalid repository password");
    });
  });
}
