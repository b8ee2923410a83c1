import path from "node:path";

import { expect } from "chai";
import { ESLint, Linter, type Rule } from "eslint";
import tseslint from "typescript-eslint";

import { addonDoor } from "../../../eslint-rules/addon-door.js";
import { importDirection } from "../../../eslint-rules/import-direction.js";
import { kebabCaseFile } from "../../../eslint-rules/kebab-case-file.js";

const root = path.resolve(import.meta.dirname, "../../..");

/** The messages that `rule` reports for `code`, were it the text of `file`. */
function report(rule: Rule.RuleModule, file: string, code: string): string[] {
  const config: Linter.Config = {
    files: ["**/*.ts", "**/*.js", "**/*.cjs"],
    languageOptions: { parser: tseslint.parser },
    plugins: { local: { rules: { rule } } },
    rules: { "local/rule": "error" },
  };
  const messages = new Linter({ cwd: root }).verify(code, [config], { filename: path.join(root, file) });
  return messages.map((each) => each.messageId ?? each.message);
}

describe("lint rule import-direction", () => {
  const allowed: readonly [from: string, to: string][] = [
    ["services/cli/main.ts", "../agent/server.js"],
    ["services/cli/main.ts", "../datapath/repository/open.js"],
    ["services/agent/queue.ts", "../datapath/data-mover.js"],
    ["services/datapath/data-mover.ts", "./uploader/backup.js"],
    ["services/datapath/uploader/backup.ts", "../device/block-device.js"],
    ["services/datapath/uploader/backup.ts", "../repository/backup-repository.js"],
    ["services/datapath/repository/kopia/pack.ts", "../storage/blob-storage.js"],
    ["services/datapath/repository/kopia/pack.ts", "../../../../native/index.js"],
    ["services/datapath/device/block-device.ts", "../../common/errors.js"],
    ["services/datapath/device/block-device.ts", "./size.js"],
    ["native/index.ts", "../services/common/errors.js"],
    ["test/unit/device.test.ts", "../../native/index.js"],
  ];
  for (const [from, to] of allowed) {
    it(`allows ${from} to import ${to}`, () => {
      expect(report(importDirection, from, `import { x } from "${to}"; x();`)).to.deep.equal([]);
    });
  }

  const forbidden: readonly [from: string, to: string, why: string][] = [
    ["services/datapath/data-mover.ts", "../agent/queue.js", "up"],
    ["services/agent/queue.ts", "../cli/main.js", "up"],
    ["services/agent/queue.ts", "../controller/reconciler.js", "sideways"],
    ["services/datapath/device/block-device.ts", "../cbt/bitmap.js", "sideways"],
    ["services/datapath/cbt/bitmap.ts", "../repository/backup-repository.js", "sideways"],
    ["services/datapath/repository/kopia/pack.ts", "../../device/block-device.js", "sideways"],
    ["services/datapath/device/block-device.ts", "../uploader/ring-buffer.js", "up"],
    ["services/datapath/uploader/backup.ts", "../repository/kopia/pack.js", "past the repository's interface"],
    ["services/datapath/repository/storage/filesystem.ts", "../kopia/pack.js", "up"],
    ["services/common/errors.ts", "../datapath/data-mover.js", "up"],
    ["services/agent/queue.ts", "../../native/index.js", "past the data path"],
    ["services/common/log.ts", "../../native/index.js", "past the data path"],
    ["services/cli/main.ts", "../../test/support/random-data.js", "into the tests"],
  ];
  for (const [from, to, why] of forbidden) {
    it(`reports ${from} importing ${to}: ${why}`, () => {
      expect(report(importDirection, from, `import { x } from "${to}"; x();`)).to.deep.equal(["forbidden"]);
    });
  }

  it("sees every way to import", () => {
    const file = "services/common/log.ts";
    for (const code of [
      `export { x } from "../agent/queue.js";`,
      `export * from "../agent/queue.js";`,
      `import("../agent/queue.js");`,
      `require("../agent/queue.js");`,
      `import type { X } from "../agent/queue.js";`,
      `type X = import("../agent/queue.js").X;`,
      `import x = require("../agent/queue.js");`,
    ]) {
      expect(report(importDirection, file, code), code).to.deep.equal(["forbidden"]);
    }
  });

  it("asks for a layer where a new directory has none", () => {
    expect(report(importDirection, "services/billing/invoice.ts", "")).to.deep.equal(["noLayer"]);
  });

  it("lets Kopia's implementation see the types of the interface it implements, and nothing more", () => {
    const file = "services/datapath/repository/kopia/open.ts";
    const from = `from "../backup-repository.js"`;
    expect(report(importDirection, file, `import type { X } ${from};`)).to.deep.equal([]);
    expect(report(importDirection, file, `import { type X } ${from};`)).to.deep.equal([]);
    expect(report(importDirection, file, `import { type X, y } ${from};`)).to.deep.equal(["typesOnly"]);
  });
});

describe("lint rule addon-door", () => {
  it("reports every way to load an addon outside native/index.ts", () => {
    for (const [code, messageId] of [
      [`process.dlopen(module, "x.node");`, "dlopen"],
      [`import { createRequire } from "node:module"; createRequire(import.meta.url);`, "createRequire"],
      [`require("../build/blockmover.node");`, "addon"],
      [`import("../build/blockmover.node");`, "addon"],
    ] as const) {
      expect(report(addonDoor, "services/datapath/device/block-device.ts", code), code).to.deep.equal([messageId]);
      expect(report(addonDoor, "native/index.ts", code), code).to.deep.equal([]);
    }
  });
});

describe("lint rule kebab-case-file", () => {
  it("takes kebab-case and reports anything else", () => {
    for (const name of ["main.ts", "ring-buffer.test.ts", "index-v2.ts", ".mocharc.cjs", "eslint.config.js"]) {
      expect(report(kebabCaseFile, name, ""), name).to.deep.equal([]);
    }
    for (const name of ["RingBuffer.ts", "ring_buffer.ts", "ringBuffer.test.ts"]) {
      expect(report(kebabCaseFile, name, ""), name).to.deep.equal(["notKebab"]);
    }
  });
});

describe("eslint.config.js", () => {
  it("turns the local rules on for the services", async () => {
    const eslint = new ESLint({ cwd: root });
    const config = (await eslint.calculateConfigForFile(path.join(root, "services/cli/main.ts"))) as Linter.Config;
    const severities = ["import-direction", "addon-door", "kebab-case-file"].map((name) => {
      const setting = config.rules?.[`blockmover/${name}`];
      return Array.isArray(setting) ? setting[0] : setting;
    });
    expect(severities).to.deep.equal([2, 2, 2]);
  });
});
