/** The native addon is loaded in native/index.ts and nowhere else. */
import path from "node:path";

const door = path.join("native", "index.ts");

/** @type {import("eslint").Rule.RuleModule} */
export const addonDoor = {
  meta: {
    type: "problem",
    docs: { description: "only native/index.ts loads the addon" },
    schema: [],
    messages: {
      dlopen: "process.dlopen is for native/index.ts alone: import that instead.",
      createRequire: "createRequire is for native/index.ts alone (it loads the addon there): use import.",
      addon: "Only native/index.ts loads the addon: import that instead.",
    },
  },
  create(context) {
    if (path.relative(context.cwd, context.filename) === door) return {};
    const checkSource = (node) => {
      if (typeof node?.value === "string" && node.value.endsWith(".node")) context.report({ node, messageId: "addon" });
    };
    return {
      'MemberExpression[object.name="process"][property.name="dlopen"]': (node) =>
        context.report({ node, messageId: "dlopen" }),
      'ImportSpecifier[imported.name="createRequire"]': (node) => context.report({ node, messageId: "createRequire" }),
      ImportDeclaration: (node) => checkSource(node.source),
      ExportNamedDeclaration: (node) => checkSource(node.source),
      ExportAllDeclaration: (node) => checkSource(node.source),
      ImportExpression: (node) => checkSource(node.source),
      'CallExpression[callee.name="require"]': (node) => checkSource(node.arguments[0]),
    };
  },
};
