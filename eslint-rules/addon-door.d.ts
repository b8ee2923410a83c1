import type { Rule } from "eslint";

export const addonDoor: Rule.RuleModule;
