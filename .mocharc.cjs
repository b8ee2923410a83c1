/**
 * Defaults for `npx mocha FILE…`, so that one test runs by hand as it does under `make test`.
 *
 * `--import tsx` does not resolve in mocha 11 and 12; `--node-option import=tsx` does.
 */
module.exports = {
  "node-option": ["import=tsx"],
  extension: ["ts"],
  timeout: 20_000,
  forbidOnly: process.env.CI === "true",
};
