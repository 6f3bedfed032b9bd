// Visits every route of the console in Chromium, in both colour schemes, against
// a running hub: runs axe, counts requests to other hosts and errors on the
// browser's console, and saves a picture of each page.
//
// Usage: node e2e/run.mjs --url http://127.0.0.1:7440 --user U --password P
//          [--shots DIR] [--chromium /usr/bin/chromium] [--only NAME]
// Prints one line a page and one line of JSON; exits 1 when anything was found.

import axe from "axe-core";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    user: { type: "string" },
    password: { type: "string" },
    shots: { type: "string" },
    only: { type: "string" },
    chromium: { type: "string", default: process.env.CHROMIUM ?? "/usr/bin/chromium" },
    width: { type: "string", default: "1440" },
    height: { type: "string", default: "900" },
  },
});
if (!options.url || !options.user || !options.password) {
  console.error("say --url, --user and --password of a running hub");
  process.exit(2);
}
const base = new URL(options.url);
const user = options.user;
const password = options.password;

const browser = await chromium.launch({
  executablePath: options.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** @type {{page: string, scheme: string, what: string}[]} */
const findings = [];
const totals = { pages: 0, axe: 0, outside: 0, errors: 0 };

for (const scheme of /** @type {const} */ (["light", "dark"])) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width: Number(options.width), height: Number(options.height) }, ignoreHTTPSErrors: true, reducedMotion: "reduce" });
  const page = await context.newPage();
  let at = "login";
  /** @param {"axe" | "outside" | "errors"} kind @param {string} what */
  const found = (kind, what) => {
    totals[kind]++;
    findings.push({ page: at, scheme, what: `${kind}: ${what}` });
  };
  page.on("request", (r) => {
    const u = new URL(r.url());
    if ((u.protocol === "http:" || u.protocol === "https:") && u.host !== base.host) found("outside", r.url());
  });
  page.on("pageerror", (e) => found("errors", e.message));
  page.on("console", (m) => {
    if (m.type() !== "error" && m.type() !== "warning") return;
    // Chromium reports the 401 that tells the console to ask for a login.
    if (at === "login" && m.location().url.endsWith("/api/v1/session")) return;
    // And the 400 by which the hub says what is wrong with a policy that is being written.
    if (at === "policy-wrong" && m.location().url.endsWith("dryRun=true")) return;
    found("errors", `${m.text()} ${m.location().url}`);
  });

  /** Judges and pictures what is shown now. @param {string} name */
  const judge = async (name) => {
    totals.pages++;
    await page.evaluate(axe.source);
    const result = await page.evaluate(() => /** @type {any} */ (window).axe.run(document, { resultTypes: ["violations"] }));
    for (const v of result.violations) for (const n of v.nodes) found("axe", `${v.id} (${v.impact}) ${n.target.join(" ")} ${n.failureSummary?.split("\n")[1]?.trim() ?? ""}`);
    if (options.shots) {
      mkdirSync(options.shots, { recursive: true });
      await page.screenshot({ path: join(options.shots, `${name}-${scheme}.png`) });
    }
    console.log(`${scheme.padEnd(5)} ${name.padEnd(16)} ${result.violations.length === 0 ? "ok" : `${result.violations.length} axe rules violated`}`);
  };
  /** Waits until nothing is being read and the fonts are there. */
  const settle = async () => {
    await page.waitForSelector("main h1");
    await page.waitForFunction(() => !/Reading…|Reading the/.test(document.body.innerText), undefined, { timeout: 15_000 });
    await page.evaluate(() => document.fonts.ready.then(() => undefined));
    await page.waitForFunction(() => !document.querySelector("canvas") || [...document.querySelectorAll("canvas")].every((c) => c.width > 0));
  };

  await page.goto(base.href);
  await page.getByLabel("User").waitFor();
  if (!options.only || options.only === "login") await judge("login");
  await page.getByLabel("User").fill(user);
  await page.getByLabel("Password").first().fill(password);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForSelector("nav");

  /** @param {string} path @returns {Promise<any>} */
  const api = (path) =>
    page.evaluate(async (p) => {
      const r = await fetch(`/api/v1${p}`);
      return r.ok ? r.json() : undefined;
    }, path);
  const first = {
    device: (await api("/devices?limit=1000"))?.items,
    rollout: (await api("/rollouts?limit=100"))?.items,
    policy: (await api("/rollout-policies?limit=100"))?.items?.[0],
    model: (await api("/models?limit=1"))?.items?.[0],
    run: (await api("/training-runs?limit=100"))?.items,
    event: (await api("/audit/events?limit=1"))?.items?.[0],
  };
  const device = first.device?.find((/** @type {any} */ d) => d.status.connected && d.status.phase) ?? first.device?.find((/** @type {any} */ d) => d.status.connected) ?? first.device?.[0];
  const failed = first.rollout?.find((/** @type {any} */ r) => r.status.state === "failed");
  const over = first.rollout?.find((/** @type {any} */ r) => r.status.endedAt);
  const refused = first.run?.find((/** @type {any} */ r) => r.status.state === "refused");
  const released = first.run?.find((/** @type {any} */ r) => r.status.state === "released");
  const ended = first.run?.find((/** @type {any} */ r) => r.status.endedAt);
  const queued = (await api("/frames/queue?limit=10"))?.items ?? [];
  const version = first.model ? (await api(`/models/${first.model.metadata.name}/versions?limit=1`))?.items?.[0] : undefined;

  /** @type {[name: string, path: string | undefined, then?: () => Promise<void>][]} */
  const routes = [
    ["now", "/"],
    ["fleet", "/fleet"],
    ["fleet-table", "/fleet?view=table"],
    ["fleet-selected", "/fleet?selector=!retired"],
    ["device", device && `/fleet/${device.metadata.name}`, async () => void (await page.waitForFunction(() => document.querySelectorAll(".u-over").length > 0 || /has sent nothing/.test(document.body.innerText)))],
    ["rollouts", "/rollouts"],
    ["rollout", first.rollout?.[0] && `/rollouts/${first.rollout[0].metadata.name}`],
    [
      "rollout-why",
      first.rollout?.[0] && `/rollouts/${first.rollout[0].metadata.name}`,
      async () => {
        await page.getByText("Evidence", { exact: true }).first().click({ timeout: 5000 }).catch(() => undefined);
        await page.getByText("Why: the decisions").scrollIntoViewIfNeeded();
      },
    ],
    [
      "rollout-replay",
      (failed ?? over) && `/rollouts/${(failed ?? over).metadata.name}`,
      async () => {
        await page.getByRole("button", { name: "Replay" }).click();
        await page.getByText(/decisions alike/).waitFor();
        await page.getByText("With another policy").scrollIntoViewIfNeeded();
      },
    ],
    [
      "rollout-start",
      version && first.policy && `/rollouts/new?release=${version.spec.release.id}&policy=${first.policy.metadata.name}`,
      async () => void (await page.getByRole("heading", { name: "Disruption budget" }).waitFor()),
    ],
    ["policies", "/policies"],
    ["policy", first.policy && `/policies/${first.policy.metadata.name}`],
    [
      "policy-wrong",
      first.policy && `/policies/${first.policy.metadata.name}`,
      async () => {
        const text = page.getByLabel("Policy document");
        await text.fill((await text.inputValue()).replace("spec:", "spec:\n  wvaes: []"));
        await page.getByText("The hub would refuse it.").waitFor();
      },
    ],
    [
      "freeze",
      "/policies",
      async () => {
        await page.getByRole("button", { name: "Freeze" }).click();
        await page.getByLabel("Name").fill("stocktaking");
        await page.waitForFunction(() => getComputedStyle(/** @type {Element} */ (document.querySelector("[role=dialog]"))).opacity === "1");
      },
    ],
    ["rollout-failed", failed && `/rollouts/${failed.metadata.name}`],
    [
      "rollout-reason",
      first.rollout?.find((/** @type {any} */ r) => !r.status.endedAt) && `/rollouts/${first.rollout.find((/** @type {any} */ r) => !r.status.endedAt).metadata.name}`,
      async () => {
        await page.getByRole("button", { name: "Abort" }).click();
        await page.getByLabel(/Reason/).waitFor();
        await page.getByText("Asking the hub…").waitFor({ state: "detached" });
        await page.waitForFunction(() => getComputedStyle(/** @type {Element} */ (document.querySelector("[role=dialog]"))).opacity === "1");
      },
    ],
    ["models", "/models"],
    ["model-version", version && `/models/${version.spec.release.name}/${version.spec.release.counter}`, async () => {
      await page.getByRole("button", { name: "Verify now" }).click();
      await page.getByText(/Every check held|A check failed/).waitFor();
    }],
    ["model-compare", first.model && `/models/${first.model.metadata.name}/compare`, async () => void (await page.getByRole("heading", { name: "How they were made" }).waitFor())],
    ["training", "/training"],
    ["training-run", first.run?.[0] && `/training/${first.run[0].metadata.name}`],
    ["training-refused", refused && `/training/${refused.metadata.name}`],
    ["training-released", released && `/training/${released.metadata.name}`, async () => void (await page.getByText("Quality gates", { exact: true }).scrollIntoViewIfNeeded())],
    ["training-running", first.run?.find((/** @type {any} */ r) => r.status.state === "running") && `/training/${first.run.find((/** @type {any} */ r) => r.status.state === "running").metadata.name}`],
    [
      "training-rerun",
      ended && `/training/${ended.metadata.name}`,
      async () => {
        await page.getByRole("button", { name: "Rerun" }).click();
        await page.getByLabel(/Reason/).waitFor();
        await page.waitForFunction(() => getComputedStyle(/** @type {Element} */ (document.querySelector("[role=dialog]"))).opacity === "1");
      },
    ],
    ["labels", "/labels", async () => void (await page.waitForFunction(() => [...document.images].every((i) => i.complete)))],
    [
      "labels-keys",
      queued.length > 1 ? "/labels" : undefined,
      async () => {
        await page.getByText(/^Picture 1 of/).waitFor();
        await page.keyboard.press("u");
        await page.getByText(/^Picture 2 of/).waitFor();
        await page.keyboard.press("z");
        await page.getByText(/^Picture 1 of/).waitFor();
      },
    ],
    ["audit", "/audit"],
    ["audit-proof", first.event && `/audit/${first.event.index}`, async () => void (await page.getByText(/Computed here|not in a checkpoint yet/).waitFor())],
    ["not-found", "/no/such/page"],
  ];
  for (const [name, path, then] of routes) {
    if (!path) {
      console.log(`${scheme.padEnd(5)} ${name.padEnd(16)} left out: this hub has none yet`);
      continue;
    }
    if (options.only && options.only !== name) continue;
    at = name;
    try {
      await page.goto(new URL(path, base).href);
      await settle();
      await then?.();
      await judge(name);
    } catch (e) {
      found("errors", e instanceof Error ? e.message : String(e));
    }
  }
  await context.close();
}
await browser.close();

for (const f of findings) console.log(`${f.scheme} ${f.page}: ${f.what}`);
console.log(JSON.stringify(totals));
process.exit(findings.length > 0 ? 1 : 0);
