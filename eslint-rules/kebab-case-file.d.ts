import type { Rule } from "eslint";

export const kebabCaseFile: Rule.RuleModule;
