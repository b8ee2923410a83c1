/**
 * What the compiler and prettier cannot see: promises nobody awaits, unions not exhausted, imports that point up.
 */
import js from "@eslint/js";
import { defineConfig } from "eslint/config";
import tseslint from "typescript-eslint";

import { addonDoor } from "./eslint-rules/addon-door.js";
import { importDirection } from "./eslint-rules/import-direction.js";
import { kebabCaseFile } from "./eslint-rules/kebab-case-file.js";

const blockmover = {
  rules: { "addon-door": addonDoor, "import-direction": importDirection, "kebab-case-file": kebabCaseFile },
};

const nodeGlobals = Object.fromEntries(
  ["process", "console", "Buffer", "URL", "setTimeout", "clearTimeout", "setInterval", "clearInterval"].map((name) => [
    name,
    "readonly",
  ]),
);

export default defineConfig(
  { ignores: ["build/", "dist/", ".cache/", "services/gen/"] },
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
  js.configs.recommended,
  {
    plugins: { blockmover },
    rules: {
      eqeqeq: "error",
      "no-console": "off",
      "blockmover/addon-door": "error",
      "blockmover/import-direction": "error",
      "blockmover/kebab-case-file": "error",
    },
  },
  {
    files: ["**/*.{js,mjs}"],
    languageOptions: { globals: nodeGlobals },
  },
  {
    files: ["**/*.cjs"],
    languageOptions: {
      sourceType: "commonjs",
      globals: { ...nodeGlobals, require: "readonly", module: "writable", __dirname: "readonly" },
    },
  },
  {
    files: ["**/*.ts"],
    ignores: ["eslint-rules/**"],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      "@typescript-eslint/consistent-type-exports": "error",
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-misused-promises": "error",
      "@typescript-eslint/no-explicit-any": "error",
      "@typescript-eslint/return-await": ["error", "in-try-catch"],
      // A number in a message needs no String(); an object in a message is still a mistake.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true, allowBoolean: true }],
      // An async method may satisfy an interface without waiting for anything.
      "@typescript-eslint/require-await": "off",
      // `delete process.env[name]` is how a secret leaves the environment.
      "@typescript-eslint/no-dynamic-delete": "off",
      // `while (true)` with a return inside is how a reader loop looks.
      "@typescript-eslint/no-unnecessary-condition": ["error", { allowConstantLoopConditions: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
    },
  },
  {
    files: ["test/**/*.ts"],
    rules: {
      // chai: `expect(x).to.be.true` is a statement, and a test may say `result!` where it has just checked.
      "@typescript-eslint/no-unused-expressions": "off",
      "@typescript-eslint/no-non-null-assertion": "off",
      "@typescript-eslint/unbound-method": "off",
    },
  },
);
