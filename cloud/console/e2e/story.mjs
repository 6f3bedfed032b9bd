// What the console does over time, against the fixture hub: `npm run story`.
// Each step waits for a condition with a deadline; the first that fails ends it.

import axe from "axe-core";
import { spawn } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const port = "7997";
const base = `http://127.0.0.1:${port}`;
const fixture = join(dirname(fileURLToPath(import.meta.url)), "fixture.mjs");
const start = async () => {
  const hub = spawn(process.execPath, [fixture, "--port", port, "--pace", "700"], { stdio: ["ignore", "pipe", "inherit"] });
  await new Promise((resolve, reject) => {
    hub.stdout.once("data", resolve);
    hub.once("exit", () => reject(new Error("the fixture hub did not start")));
  });
  return hub;
};

let hub = await start();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(15_000);
/** @param {string} title @param {() => Promise<unknown>} f */
const step = async (title, f) => {
  await f();
  console.log(`ok  ${title}`);
};
/** @param {import("playwright-core").Page} p */
const login = async (p) => {
  await p.getByLabel("User").fill("demo");
  await p.getByLabel("Password").first().fill("demo-demo-demo");
  await p.getByRole("button", { name: "Log in" }).click();
  await p.waitForSelector("nav");
};
/** @param {import("playwright-core").Page} p */
const grid = (p) => p.locator("canvas").getAttribute("aria-label");
/** @param {import("playwright-core").Page} p */
const changes = async (p) => {
  const before = await grid(p);
  await p.waitForFunction((b) => document.querySelector("canvas")?.getAttribute("aria-label") !== b, before);
};

try {
  await step("a wrong password is refused, and says no more than that", async () => {
    await page.goto(`${base}/rollouts/r-7`);
    await page.getByLabel("User").fill("demo");
    await page.getByLabel("Password").first().fill("wrong");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByText("User or password is wrong.").waitFor();
  });
  await step("after the login the page that was asked for is there", async () => {
    await login(page);
    await page.getByText("Gates of wave 2").waitFor();
  });
  await step("the grid moves by itself as devices do", () => changes(page));
  const second = await context.newPage();
  second.setDefaultTimeout(15_000);
  /** @type {string[]} */
  const streams = [];
  second.on("request", (r) => r.url().endsWith("/api/v1/events") && streams.push(r.url()));
  await step("a second tab follows without a stream of its own", async () => {
    await second.goto(`${base}/rollouts/r-7`);
    await second.getByText("Gates of wave 2").waitFor();
    await changes(second);
    if (streams.length > 0) throw new Error(`the second tab opened ${streams.length} streams`);
  });
  await step("a pause needs a reason, and then shows it in both tabs", async () => {
    await page.getByRole("button", { name: "Pause" }).click();
    const pause = page.getByRole("button", { name: "Pause rollout" });
    if (await pause.isEnabled()) throw new Error("it could be paused without a reason");
    await page.getByLabel(/Reason/).fill("line 4 is serviced");
    await pause.click();
    await page.getByRole("button", { name: "Resume" }).waitFor();
    await page.getByText("line 4 is serviced").first().waitFor();
    await second.getByText("line 4 is serviced").first().waitFor();
  });
  await step("a rollout goes on; no second run begins beside one that is going", async () => {
    await page.getByRole("button", { name: "Resume" }).click();
    await page.getByLabel(/Reason/).fill("service is over");
    await page.getByRole("button", { name: "Resume rollout" }).click();
    await page.getByRole("button", { name: "Pause" }).waitFor();
    await page.goto(`${base}/training`);
    if ((await page.getByRole("button", { name: "Retrain now" }).getAttribute("aria-disabled")) !== "true") throw new Error("a second run could be started beside the first");
  });
  await step("past nights are looked at before they run", async () => {
    await page.getByRole("button", { name: "Past nights" }).click();
    await page.getByText(/^[78] nights, one after the other/).waitFor();
    await page.getByLabel("From the day").fill("2020-01-01");
    await page.getByText("had more than 366 nights then").waitFor();
    await page.getByLabel("to the day").fill("2020-01-03");
    await page.getByText(/^3 nights, one after the other/).waitFor();
    if (process.env.SHOTS) await page.screenshot({ path: join(process.env.SHOTS, "backfill.png") });
    await page.getByLabel(/Reason/).fill("the sensor was mended");
    await page.getByRole("button", { name: "Run 3 nights" }).click();
    await page.getByText("What would run").waitFor({ state: "detached" });
  });
  await step("a model from outside is checked by the hub, and what it found is told", async () => {
    await page.goto(`${base}/models`);
    await page.getByRole("button", { name: "Bring a model" }).click();
    const keep = page.getByRole("button", { name: "Check and keep it" });
    await page.getByLabel(/File, at most/).setInputFiles({ name: "Their LSTM.onnx", mimeType: "application/octet-stream", buffer: Buffer.from("onnx") });
    await page.getByLabel(/licence/).fill("of the vendor");
    if ((await page.getByLabel("Name that policies call it by").inputValue()) !== "their-lstm") throw new Error("the file gave no name");
    await page.evaluate(axe.source);
    const result = await page.evaluate(() => /** @type {any} */ (window).axe.run(document, { resultTypes: ["violations"] }));
    if (result.violations.length > 0) throw new Error(`the dialog breaks ${result.violations.map((/** @type {any} */ v) => v.id).join(", ")}`);
    await page.getByLabel("Name that policies call it by").fill("broken");
    await keep.click();
    await page.getByText("export it with a free first dimension").waitFor();
    if (process.env.SHOTS) await page.screenshot({ path: join(process.env.SHOTS, "import.png") });
    await page.getByLabel("Name that policies call it by").fill("their-lstm");
    await keep.click();
    await page.getByText("is in the garden").waitFor();
    await page.getByText("float [batch any 3]").waitFor();
    if (process.env.SHOTS) await page.screenshot({ path: join(process.env.SHOTS, "imported.png") });
    await page.getByRole("button", { name: "Done" }).click();
  });
  await step("the pause is in the audit log, and its proof is computed here", async () => {
    await page.goto(`${base}/audit?action=rollout.pause`);
    await page.getByText("line 4 is serviced").waitFor();
    await page.locator("[role=row] a").first().click();
    await page.getByText(/Computed here: the entry is number/).waitFor();
  });
  await step("a rollout is looked at before it is started", async () => {
    await page.goto(`${base}/rollouts`);
    await page.getByRole("link", { name: "Start a rollout" }).click();
    await page.getByLabel("Release").selectOption("pump-anomaly-6");
    await page.getByLabel("Policy").selectOption("pumps");
    await page.getByText(/pump-anomaly-6 would reach 24 devices in 3 waves/).waitFor();
    await page.getByText("It waits for rollout r-7").waitFor();
    await page.getByLabel("Release").selectOption("pump-anomaly-5");
    await page.getByText("The hub would refuse to start pump-anomaly-5").waitFor();
    await page.getByRole("alert").getByText("is in quarantine").waitFor();
  });
  await step("what is promoted can be taken back, after a look at what would follow", async () => {
    await page.goto(`${base}/rollouts/r-6`);
    await page.getByRole("button", { name: "Undo" }).click();
    await page.getByText("24 devices that run it or have it on trial return to pump-anomaly-4.").waitFor();
    await page.getByLabel(/Reason/).fill("the pumps are loud");
    await page.getByRole("button", { name: "Undo rollout" }).click();
    await page.getByText("r-7 is under way: end it first").waitFor();
  });
  await step("another policy is asked what it would have done", async () => {
    await page.goto(`${base}/rollouts/r-5`);
    await page.getByLabel("Policy to replay with").selectOption("strict");
    await page.getByRole("button", { name: "Replay" }).click();
    await page.getByText(/Under strict it would have stopped on .* after 3 devices/).waitFor();
  });
  await step("a freeze shows over every page, in every tab, until it is lifted", async () => {
    await page.goto(`${base}/policies`);
    await page.getByRole("button", { name: "Freeze" }).click();
    await page.getByLabel("Name").fill("stocktaking");
    await page.getByLabel(/selector/).fill("lien=l1");
    await page.getByLabel(/Reason/).fill("we count");
    await page.getByRole("button", { name: "Freeze devices" }).click();
    await page.getByText('no device has the label "lien"').waitFor();
    await page.getByLabel(/selector/).fill("line=l1");
    await page.getByRole("button", { name: "Freeze devices" }).click();
    await page.getByText("Frozen: stocktaking").waitFor();
    await second.getByText("Frozen: stocktaking").waitFor();
    await second.evaluate(axe.source);
    const result = await second.evaluate(() => /** @type {any} */ (window).axe.run(document, { resultTypes: ["violations"] }));
    if (result.violations.length > 0) throw new Error(`the banner breaks ${result.violations.map((/** @type {any} */ v) => v.id).join(", ")}`);
    if (process.env.SHOTS) await second.screenshot({ path: join(process.env.SHOTS, "frozen.png") });
    await page.getByRole("button", { name: "Lift" }).click();
    await page.getByLabel(/Reason/).fill("counted");
    await page.getByRole("button", { name: "Lift freeze" }).click();
    await second.getByText("Frozen: stocktaking").waitFor({ state: "detached" });
  });
  await step("a policy is written with the hub's word on it, and stored", async () => {
    await page.goto(`${base}/policies/strict`);
    const text = page.getByLabel("Policy document");
    const good = await text.inputValue();
    await text.fill(good.replace("spec:", "spec:\n  wvaes: []"));
    await page.getByText("spec.wvaes").waitFor();
    await text.fill(good.replace("waves:", "retries: 3\n  waves:"));
    await page.getByText("The hub would take it.").waitFor();
    await page.getByText(/What pump-anomaly-7 would do under it now/).waitFor();
    await page.getByRole("button", { name: "Store" }).click();
    await page.getByLabel(/Reason/).fill("try harder");
    await page.getByRole("button", { name: "Store policy" }).click();
    await page.getByText("Store policy").waitFor({ state: "detached" });
    await page.waitForFunction(() => /retries: 3/.test(/** @type {HTMLTextAreaElement | null} */ (document.querySelector("textarea"))?.value ?? ""));
  });
  await step("a release goes into quarantine and out again", async () => {
    await page.goto(`${base}/models/pump-anomaly/7`);
    await page.getByRole("button", { name: "Quarantine" }).click();
    await page.getByLabel(/Reason/).fill("learned from a broken sensor");
    await page.getByRole("button", { name: "Quarantine release" }).click();
    await page.getByText("In quarantine: no rollout offers it.").waitFor();
    await page.getByRole("button", { name: "Lift" }).click();
    await page.getByLabel(/Reason/).fill("it was fine");
    await page.getByRole("button", { name: "Lift quarantine" }).click();
    await page.getByText("It is not in quarantine.").waitFor();
  });
  await step("when the first tab closes the second takes the stream over", async () => {
    await page.close();
    await changes(second);
  });
  await step("when the hub is away the console says so and keeps what it shows", async () => {
    hub.kill("SIGKILL");
    await second.getByText("not live: reconnecting").waitFor();
    await second.getByText("Gates of wave 2").waitFor();
  });
  await step("when the hub is back without its sessions, the login comes", async () => {
    hub = await start();
    await second.getByLabel("User").waitFor({ timeout: 30_000 });
    await login(second);
    await second.getByText("Gates of wave 2").waitFor();
    await changes(second);
  });
  await step("a fleet is narrowed by what is not", async () => {
    await second.goto(`${base}/fleet`);
    await second.getByRole("combobox", { name: "Selector" }).fill("line!=l1,state!=ok");
    await second.waitForFunction(() => /selected devices connected/.test(document.querySelector("main header p")?.textContent ?? ""));
    if (!decodeURIComponent(second.url()).includes("line!=l1")) throw new Error("the selector is not in the address");
  });
} finally {
  await browser.close();
  hub.kill();
}
