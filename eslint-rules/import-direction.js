/**
 * Keeps imports pointing down the list of layers (architecture, "Modules and who may import whom").
 *
 * A file's layer follows from its path alone; so does the layer of a relative import. Each layer lists the layers it
 * may import besides itself. Packages and `node:` modules are not this rule's business.
 */
import path from "node:path";

/** Which path belongs to which layer; the first match wins. Paths are relative to the root, with forward slashes. */
const layers = [
  ["native", /^native\//],
  ["common", /^services\/common\//],
  ["generated", /^(services\/gen|proto)\//],
  ["device", /^services\/datapath\/device\//],
  ["cbt", /^services\/datapath\/cbt\//],
  ["uploader", /^services\/datapath\/uploader\//],
  ["storage", /^services\/datapath\/repository\/storage\//],
  ["kopia", /^services\/datapath\/repository\/kopia\//],
  ["repository", /^services\/datapath\/repository\/[^/]+$/],
  ["data-mover", /^services\/datapath\/[^/]+$/],
  ["agent", /^services\/agent\//],
  ["controller", /^services\/controller\//],
  ["cli", /^services\/cli\//],
  ["test", /^test\//],
  ["scripts", /^(scripts|bin|eslint-rules)\//],
];

const everywhere = ["common", "generated"];
const repository = ["repository", "kopia", "storage"];
const datapath = ["data-mover", "uploader", "cbt", "device", ...repository];

/** What each layer may import, besides itself and, for all but generated code, common and generated code. */
const allowed = {
  native: [],
  common: [],
  generated: [],
  device: ["native"],
  cbt: ["native"],
  storage: ["native"],
  kopia: ["storage", "native"],
  repository: ["kopia", "storage", "native"],
  // The unified repository interface only: a Kopia file or a store is none of the uploader's business.
  uploader: ["cbt", "device", "repository", "native"],
  "data-mover": [...datapath, "native"],
  agent: datapath,
  controller: datapath,
  cli: ["agent", "controller", ...datapath],
};

/** Types alone: an implementation must see the interface it implements, though the interface's file opens it. */
const allowedTypes = { kopia: ["repository"] };

/** Layers that may import anything; nothing below may import them. */
const unrestricted = ["test", "scripts"];

/** @param {string} file relative to the root */
export function layerOf(file) {
  return layers.find(([, pattern]) => pattern.test(file))?.[0];
}

/** Whether a file of layer `from` may import one of layer `to`. */
export function mayImport(from, to, { typesOnly = false } = {}) {
  if (from === to || unrestricted.includes(from)) return true;
  if (everywhere.includes(to)) return from !== "generated";
  return allowed[from].includes(to) || (typesOnly && (allowedTypes[from] ?? []).includes(to));
}

function isTypesOnly(node) {
  if (node.type === "TSImportType") return true;
  if (node.importKind === "type" || node.exportKind === "type") return true;
  const specifiers = node.specifiers ?? [];
  return specifiers.length > 0 && specifiers.every((each) => each.importKind === "type" || each.exportKind === "type");
}

/** @type {import("eslint").Rule.RuleModule} */
export const importDirection = {
  meta: {
    type: "problem",
    docs: { description: "imports point down the list of layers, never up or sideways" },
    schema: [],
    messages: {
      forbidden:
        "{{from}} must not import {{to}} ({{target}}): imports point down, cli → agent, controller → datapath → native. " +
        "Move the shared part to services/common or pass it in.",
      typesOnly: "{{from}} may import only types from {{to}} ({{target}}): use `import type`.",
      noLayer: "{{file}} belongs to no layer: add it to eslint-rules/import-direction.js.",
    },
  },
  create(context) {
    const relative = (file) => path.relative(context.cwd, file).split(path.sep).join("/");
    const file = relative(context.filename);
    const from = layerOf(file);

    function check(node, source) {
      if (from === undefined || typeof source?.value !== "string" || !source.value.startsWith(".")) return;
      const target = relative(path.resolve(path.dirname(context.filename), source.value));
      const to = layerOf(target);
      if (to === undefined || mayImport(from, to, { typesOnly: isTypesOnly(node) })) return;
      const messageId = mayImport(from, to, { typesOnly: true }) ? "typesOnly" : "forbidden";
      context.report({ node: source, messageId, data: { from, to, target } });
    }

    return {
      Program(node) {
        const needsLayer = file.startsWith("services/");
        if (needsLayer && from === undefined) context.report({ node, messageId: "noLayer", data: { file } });
      },
      ImportDeclaration: (node) => check(node, node.source),
      ExportNamedDeclaration: (node) => check(node, node.source),
      ExportAllDeclaration: (node) => check(node, node.source),
      ImportExpression: (node) => check(node, node.source),
      TSImportType: (node) => check(node, node.source ?? node.argument?.literal),
      TSExternalModuleReference: (node) => check(node, node.expression),
      'CallExpression[callee.name="require"]': (node) => check(node, node.arguments[0]),
    };
  },
};
