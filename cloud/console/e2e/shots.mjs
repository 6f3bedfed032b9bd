// Takes the pictures of the console against the fixture hub: `npm run shots`.
// Arguments go on to e2e/run.mjs; without --shots they land in shots/.

import { spawn } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const port = "7998";
const hub = spawn(process.execPath, [join(here, "fixture.mjs"), "--port", port, "--pace", "600000"], { stdio: ["ignore", "pipe", "inherit"] });
await new Promise((resolve, reject) => {
  hub.stdout.once("data", resolve);
  hub.once("exit", () => reject(new Error("the fixture hub did not start")));
});
const args = process.argv.slice(2);
const run = spawn(
  process.execPath,
  [join(here, "run.mjs"), "--url", `http://127.0.0.1:${port}`, "--user", "demo", "--password", "demo-demo-demo", ...(args.includes("--shots") ? [] : ["--shots", join(here, "..", "shots")]), ...args],
  { stdio: "inherit" },
);
run.once("exit", (code) => {
  hub.kill();
  process.exit(code ?? 1);
});
