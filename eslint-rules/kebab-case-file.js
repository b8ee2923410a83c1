/** File names are kebab-case: `ring-buffer.ts`, `ring-buffer.test.ts`. */
import path from "node:path";

/** @type {import("eslint").Rule.RuleModule} */
export const kebabCaseFile = {
  meta: {
    type: "suggestion",
    docs: { description: "file names are kebab-case" },
    schema: [],
    messages: { notKebab: "File name {{name}} is not kebab-case." },
  },
  create(context) {
    return {
      Program(node) {
        const name = path.basename(context.filename);
        if (/^\.?[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+$/.test(name)) return;
        context.report({ node, messageId: "notKebab", data: { name } });
      },
    };
  },
};
