// A hub made of made data, for working on the console without a hub and for its
// screenshots. It keeps to protocol/openapi.yaml: every answer is typed by the
// schema that is generated from it, and tsc checks that. It knows one login,
// demo with password demo-demo-demo, and no storage: it begins anew at each start.
//
// Usage: node e2e/fixture.mjs [--port 7999] [--devices 24]

import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

/** @typedef {import("../src/api/generated/schema").components["schemas"]} S */
/** @typedef {S["RolloutDeviceState"]} RDState */

const args = process.argv.slice(2);
/** @param {string} name @param {string} otherwise */
const arg = (name, otherwise) => {
  const i = args.indexOf(`--${name}`);
  return i < 0 ? otherwise : (args[i + 1] ?? otherwise);
};
const PORT = Number(arg("port", "7999"));
const N = Number(arg("devices", "24"));
const USER = "demo";
const PASSWORD = "demo-demo-demo";
const dist = join(dirname(fileURLToPath(import.meta.url)), "..", "dist");
const t0 = Date.now();

/** @param {number} msFromStart */
const iso = (msFromStart) => new Date(t0 + msFromStart).toISOString();
const nowIso = () => new Date().toISOString();
const MIN = 60_000;
const HOUR = 60 * MIN;
/** @param {string} s */
const sha = (s) => createHash("sha256").update(s).digest();
/** @param {string} s */
const digest = (s) => `sha256:${sha(s).toString("hex")}`;

/** @param {number} counter @returns {S["ReleaseRef"]} */
const release = (counter) => ({ kind: "model", id: `pump-anomaly-${counter}`, name: "pump-anomaly", counter, digest: digest(`pump-anomaly-${counter}`) });

// ------------------------------------------------------------------ devices
const lines = ["l1", "l2", "l3"];
/** The scene: rollout r-7 of release 7 is in its second of three waves. */
const fleet = Array.from({ length: N }, (_, i) => {
  const line = /** @type {string} */ (lines[i % 3]);
  const node = `pump-${String(i + 1).padStart(N > 99 ? 5 : 2, "0")}`;
  const wave = i < Math.max(3, N * 0.12) ? 0 : i < N / 2 ? 1 : 2;
  /** @type {RDState} */
  let state = "pending";
  if (wave === 0) state = "done";
  else if (wave === 1) state = /** @type {RDState} */ (["soaking", "shadow", "shadow", "updating", "shadow"][i % 5]);
  if (i === 7) state = "rolled-back";
  if (i === 10) state = "unreachable";
  return { i, site: N > 99 && i % 2 ? "hall-2" : "hall-1", node, line, wave, state };
});
/** @typedef {typeof fleet[number]} D */

/** @param {D} d @returns {S["DeviceState"]} */
const deviceState = (d) => (d.i === 10 ? "offline" : d.i === 7 ? "failed" : d.i === 20 ? "degraded" : d.state === "shadow" ? "trial" : d.state === "updating" ? "updating" : "ok");
/** @param {D} d */
const runs = (d) => (d.state === "done" || d.state === "soaking" ? 7 : 6);
const phases = ["fetching", "verifying", "guarding", "loading", "testing", "shadowing", "ready", "activating", "soaking", "confirmed"];
/** @param {D} d */
const phaseOf = (d) => (d.state === "shadow" ? "shadowing" : d.state === "updating" ? "testing" : d.state === "soaking" ? "soaking" : undefined);

/** @param {D} d @param {boolean} full @returns {S["Device"]} */
function device(d, full) {
  const state = deviceState(d);
  const counter = runs(d);
  const phase = phaseOf(d);
  const windows = Math.floor((Date.now() - t0) / 1000) + 183_220 + d.i * 17;
  /** @type {S["Condition"][]} */
  const conditions = [];
  if (state === "degraded") conditions.push({ type: "DiskPressure", status: "True", severity: "warning", reason: "SpoolGrows", message: "The spool holds 412 MiB of 512 MiB: the link to the hub is slower than the data. Check the uplink of line l3.", lastTransitionTime: iso(-18 * MIN) });
  if (state === "failed") conditions.push({ type: "UpdateFailed", status: "True", severity: "critical", reason: "too_many_flags", message: "Rolled back pump-anomaly-7 by itself: it flagged 9.1 % of windows, the limit is 5 %. It runs pump-anomaly-6.", lastTransitionTime: iso(-4 * MIN) });
  conditions.push({ type: "Connected", status: state === "offline" ? "False" : "True", severity: "info", reason: "Mqtt", message: "The MQTT session is up.", lastTransitionTime: iso(-6 * HOUR) });
  const at = phases.indexOf(phase ?? "");
  return {
    apiVersion: "swell/v1",
    kind: "Device",
    metadata: { name: `${d.site}/${d.node}`, labels: { line: d.line, hardware: d.i % 4 ? "rpi4" : "x86" }, resourceVersion: "12", createdAt: iso(-40 * 24 * HOUR) },
    spec: {
      site: d.site,
      node: d.node,
      class: "pump",
      line: d.line,
      desiredGeneration: 14,
      ...(full ? { desired: { schema: 1, site: d.site, node: d.node, generation: 14, issued_at: iso(-9 * MIN), expires_at: iso(6 * HOUR), model: { rollout: "r-7", name: "pump-anomaly", counter: 7, manifest: release(7).digest, mode: "trial", shadow_s: 120, soak_s: 120, min_windows: 60 }, floors: { "pump-anomaly": 5 } } } : {}),
    },
    status: {
      state,
      connected: state !== "offline",
      lastSeenAt: state === "offline" ? iso(-31 * MIN) : nowIso(),
      reportedAt: nowIso(),
      reportedGeneration: state === "offline" ? 13 : 14,
      release: release(counter),
      desiredDigest: d.wave < 2 ? release(7).digest : release(6).digest,
      reportedDigest: release(counter).digest,
      attestedDigest: digest(`onnx-${counter}`),
      attested: true,
      rollout: d.wave < 2 ? "r-7" : undefined,
      phase,
      agentVersion: "0.1.0",
      windowsScored: windows,
      windowsLost: 0,
      spoolBytes: state === "degraded" ? 412 * 2 ** 20 : 1_240_000,
      spoolDropped: 0,
      productionStoppedSeconds: 0,
      certificateExpiresAt: iso(5 * 24 * HOUR),
      conditions,
      ...(full
        ? {
            phases: phase
              ? phases.map((name, i) => ({ name, state: /** @type {S["StepState"]} */ (i < at ? "done" : i === at ? "running" : "waiting"), ...(i <= at ? { at: iso(-8 * MIN + i * 20_000) } : {}) }))
              : state === "failed"
                ? [...phases.slice(0, 8).map((name) => ({ name, state: /** @type {const} */ ("done"), at: iso(-6 * MIN) })), { name: "rolled_back", state: /** @type {const} */ ("failed"), at: iso(-4 * MIN), detail: "flagged 9.1 % of windows, the limit is 5 %" }]
                : phases.map((name) => ({ name, state: /** @type {const} */ ("done"), at: iso(-26 * HOUR) })),
            slots: [
              { role: /** @type {const} */ ("champion"), digest: release(counter).digest, release: release(counter), loadedDigest: digest(`onnx-${counter}`), since: iso(counter === 7 ? -6 * MIN : -26 * HOUR) },
              ...(phase && counter === 6 ? [{ role: /** @type {const} */ ("challenger"), digest: release(7).digest, release: release(7), loadedDigest: digest("onnx-7"), since: iso(-5 * MIN) }] : []),
              { role: /** @type {const} */ ("last-good"), digest: release(6).digest, release: release(6), since: iso(-26 * HOUR) },
            ],
            reported: { schema: 1, site: d.site, node: d.node, boot: "b7f0c2", seq: 4812, generation: 14, at: nowIso(), class: "pump", agent: { version: "0.1.0", arch: "arm64", protocol: 1, rss_mib: 48.2 }, stream: { windows_due: windows, windows_scored: windows, windows_lost: 0, stopped_ms: 0, spool_dropped: 0, swaps: 6 } },
          }
        : {}),
    },
  };
}

/** Enough of the selector grammar to filter. @param {D} d @param {string} selector */
function matches(d, selector) {
  /** @type {Record<string, string | undefined>} */
  const labels = { site: d.site, node: d.node, line: d.line, class: "pump", state: deviceState(d), release: release(runs(d)).id, hardware: d.i % 4 ? "rpi4" : "x86" };
  return selector
    .split(",")
    .map((s) => s.trim())
    .filter(Boolean)
    .every((term) => {
      if (term.startsWith("!")) return labels[term.slice(1)] === undefined;
      const m = /^([^!=]+)(!?=)(.*)$/.exec(term);
      if (!m) return labels[term] !== undefined;
      return (labels[m[1] ?? ""] === m[3]) === (m[2] === "=");
    });
}

/** @param {D} d @returns {S["TimelineEntry"][]} */
const timeline = (d) => [
  ...(d.i === 7 ? [{ at: iso(-4 * MIN), type: "rollback", severity: /** @type {const} */ ("critical"), message: "Rolled back to pump-anomaly-6 by itself: 9.1 % of windows flagged, the limit is 5 %.", rollout: "r-7", release: "pump-anomaly-7", auditIndex: 41 }] : []),
  { at: iso(-5 * MIN), type: "phase", severity: "info", message: "pump-anomaly-7 computes beside pump-anomaly-6.", rollout: "r-7", release: "pump-anomaly-7" },
  { at: iso(-7 * MIN), type: "phase", severity: "info", message: "Verified the signature and 4 files of pump-anomaly-7.", rollout: "r-7" },
  { at: iso(-8 * MIN), type: "phase", severity: "info", message: "Offered pump-anomaly-7 by r-7, wave 2.", rollout: "r-7", auditIndex: 38 },
  { at: iso(-6 * HOUR), type: "connected", severity: "info", message: "Connected after 42 s." },
  { at: iso(-26 * HOUR), type: "swap", severity: "info", message: "Swapped to pump-anomaly-6 between two windows; 0 windows lost.", release: "pump-anomaly-6" },
  { at: iso(-40 * 24 * HOUR), type: "enrolled", severity: "info", message: "Enrolled with a token made by ana.", auditIndex: 3 },
];

// ------------------------------------------------------------------- series
const signals = /** @type {const} */ ([
  ["score", "score", "", 0.32],
  ["accelerometer-1", "measured", "g", 0.027],
  ["current", "measured", "A", 2.1],
  ["pressure", "measured", "bar", 0.38],
  ["temperature", "measured", "°C", 71.4],
  ["flow-rate", "measured", "L/min", 32.6],
]);

/** A signal as a function of time. @param {number} k @param {number} t */
function valueAt(k, t) {
  const s = t / 1000;
  const base = /** @type {number} */ (signals[k]?.[3]);
  const noise = Math.sin(s * 12.9898 + k * 78.233) * 43758.5453;
  const frac = noise - Math.floor(noise);
  const bump = inAnomaly(t) ? (k === 0 ? 0.55 : 0.18) : 0;
  return base * (1 + 0.06 * Math.sin(s / 19 + k) + 0.05 * Math.sin(s / 3.1 + k * 2) + 0.08 * (frac - 0.5) + bump * (0.7 + 0.6 * frac));
}
/** Anomalies recur every 97 s and last 11 s. @param {number} t */
const inAnomaly = (t) => t % 97_000 > 86_000;

/** @param {URLSearchParams} q @returns {S["Series"]} */
function series(q) {
  const from = Date.parse(q.get("from") ?? "");
  const to = Date.parse(q.get("to") ?? "");
  const most = Number(q.get("maxPoints") ?? 1000);
  const k = Math.max(0, signals.findIndex((s) => s[0] === q.get("signal")));
  const raw = (to - from) / 1000 <= most;
  const step = raw ? 1000 : Math.ceil((to - from) / most / 1000) * 1000;
  /** @type {S["Series"]} */
  const s = { node: q.get("node") ?? "", signal: q.get("signal") ?? "", unit: signals[k]?.[2], resolutionMs: raw ? 0 : step, times: [], mean: [], anomalies: [], ...(raw ? {} : { min: [], max: [], count: [] }) };
  for (let t = Math.ceil(from / step) * step; t < to; t += step) {
    s.times.push(t);
    const values = raw ? [valueAt(k, t)] : Array.from({ length: 8 }, (_, i) => valueAt(k, t + (i * step) / 8));
    s.mean.push(values.reduce((a, b) => a + b, 0) / values.length);
    s.min?.push(Math.min(...values));
    s.max?.push(Math.max(...values));
    s.count?.push(step / 1000);
  }
  for (let a = Math.floor(from / 97_000) * 97_000; a < to && s.anomalies.length < 200; a += 97_000) s.anomalies.push({ from: a + 86_000, to: a + 97_000, peakScore: 0.51, threshold: 0.42, release: "pump-anomaly-6" });
  s.anomalies = s.anomalies.filter((a) => a.to > from && a.from < to);
  return s;
}

// ----------------------------------------------------------------- rollouts
/** @param {Partial<S["Gate"]> & {name: string, verdict: S["Verdict"], message: string}} g @returns {S["Gate"]} */
const gate = (g) => ({ at: nowIso(), ...g });
/** @returns {S["Gate"][]} */
const wave1Gates = () => [
  gate({ name: "success", verdict: "PASS", value: 1, comparison: ">=", threshold: 0.95, low: 0.37, high: 1, n: 3, nUnit: "devices", message: "3 of 3 devices that ended are done, 0 failed, 0 on their way" }),
  gate({ name: "shadow", verdict: "PASS", value: 1.04, comparison: "<=", threshold: 1.5, eHarm: 0.31, eSafe: 214, eLimit: 100, n: 5_412, nUnit: "windows", message: "The challenger flags 1.04 × the champion; not worse than 1.5 × is shown (e-value 214 for it)." }),
  gate({ name: "latency", verdict: "PASS", value: 0.31, comparison: "<=", threshold: 2, unit: "ms", n: 5_412, nUnit: "windows", message: "p99 over all devices." }),
  gate({ name: "non-finite", verdict: "PASS", value: 0, comparison: "<=", threshold: 0, n: 5_412, nUnit: "windows", message: "No score was NaN or infinite." }),
];
/** @returns {S["Gate"][]} */
const wave2Gates = () => [
  gate({ name: "success", verdict: "INCONCLUSIVE", value: 0.89, comparison: ">=", threshold: 0.95, low: 0.57, high: 1, n: 9, nUnit: "devices", message: "1 of 9 rolled back; 2 more devices must finish before this can be shown." }),
  gate({ name: "shadow", verdict: "INCONCLUSIVE", value: 1.06, comparison: "<=", threshold: 1.5, eHarm: 0.42, eSafe: 31, eLimit: 100, n: 2_871, nUnit: "windows", message: "No sign of harm; not worse than 1.5 × is not shown yet (e-value 31 of 100)." }),
  gate({ name: "latency", verdict: "PASS", value: 0.34, comparison: "<=", threshold: 2, unit: "ms", n: 2_871, nUnit: "windows", message: "p99 over all devices." }),
  gate({ name: "non-finite", verdict: "PASS", value: 0, comparison: "<=", threshold: 0, n: 2_871, nUnit: "windows", message: "No score was NaN or infinite." }),
  gate({ name: "approval", verdict: "INCONCLUSIVE", comparison: ">=", threshold: 1, n: 0, nUnit: "people", message: "Wave 3 needs one approval by somebody else than the author." }),
];
/** @returns {S["Gate"][]} */
const badGates = () => [
  gate({ name: "success", verdict: "PASS", value: 0, comparison: "<=", threshold: 0.34, n: 3, nUnit: "devices", message: "0 of 3 failed to install." }),
  gate({ name: "shadow", verdict: "FAIL", value: 1.93, comparison: "<=", threshold: 1.5, eHarm: 412, eSafe: 0.02, eLimit: 100, n: 1_980, nUnit: "windows", message: "3 of 3 canaries flag 1.9 × the champion; that is harm at α = 1 %." }),
  gate({ name: "latency", verdict: "PASS", value: 0.29, comparison: "<=", threshold: 2, unit: "ms", n: 1_980, nUnit: "windows", message: "p99 over all devices." }),
];

/** The same gates earlier on: the nearer t is to 1, the nearer they are to where they stand. @param {S["Gate"][]} gates @param {number} t @param {number} at @returns {S["Gate"][]} */
const earlier = (gates, t, at) =>
  gates.map((g) => ({
    ...g,
    at: iso(at),
    verdict: /** @type {const} */ ("INCONCLUSIVE"),
    value: t < 0.15 || g.value === undefined ? undefined : g.name === "shadow" ? 1 + (g.value - 1) * (0.4 + 0.6 * t) + 0.06 * Math.sin(t * 9) : g.value,
    ...(g.eHarm === undefined ? {} : { eHarm: g.eHarm ** (t ** 1.4), eSafe: (g.eSafe ?? 1) ** (t ** 1.2) }),
  }));

/** @param {D[]} ds @returns {S["RolloutCounts"]} */
function counts(ds) {
  /** @param {...RDState} s */
  const n = (...s) => ds.filter((d) => s.includes(d.state)).length;
  return { devices: ds.length, pending: n("pending"), unreachable: n("unreachable"), inFlight: n("updating", "shadow", "soaking"), done: n("done"), failed: n("failed", "silent", "rolled-back"), returned: n("returned"), kept: n("kept"), excluded: n("excluded") };
}

/** @type {S["RolloutPolicySpec"]} */
const policySpec = {
  selector: "class=pump",
  waves: [
    { name: "canary", devices: 3, soakSeconds: 120, deadlineSeconds: 3600 },
    { name: "half", share: 0.5, soakSeconds: 120, deadlineSeconds: 3600 },
    { name: "all", share: 1, soakSeconds: 120, deadlineSeconds: 86400, approvals: 1 },
  ],
  budgets: [{ groupBy: "line", maxUnavailable: 2, minAvailable: 4 }],
  windows: [{ name: "night", zone: "Europe/Berlin", from: "22:00", to: "06:00" }],
  gates: [{ name: "success" }, { name: "shadow", threshold: 1.5, alpha: 0.01 }, { name: "latency", threshold: 2 }, { name: "expr", title: "bearing stays cool", expr: "metrics.bearing_c.max < 85.0" }],
  leaseSeconds: 60,
};
/** @type {Map<string, S["RolloutPolicy"]>} */
const policies = new Map();
/** @param {string} name @param {S["RolloutPolicySpec"]} spec */
const keep = (name, spec) => {
  const version = String(Number(policies.get(name)?.metadata.resourceVersion ?? 0) + 1);
  const p = /** @type {S["RolloutPolicy"]} */ ({ apiVersion: "swell/v1", kind: "RolloutPolicy", metadata: { name, resourceVersion: version, createdAt: iso(-40 * 24 * HOUR), updatedAt: nowIso() }, spec, status: { devices: N, conditions: [] } });
  policies.set(name, p);
  return p;
};
keep("pumps", policySpec);
keep("strict", { ...policySpec, gates: [{ name: "success", threshold: 1 }, { name: "shadow", threshold: 1.2, alpha: 0.05 }], waves: [{ name: "one", devices: 1, soakSeconds: 600 }], growth: { first: 2, factor: 2 } });

// ---------------------------------------------------------- standing orders
/** @type {S["Freeze"][]} */
const freezes = [];
/** @type {S["Quarantine"][]} */
const banned = [{ release: "pump-anomaly-5", digest: release(5).digest, by: "user:ana", reason: "flags 1.9 × the champion", at: iso(-49 * HOUR) }];

/** @returns {S["PreviewBudget"][]} */
const budgets = () => lines.map((group) => ({ groupBy: "line", group, devices: fleet.filter((d) => d.line === group).length, limit: 2, unavailable: group === "l2" ? 2 : group === "l3" ? 1 : 0 }));
/** @returns {S["PreviewWindow"][]} */
const windows = () => [{ names: ["night"], zone: "Europe/Berlin", devices: N, open: false, changeAt: iso(3.2 * HOUR) }];

/** @param {string} id @param {string | undefined} policy @param {S["RolloutPolicySpec"]} spec @returns {S["RolloutPreview"]} */
function preview(id, policy, spec) {
  const counter = Number(id.split("-").pop());
  const line = /^[^,]*line=([^,]+)/.exec(spec.selector)?.[1];
  if (line && !lines.includes(line)) return { ...preview(id, policy, { ...spec, selector: "" }), waves: [], devices: 0, finishAt: undefined, refusals: [`policy "${policy ?? "unnamed"}" can never finish: the fleet selector "${spec.selector}" matches no device; the label line has: ${lines.join(", ")}`] };
  const refusals = banned.some((q) => q.digest === release(counter).digest) ? [`${id} is in quarantine: flags 1.9 × the champion (user:ana)`] : [];
  let left = fleet.filter((d) => deviceState(d) !== "retired").sort((a, b) => sha(a.node).compare(sha(b.node)));
  const all = left.length;
  const waves = [...spec.waves];
  if (spec.growth) for (let n = spec.growth.first, i = 2, sum = waves.length; sum < all; sum += n, n = Math.round(n * spec.growth.factor), i++) waves.push({ name: `grow-${i}`, devices: n });
  let at = 0;
  return {
    release: release(counter),
    policy,
    policySpec: spec,
    state: "queued",
    message: "It waits for rollout r-7, which is running.",
    devices: all,
    waves: waves.map((w) => {
      const n = Math.min(left.length, w.devices ?? (w.share ? Math.max(1, Math.ceil(w.share * all) - (all - left.length)) : left.length));
      const drawn = left.slice(0, n);
      left = left.slice(n);
      const start = at;
      at += 12 * MIN;
      return { name: w.name, devices: n, lines: lines.map((l) => ({ line: l, devices: drawn.filter((d) => d.line === l).length })).filter((l) => l.devices > 0), names: drawn.map((d) => `${d.site}/${d.node}`), approvals: w.approvals, soakSeconds: 120, deadlineSeconds: w.deadlineSeconds ?? 86400, startAt: iso(start), endAt: iso(at) };
    }),
    budgets: budgets(),
    windows: spec.windows?.length ? windows() : [],
    excluded: [],
    refusals,
    rollbackTo: release(6),
    finishAt: refusals.length ? undefined : iso(at),
  };
}

/** @param {string} name @param {string | undefined} policy @returns {S["RolloutReplay"]} */
function replay(name, policy) {
  const all = decisions(name).reverse();
  if (name !== "r-5") return { rollout: name, policy, verdict: `would have decided the same ${all.length} times`, same: all.length, steps: all.map((d) => ({ id: d.id, at: d.at, recorded: d.state, replayed: d.state, summary: d.summary, offered: 3, gates: d.gates })) };
  const steps = all.map((d, i) => ({ id: d.id, at: d.at, recorded: d.state, replayed: /** @type {S["RolloutState"]} */ (i >= 2 ? "rolling-back" : d.state), summary: i >= 2 ? "shadow: the challenger flags 1.7 × the champion; e-value for harm 24 of 20" : d.summary, offered: 3, gates: i >= 2 ? badGates().slice(1, 2).map((g) => ({ ...g, eHarm: 24, eLimit: 20, threshold: 1.2 })) : d.gates }));
  return { rollout: name, policy, verdict: `would have stopped on ${all[2]?.at.slice(0, 16).replace("T", " ")} after 3 devices, 2 decisions earlier: the shadow gate says FAIL`, same: 2, steps: steps.slice(0, 3), diverged: steps[2] };
}

/** @type {{state: S["RolloutState"], message: string}} */
const live = { state: "running", message: "wave 2 of 3, “half”: 9 of 9 devices are in their trial or past it; the shadow gate needs about 2 200 windows more." };

/** @returns {S["Rollout"]} */
function r7() {
  const of = (/** @type {number} */ w) => fleet.filter((d) => d.wave === w);
  return {
    apiVersion: "swell/v1",
    kind: "Rollout",
    metadata: { name: "r-7", resourceVersion: String(Date.now()), createdAt: iso(-11 * MIN) },
    spec: { release: release(7), policy: "pumps", policySpec, startedBy: "hub", reason: "proposed by night-7" },
    status: {
      ...live,
      currentWave: live.state === "aborted" ? undefined : 1,
      counts: counts(fleet),
      waves: [
        { name: "canary", state: "passed", counts: counts(of(0)), soakSeconds: 120, startedAt: iso(-11 * MIN), endedAt: iso(-8.3 * MIN), gates: wave1Gates() },
        { name: "half", state: live.state === "aborted" ? "skipped" : "soaking", counts: counts(of(1)), soakSeconds: 120, startedAt: iso(-8.2 * MIN), soakUntil: iso(3 * MIN), gates: wave2Gates() },
        { name: "all", state: live.state === "aborted" ? "skipped" : "waiting", counts: counts(of(2)), soakSeconds: 120, approvalsNeeded: 1, approvals: [], gates: [] },
      ],
      rollbackTo: release(6),
      startedAt: iso(-11 * MIN),
      endedAt: live.state === "aborted" ? nowIso() : undefined,
      wakeAt: new Date(Date.now() + 8_000).toISOString(),
      windowsScored: 15_840 + Math.floor((Date.now() - t0) / 1000) * N,
      windowsLost: 0,
      productionStoppedSeconds: 0,
      budgets: budgets(),
      windows: windows(),
      conditions: [],
    },
  };
}

/** @param {number} c @param {S["RolloutState"]} state @param {string} message @param {number} hoursAgo @returns {S["Rollout"]} */
function past(c, state, message, hoursAgo) {
  const failed = state === "failed";
  const all = { devices: N, pending: failed ? N - 3 : 0, unreachable: 0, inFlight: 0, done: failed ? 0 : N, failed: failed ? 3 : 0, returned: 0, kept: 0, excluded: 0 };
  return {
    apiVersion: "swell/v1",
    kind: "Rollout",
    metadata: { name: `r-${c}`, createdAt: iso(-hoursAgo * HOUR) },
    spec: { release: release(c), policy: "pumps", policySpec, startedBy: "hub", reason: `proposed by night-${c}` },
    status: {
      state,
      message,
      counts: all,
      waves: [
        { name: "canary", state: failed ? "failed" : "passed", counts: { ...all, devices: 3, pending: 0, done: failed ? 0 : 3 }, startedAt: iso(-hoursAgo * HOUR), endedAt: iso(-hoursAgo * HOUR + 3 * MIN), gates: failed ? badGates() : wave1Gates() },
        { name: "half", state: failed ? "skipped" : "passed", counts: { ...all, devices: N / 2 - 3, pending: failed ? N / 2 - 3 : 0, failed: 0, done: failed ? 0 : N / 2 - 3 }, gates: failed ? [] : wave1Gates(), startedAt: failed ? undefined : iso(-hoursAgo * HOUR + 3 * MIN), endedAt: failed ? undefined : iso(-hoursAgo * HOUR + 6 * MIN) },
        { name: "all", state: failed ? "skipped" : "passed", counts: { ...all, devices: N / 2, pending: failed ? N / 2 : 0, failed: 0, done: failed ? 0 : N / 2 }, gates: failed ? [] : wave1Gates(), startedAt: failed ? undefined : iso(-hoursAgo * HOUR + 6 * MIN), endedAt: failed ? undefined : iso(-hoursAgo * HOUR + 9 * MIN) },
      ],
      rollbackTo: release(c - 1),
      startedAt: iso(-hoursAgo * HOUR),
      endedAt: iso(-hoursAgo * HOUR + (failed ? 3 : 9.4) * MIN),
      windowsScored: 14_200,
      windowsLost: 0,
      productionStoppedSeconds: 0,
      conditions: [],
    },
  };
}
const rollouts = () => [
  r7(),
  past(6, "promoted", `${N} of ${N} devices run it, attested; 0 windows lost.`, 26),
  past(5, "failed", "stopped in wave 1: 3 of 3 canaries flag 1.9 × the champion; rolled back to pump-anomaly-4.", 50),
  past(4, "promoted", `${N} of ${N} devices run it, attested; 0 windows lost.`, 74),
];

/** @param {string} name @returns {S["RolloutDevice"][]} */
const rolloutDevices = (name) =>
  fleet.map((d) => {
    /** @type {RDState} */
    const state = name === "r-7" ? d.state : name === "r-5" ? (d.wave === 0 ? "returned" : "pending") : "done";
    const seen = state === "shadow" || state === "soaking" || state === "done";
    return {
      name: `${d.site}/${d.node}`,
      line: d.line,
      wave: d.wave,
      state,
      phase: name === "r-7" ? phaseOf(d) : undefined,
      since: iso(-5 * MIN),
      reason: state === "returned" ? "called back: the shadow gate failed" : state === "rolled-back" ? "flagged 9.1 % of windows, the limit is 5 %" : state === "unreachable" ? "not heard of for 31 min; waited for until the wave's deadline" : undefined,
      attestedDigest: state === "done" ? release(7).digest : release(6).digest,
      ...(seen ? { windows: 320 + d.i, onlyChallenger: d.i % 4, onlyChampion: (d.i + 2) % 4 } : {}),
    };
  });

/** @param {string} name @returns {S["RolloutDecision"][]} */
const decisions = (name) =>
  name === "r-5"
    ? [
        { id: "d-3", at: iso(-49.95 * HOUR), summary: "Failed wave 1 and called 3 devices back: the shadow gate says FAIL.", reasons: ["3 of 3 canaries flag 1.9 × the champion on the same windows", "e-value 412 > 100 (α = 1 %) over 1 980 windows"], state: "failed", stateBefore: "running", wave: 0, assigned: [], revoked: ["hall-1/pump-01", "hall-1/pump-02", "hall-1/pump-03"], gates: badGates(), snapshotDigest: digest("snap-5"), evidence: { alpha: 0.01, margin: 1.5, windows: 1980, a: 61, b: 30 } },
        ...[4, 3, 2, 1].map((i) => ({ id: `d-2${i}`, at: iso(-50 * HOUR + i * 0.6 * MIN), summary: `Holds wave 1: the shadow gate has ${i * 400} windows.`, state: /** @type {const} */ ("running"), stateBefore: /** @type {const} */ ("running"), wave: 0, gates: earlier(badGates(), i / 5, -50 * HOUR + i * 0.6 * MIN) })),
        { id: "d-1", at: iso(-50 * HOUR), summary: "Began wave 1: offered to 3 devices drawn by seed 5, one a line.", state: "running", stateBefore: "queued", wave: 0, assigned: ["hall-1/pump-01", "hall-1/pump-02", "hall-1/pump-03"], revoked: [], gates: [], snapshotDigest: digest("snap-5a") },
      ]
    : [
        ...(live.state === "paused" ? [{ id: "d-9", at: nowIso(), summary: "Paused by demo.", state: /** @type {const} */ ("paused"), stateBefore: /** @type {const} */ ("running"), actor: "user:demo", gates: [] }] : []),
        { id: "d-8", at: iso(-1 * MIN), summary: "Holds wave 2: two gates have no verdict yet.", reasons: ["shadow: e-value 31 of the 100 that show “not worse than 1.5 ×”", "success: 9 devices, 2 still soaking"], state: "running", stateBefore: "running", wave: 1, assigned: [], revoked: [], gates: wave2Gates(), snapshotDigest: digest("snap-8"), evidence: { alpha: 0.01, margin: 1.5, windows: 2871, a: 31, b: 29 }, wakeAt: iso(MIN) },
        ...[6, 5, 4, 3, 2, 1].map((i) => ({ id: `d-7${i}`, at: iso(-8 * MIN + i * MIN), summary: `Holds wave 2: ${i} of 9 devices are past their trial.`, state: /** @type {const} */ ("running"), stateBefore: /** @type {const} */ ("running"), wave: 1, gates: earlier(wave2Gates(), i / 8, -8 * MIN + i * MIN) })),
        { id: "d-7", at: iso(-4 * MIN), summary: "Counts hall-1/pump-08 as failed: it rolled back by itself.", reasons: ["9.1 % of windows flagged, the limit is 5 %", "the wave goes on: 1 of 9 is within the success gate so far"], state: "running", stateBefore: "running", wave: 1, assigned: [], revoked: ["hall-1/pump-08"], gates: [], snapshotDigest: digest("snap-7") },
        { id: "d-6", at: iso(-6 * MIN), summary: "Gave 2 activation leases, one on l1 and one on l2; l3 is at its budget.", reasons: ["l3: 2 of at most 2 devices are disturbed (pump-11 offline, pump-06 leased)"], state: "running", stateBefore: "running", wave: 1, assigned: ["hall-1/pump-04", "hall-1/pump-05"], revoked: [], gates: [], snapshotDigest: digest("snap-6"), evidence: { budgets: { l1: [1, 2], l2: [1, 2], l3: [2, 2] } } },
        { id: "d-5", at: iso(-8.2 * MIN), summary: "Passed wave 1 and began wave 2: every gate says PASS.", state: "running", stateBefore: "running", wave: 1, gatesWave: 0, assigned: fleet.filter((d) => d.wave === 1).slice(0, 50).map((d) => `${d.site}/${d.node}`), revoked: [], gates: wave1Gates(), snapshotDigest: digest("snap-5x") },
        { id: "d-1", at: iso(-11 * MIN), summary: "Began wave 1: offered to 3 devices drawn by seed 7, one a line.", state: "running", stateBefore: "queued", wave: 0, assigned: ["hall-1/pump-01", "hall-1/pump-02", "hall-1/pump-03"], revoked: [], gates: [], snapshotDigest: digest("snap-1") },
      ];

// ------------------------------------------------------------------- models
/** A network that somebody brought. @type {S["ModelVersion"]} */
const theirs = {
  apiVersion: "swell/v1",
  kind: "ModelVersion",
  metadata: { name: "their-lstm-1", createdAt: iso(-3 * HOUR) },
  spec: {
    release: { kind: "model", id: "their-lstm-1", name: "their-lstm", counter: 1, digest: "" },
    detector: "network",
    card: "# their-lstm, version 1\n\nImported from a file by user:demo.\nOrigin and licence, in their words: of the pump's maker, licence 4711\n\n- kind: network\n- reads: float [batch any 8]\n- its output is taken as a reconstruction of the window\n\nIt was run once and not evaluated: only a night's gates judge what is made from it.",
    classes: [],
    files: [],
    lineage: {},
  },
  status: { state: "candidate", metrics: [], signatures: [], conditions: [] },
};

/** @param {number} c @returns {S["ModelVersion"]} */
function version(c) {
  /** @type {S["ModelVersionState"]} */
  const state = c === 7 ? "rolling-out" : c === 6 ? "promoted" : c === 5 ? "rejected" : "superseded";
  const on = fleet.filter((d) => runs(d) === c).length;
  return {
    apiVersion: "swell/v1",
    kind: "ModelVersion",
    metadata: { name: `pump-anomaly-${c}`, createdAt: iso(c === 7 ? -12 * MIN : (c - 7) * 24 * HOUR - 2 * HOUR) },
    spec: {
      release: release(c),
      detector: c % 3 === 2 ? "pca" : "autoencoder",
      card: `A dense autoencoder over windows of 60 samples and 8 channels of a circulation pump.\n\nMeant for: pumps of class “pump” in steady operation at 1 Hz. Not meant for start-up and shut-down; those windows are not scored.\nLearned from: 11 devices on 3 lines, 7 days, without windows that were flagged by the champion or by an operator.\nKnown to be weak: slow drift below 0.5 % a day; single-channel faults on “temperature”.`,
      classes: ["pump"],
      threshold: 0.418,
      files: [
        { path: "manifest.json", digest: digest(`m${c}`), size: 1422, role: "manifest" },
        { path: "pump/model.onnx", digest: digest(`onnx-${c}`), size: 148_213, role: "model" },
        { path: "pump/golden.bin", digest: digest(`g${c}`), size: 61_440, role: "golden" },
        { path: "card.md", digest: digest(`c${c}`), size: 2_144, role: "card" },
        { path: "model.sig", digest: digest(`s${c}`), size: 3_310, role: "signature" },
      ],
      lineage: { run: `night-${c}`, snapshot: digest(`data-${c}`), config: digest("config"), code: "0.1.0", seed: 41 + c, parent: c > 1 ? release(c === 6 ? 4 : c - 1) : undefined, segments: 812 + c * 31, devices: N, from: iso((c - 14) * 24 * HOUR), to: iso((c - 7) * 24 * HOUR - 13 * MIN) },
      expectedFlagShare: 0.0121,
      parentFlagShare: 0.0117,
    },
    status: {
      state,
      metrics: [
        ...judged("pump", 0.6 + c * 0.03, 0.021 - c * 0.0014, 0.57 + c * 0.03, 0.0224 - c * 0.0014),
        { name: "f1", value: 0.771 + c * 0.006, champion: 0.771 + (c - 1) * 0.006, n: 9_401 },
        { name: "far", value: 14.2 - c * 0.3, champion: 14.5 - c * 0.3, unit: "%", n: 9_401 },
        { name: "mar", value: 22.9 - c * 0.5, champion: 23.1 - c * 0.5, unit: "%", n: 9_401 },
        { name: "f1", slice: "line=l1", value: 0.83, champion: 0.81, n: 3_120 },
        { name: "f1", slice: "line=l2", value: 0.79, champion: 0.8, n: 3_150 },
        { name: "f1", slice: "line=l3", value: 0.82, champion: 0.78, n: 3_131 },
        { name: "latency_p99", value: 0.31, champion: 0.3, unit: "ms", n: 20_000 },
        { name: "size", value: 145, champion: 145, unit: "KiB" },
      ],
      signatures: ["model_signing/v1.0", "lineage", "slsa/v1"].map((form, i) => ({ keyId: sha("key").toString("hex"), form, signer: "hub", at: iso(-12 * MIN), bundle: "model.sig", ledgerIndex: 34 + i })),
      runsOn: { champion: on, challenger: c === 7 ? fleet.filter((d) => d.state === "shadow").length : 0, lastGood: c === 6 ? N : 0 },
      rollouts: [`r-${c}`],
      conditions: [],
    },
  };
}

// ----------------------------------------------------------------- training
const stepNames = /** @type {const} */ ([
  ["extract", [], 2.1],
  ["validate", ["extract"], 0.9],
  ["train/pca", ["validate"], 1.4],
  ["train/autoencoder", ["validate"], 21.8],
  ["calibrate", ["train/pca", "train/autoencoder"], 1.1],
  ["evaluate", ["calibrate"], 6.3],
  ["bless", ["evaluate"], 0.1],
  ["package", ["bless"], 0.4],
  ["sign", ["package"], 0.6],
  ["register", ["sign"], 0.1],
  ["propose", ["register"], 0.1],
]);

/** @param {string} k @param {number} found @param {number} flags @param {number} [championFound] @param {number} [championFlags] @returns {S["Metric"][]} */
const judged = (k, found, flags, championFound, championFlags) => [
  { name: "faults_found", value: found, champion: championFound, slice: `class=${k}`, n: 120 },
  { name: "flag_share", value: flags, champion: championFlags, slice: `class=${k}`, n: 9_401 },
  { name: "faults_found", value: found * 0.9, slice: `class=${k},fault=drift` },
];

/** @param {boolean} refused @returns {S["Gate"][]} */
const dataGates = (refused) => [
  gate({ name: "schema", verdict: "PASS", value: 0, comparison: "<=", threshold: 0, n: N, nUnit: "devices", message: "class pump: every device sends the eight channels." }),
  gate({ name: "stuck", verdict: refused ? "FAIL" : "PASS", value: refused ? 0.71 : 0.004, comparison: "<=", threshold: 0.2, n: 24_310, nUnit: "windows", message: "class pump: share of the night that channel pressure on line l2 did not move." }),
  gate({ name: "psi", verdict: refused ? "FAIL" : "PASS", value: refused ? 0.41 : 0.07, comparison: "<=", threshold: 0.25, n: 24_310, nUnit: "windows", message: "class pump: population shift against the last promoted snapshot." }),
  gate({ name: "two-sample", verdict: "INCONCLUSIVE", n: 12, nUnit: "windows", message: "class press: too few rows for the test; it needs 200." }),
];

/** @param {number} c @param {boolean} full @returns {S["TrainingRun"]} */
function run(c, full) {
  const refusedAt = c === 3 ? "validate" : undefined;
  const start = c === 7 ? -13 * MIN : (c - 7) * 24 * HOUR - 2.2 * HOUR;
  let at = start;
  let stopped = false;
  const steps = stepNames.map(([name, after, took]) => {
    /** @type {S["TrainingStep"]} */
    const s = { name, after: [...after], state: stopped ? "skipped" : name === refusedAt ? "refused" : "done" };
    if (!stopped) {
      s.startedAt = iso(at);
      at += took * 1000;
      s.endedAt = iso(at);
      s.attempts = 1;
      if (full) s.log = [
        { at: iso(at - 900), level: "info", message: `${name} begins` },
        ...(name.startsWith("train") ? Array.from({ length: 12 }, (_, i) => ({ at: iso(at - 800 + i * 60), level: "info", message: `epoch ${i * 5} loss ${(0.41 * Math.exp(-i / 4) + 0.021).toFixed(4)} validation ${(0.43 * Math.exp(-i / 4) + 0.024).toFixed(4)}` })) : []),
        { at: iso(at), level: "info", message: `${name} done` },
      ];
      if (full && name.startsWith("train")) {
        s.tasks = ["pump", "press", "fan"].map((k, i) => ({ name: `${name.slice(6)} for class ${k}`, state: "done", startedAt: iso(at - took * 1000 + i * 100), endedAt: iso(at - i * 120) }));
        s.cost = { cpuSeconds: took * 1.4, wallSeconds: took, peakMiB: 310 + took };
      }
      s.outputs = { result: digest(`${name}-${c}`) };
      s.summary = { extract: `Read ${812 + c * 31} segments of ${N} devices.`, validate: "Schema, ranges and gaps hold; drift against the last promoted snapshot is 0.07 (limit 0.25).", evaluate: "The autoencoder wins: F1 0.813 against 0.774 of PCA and 0.807 of the champion." }[/** @type {string} */ (name)];
    }
    if (name === refusedAt) {
      stopped = true;
      s.summary = "The night's data is not fit to learn from.";
      s.reasons = ["channel pressure on line l2 is constant for 71 % of the night (limit 20 %)", "population shift 0.41 against the last promoted snapshot (limit 0.25)"];
    }
    return s;
  });
  const refused = refusedAt !== undefined;
  return {
    apiVersion: "swell/v1",
    kind: "TrainingRun",
    metadata: { name: `night-${c}`, createdAt: iso(start) },
    spec: { policy: "pumps-nightly", model: "pump-anomaly", trigger: c === 4 ? "manual" : "schedule", startedBy: c === 4 ? "user:ana" : "hub", reason: c === 4 ? "sensor on line l2 was replaced" : undefined, seed: 41 + c },
    status: {
      state: refused ? "refused" : "released",
      summary: refused ? "Refused in validate: the night's data is not fit to learn from; pump-anomaly-2 stays." : `Released pump-anomaly-${c}: F1 0.813 against 0.807 of the champion on the same held-out days.`,
      queuedAt: iso(start),
      startedAt: iso(start),
      endedAt: iso(at),
      steps,
      data: {
        snapshot: digest(`data-${c}`),
        windows: refused ? 0 : 181_420 + c * 1_200,
        added: refused ? 0 : 24_310,
        devices: N,
        segments: 812 + c * 31,
        from: iso((c - 14) * 24 * HOUR),
        to: iso(start),
        gates: dataGates(refused),
        dropped: [
          { reason: "flagged by the champion", windows: 2_210, devices: 19 },
          { reason: "gap of more than 2 s", windows: 412, devices: 4 },
          { reason: "start-up or shut-down", windows: 1_032, devices: N },
          { reason: "held out for evaluation", windows: 36_120, devices: N },
        ],
      },
      candidates: refused
        ? []
        : [
            { detector: "dense-ae", class: "pump", chosen: true, why: "class pump: dense-ae finds 84 % of 120 faults with 1.1 % false alarms; pca finds 71 % with 0.9 %", metrics: judged("pump", 0.84, 0.011, 0.8, 0.014) },
            { detector: "pca", class: "pump", chosen: false, metrics: judged("pump", 0.71, 0.009, 0.8, 0.014) },
            { detector: "conv-ae", class: "pump", chosen: false, metrics: judged("pump", 0.79, 0.023, 0.8, 0.014) },
            { detector: "neighbour", class: "pump", chosen: false, message: "it cannot be loaded: the graph wants 9 channels and the class has 8", metrics: [] },
            { detector: "pca", class: "press", chosen: true, why: "class press: pca finds 66 % of 120 faults with 0.7 % false alarms; dense-ae finds 66 % with 1.3 %, and the smaller one wins", metrics: judged("press", 0.66, 0.007) },
            { detector: "dense-ae", class: "press", chosen: false, metrics: judged("press", 0.66, 0.013) },
          ],
      gates: refused
        ? [gate({ name: "drift", verdict: "FAIL", value: 0.41, comparison: "<=", threshold: 0.25, n: 24_310, nUnit: "windows", message: "Population shift against the last promoted snapshot." })]
        : [
            gate({ name: "f1", verdict: "PASS", value: 0.813, comparison: ">=", threshold: 0.78, low: 0.801, high: 0.825, n: 9_401, nUnit: "windows", message: "On held-out days and simulated faults." }),
            gate({ name: "false alarms", verdict: "PASS", value: 12.1, comparison: "<=", threshold: 25, unit: "%", n: 7_120, nUnit: "windows", message: "Share of normal windows that were flagged." }),
            gate({ name: "missed alarms", verdict: "PASS", value: 19.4, comparison: "<=", threshold: 25, unit: "%", n: 2_281, nUnit: "windows", message: "Share of anomalous windows that were not." }),
            gate({ name: "drift", verdict: "PASS", value: 0.07, comparison: "<=", threshold: 0.25, n: 24_310, nUnit: "windows", message: "Population shift against the last promoted snapshot." }),
          ],
      refusals: refused ? ["channel pressure on line l2 is constant for 71 % of the night (limit 20 %)", "population shift 0.41 against the last promoted snapshot (limit 0.25)"] : [],
      release: refused ? undefined : release(c),
      rollout: refused ? undefined : `r-${c}`,
      cost: { cpuSeconds: 41.2 + c, wallSeconds: 33.5 + c, peakMiB: 412 },
    },
  };
}

/** @returns {S["TrainingRun"]} */
function atWork() {
  const r = run(7, true);
  const stepAt = 3;
  r.metadata = { name: "night-8", createdAt: iso(-41_000) };
  r.spec = { ...r.spec, trigger: "manual", startedBy: "user:demo", reason: "new bearings on line l2" };
  r.status = {
    ...r.status, state: "running", summary: undefined, queuedAt: iso(-41_000), startedAt: iso(-40_000), endedAt: undefined, candidates: undefined, gates: [], release: undefined, rollout: undefined, cost: { cpuSeconds: 31.2, wallSeconds: 40 },
    steps: r.status.steps.map((s, i) => {
      if (i < stepAt) return { ...s, startedAt: iso(-40_000 + i * 5000), endedAt: iso(-35_000 + i * 5000) };
      if (i > stepAt) return { name: s.name, after: s.after, state: "waiting" };
      /** @type {S["TrainingTask"][]} */
      const tasks = ["pump", "press", "fan", "belt"].map((k, n) => ({ name: `autoencoder for class ${k}`, state: n < 2 ? "done" : n === 2 ? "running" : "waiting", startedAt: n < 3 ? iso(-25_000 + n * 8000) : undefined, endedAt: n < 2 ? iso(-18_000 + n * 8000) : undefined }));
      return { ...s, state: "running", startedAt: iso(-25_000), endedAt: undefined, summary: undefined, outputs: undefined, cost: undefined, tasks };
    }),
  };
  return r;
}

/** @param {number} a @param {number} b @returns {S["ModelComparison"]} */
function comparison(a, b) {
  const other = version(b).status.metrics;
  return {
    release: release(a),
    with: release(b),
    metrics: version(a).status.metrics.map((m) => {
      const o = other.find((x) => x.name === m.name && x.slice === m.slice)?.value;
      const less = ["flag_share", "far", "mar", "latency_p99", "size"].includes(m.name);
      return { name: m.name, slice: m.slice, value: m.value, with: o, better: o === undefined || o === m.value ? undefined : m.value > o !== less ? "this" : "other" };
    }),
    differences: [
      { name: "class pump: threshold", value: "1.214", with: "1.187" },
      { name: "snapshot", value: digest(`data-${a}`), with: digest(`data-${b}`) },
      { name: "seed", value: String(41 + a), with: String(41 + b) },
      { name: "run", value: `night-${a}`, with: `night-${b}` },
    ],
  };
}

// ------------------------------------------------------------------- labels
/** @type {S["Label"][]} */
const said = [];
const looks = ["scratches", "inclusion", "good", "patches", "crazing"];
/** @type {(S["Frame"] & {svg: string})[]} Made pictures of steel strip with a made defect. */
const pictures = Array.from({ length: 12 }, (_, i) => {
  const top = /** @type {string} */ (looks[i % looks.length]);
  const marks = Array.from({ length: 40 }, (_, k) => {
    const h = sha(`${i} ${k}`);
    const [x = 0, y = 0, l = 0, g = 0] = h;
    return top === "scratches" ? `<path d="M${x} 0l${l / 16 - 8} 256" stroke="rgb(${g},${g},${g})" stroke-opacity=".25"/>` : `<ellipse cx="${x}" cy="${y}" rx="${2 + l / 24}" ry="${2 + g / 40}" fill="rgb(${g},${g},${g})" fill-opacity=".22"/>`;
  }).join("");
  return {
    svg: `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256" width="256" height="256"><rect width="256" height="256" fill="#7b7f82"/>${marks}</svg>`,
    digest: digest(`frame ${i}`), device: `hall-1/camera-0${1 + (i % 3)}`, class: "camera", row: 41_200 + i * 7, at: iso(-i * 7 * MIN - 3 * MIN), bytes: 9_214 + i, width: 256, height: 256, format: "png", why: i % 4 === 3 ? "sample" : "uncertain", release: "strip-vision-3", score: 0.7 + i / 40, top, topProbability: 0.34 + i / 30,
  };
});

/** @type {S["RetrainPolicy"]} */
const retrainPolicy = {
  apiVersion: "swell/v1",
  kind: "RetrainPolicy",
  metadata: { name: "pumps-nightly", resourceVersion: "3" },
  spec: { model: "pump-anomaly", selector: "class=pump,!retired", schedule: { cron: "0 2 * * *", timeZone: "Europe/Berlin" }, lookbackHours: 168, detectors: ["pca", "autoencoder"], rolloutPolicy: "pumps", gates: { maxFlagShare: 0.02 } },
  status: { nextRunAt: iso(5.2 * HOUR), lastRun: "night-7", lastOutcome: "released", conditions: [] },
};

// -------------------------------------------------------------------- audit
/** @type {Omit<S["AuditEvent"], "index">[]} */
const log = [];
/** @param {number} at @param {string} actor @param {string} action @param {string} subject @param {string} [reason] @param {string} [outcome] */
const record = (at, actor, action, subject, reason, outcome = "ok") => log.push({ at: iso(at), actor, action, subject, reason, outcome });
record(-40 * 24 * HOUR, "hub", "hub.start", "Hub/self");
record(-40 * 24 * HOUR + 1000, "hub", "key.create", "Key/hub");
for (const d of fleet.slice(0, 24)) record(-40 * 24 * HOUR + 60_000 + d.i * 1000, `device:${d.site}/${d.node}`, "device.enroll", `Device/${d.site}/${d.node}`);
record(-74 * HOUR, "hub", "release.sign", "Release/pump-anomaly-4");
record(-73 * HOUR, "hub", "rollout.promote", "Rollout/r-4");
record(-50 * HOUR, "hub", "release.sign", "Release/pump-anomaly-5");
record(-49.9 * HOUR, "hub", "rollout.fail", "Rollout/r-5", "the shadow gate says FAIL: 3 of 3 canaries flag 1.9 × the champion");
record(-49 * HOUR, "user:ben", "rollout.promote", "Rollout/r-5", "looks fine to me", "denied");
record(-26 * HOUR, "hub", "release.sign", "Release/pump-anomaly-6");
record(-25 * HOUR, "hub", "rollout.promote", "Rollout/r-6");
record(-5 * HOUR, "user:ana", "device.label", "Device/hall-1/pump-21", "moved to line l3");
record(-12 * MIN, "hub", "release.sign", "Release/pump-anomaly-7");
record(-11 * MIN, "hub", "rollout.start", "Rollout/r-7", "proposed by night-7");
record(-4 * MIN, "device:hall-1/pump-08", "device.rollback", "Device/hall-1/pump-08", "flagged 9.1 % of windows, the limit is 5 %");

/** @param {number} i */
const leafBytes = (i) => Buffer.from(JSON.stringify({ index: i, ...log[i] }));
/** @param {Buffer} l @param {Buffer} r */
const pair = (l, r) => createHash("sha256").update(Buffer.concat([Buffer.from([1]), l, r])).digest();
/** @param {number} i */
const leafHash = (i) => createHash("sha256").update(Buffer.concat([Buffer.from([0]), leafBytes(i)])).digest();
/** @param {number} n */
const splitAt = (n) => 2 ** Math.floor(Math.log2(n - 1));
/** @param {number} lo @param {number} hi @returns {Buffer} */
const treeHash = (lo, hi) => (hi - lo === 1 ? leafHash(lo) : pair(treeHash(lo, lo + splitAt(hi - lo)), treeHash(lo + splitAt(hi - lo), hi)));
/** @param {number} m @param {number} lo @param {number} hi @returns {Buffer[]} */
function treePath(m, lo, hi) {
  if (hi - lo === 1) return [];
  const k = lo + splitAt(hi - lo);
  return m < k ? [...treePath(m, lo, k), treeHash(k, hi)] : [...treePath(m, k, hi), treeHash(lo, k)];
}
/** @param {number} i @returns {S["AuditEvent"]} */
const auditEvent = (i) => ({ index: i, .../** @type {Omit<S["AuditEvent"], "index">} */ (log[i]), leafHash: leafHash(i).toString("hex") });
/** @param {number} i @returns {S["InclusionProof"]} */
function proof(i) {
  const root = treeHash(0, log.length);
  return {
    index: i,
    treeSize: log.length,
    leaf: leafBytes(i).toString("base64"),
    leafHash: leafHash(i).toString("hex"),
    hashes: treePath(i, 0, log.length).map((h) => h.toString("hex")),
    rootHash: root.toString("hex"),
    checkpoint: `swell-hub/demo\n${log.length}\n${root.toString("base64")}\n\n— swell-hub/demo ${randomBytes(68).toString("base64")}\n`,
    origin: "swell-hub/demo",
    witnesses: [],
  };
}

// ----------------------------------------------------------------- overview
/** @returns {S["Overview"]} */
function overview() {
  /** @type {Record<string, number>} */
  const byState = {};
  for (const d of fleet) byState[deviceState(d)] = (byState[deviceState(d)] ?? 0) + 1;
  const connected = fleet.filter((d) => deviceState(d) !== "offline").length;
  const on7 = fleet.filter((d) => runs(d) === 7).length;
  return {
    state: "attention",
    sentence: `${on7} of ${N} devices run pump-anomaly-7 and ${N - on7} pump-anomaly-6, all attested; 3 things need you.`,
    needsMe: [
      { severity: "critical", message: "hall-1/pump-08 rolled back pump-anomaly-7 by itself: it flagged 9.1 % of windows. Look whether the pump or the model is wrong.", kind: "Device", name: "hall-1/pump-08", since: iso(-4 * MIN), action: "look" },
      { severity: "warning", message: "Wave 3 of r-7 needs one approval by somebody else than its author.", kind: "Rollout", name: "r-7", since: iso(-3 * MIN), action: "approve" },
      { severity: "warning", message: "hall-1/pump-11 has been silent for 31 min. Check its network.", kind: "Device", name: "hall-1/pump-11", since: iso(-31 * MIN), action: "look" },
    ],
    counters: { devices: N, connected, attested: N - 3, windowsScored: 4_412_310 + Math.floor((Date.now() - t0) / 1000) * N, windowsLost: 0, anomaliesLastHour: 312, productionStoppedSeconds: 0, spoolDropped: 0, ingestValuesPerSecond: N * 8, byState },
    sites: [...new Set(fleet.map((d) => d.site))].map((site) => {
      const here = fleet.filter((d) => d.site === site);
      /** @type {Record<string, number>} */
      const states = {};
      for (const d of here) states[deviceState(d)] = (states[deviceState(d)] ?? 0) + 1;
      return { site, lines: 3, devices: here.length, connected: here.filter((d) => deviceState(d) !== "offline").length, byState: states };
    }),
    rollouts: live.state === "aborted" ? [] : [r7()],
    lastRun: run(7, false),
    nextRunAt: iso(5.2 * HOUR),
    at: nowIso(),
  };
}

// ------------------------------------------------------------------- server
/** @type {Set<import("node:http").ServerResponse>} */
const readers = new Set();
let eventId = 0;
/** @param {Omit<S["StreamEvent"], "id" | "at">} e */
function emit(e) {
  eventId++;
  /** @type {S["StreamEvent"]} */
  const full = { id: eventId, at: nowIso(), ...e };
  for (const r of readers) r.write(`id: ${eventId}\nevent: change\ndata: ${JSON.stringify(full)}\n\n`);
}
// The trial goes on: every few seconds one device of wave 2 takes a step.
setInterval(() => {
  if (live.state !== "running") return;
  const wave = fleet.filter((d) => d.wave === 1 && d.state !== "rolled-back" && d.state !== "unreachable");
  // When all have arrived it begins again, so that there is always something to see.
  if (wave.every((d) => d.state === "done")) for (const d of wave) d.state = "updating";
  const next = wave.find((d) => d.state !== "done");
  if (!next) return;
  next.state = next.state === "updating" ? "shadow" : next.state === "shadow" ? "soaking" : "done";
  emit({ kind: "RolloutDevice", name: `${next.site}/${next.node}`, parent: "r-7", state: next.state });
  emit({ kind: "Device", name: `${next.site}/${next.node}` });
  emit({ kind: "Rollout", name: "r-7" });
}, Number(arg("pace", "4000"))).unref();

class Problem extends Error {
  /** @param {number} status @param {string} detail @param {S["FieldError"][]} [fields] */
  constructor(status, detail, fields) {
    super(detail);
    this.status = status;
    this.fields = fields;
  }
}
/** @template T @param {T[]} items @param {URLSearchParams} q @returns {{items: T[], nextCursor?: string}} */
function page(items, q) {
  const limit = Number(q.get("limit") ?? 100);
  const from = Number(q.get("cursor") ?? 0);
  return { items: items.slice(from, from + limit), ...(from + limit < items.length ? { nextCursor: String(from + limit) } : {}) };
}
const sessions = new Map();

/** @type {[method: string, path: RegExp, answer: (m: string[], q: URLSearchParams, body: any) => unknown][]} */
const routes = [
  ["GET", /^\/version$/, () => /** @type {S["Version"]} */ ({ version: "0.1.0", protocol: 1, apiVersion: "swell/v1" })],
  ["GET", /^\/health$/, () => /** @type {S["Health"]} */ ({ ok: true, parts: [] })],
  ["GET", /^\/overview$/, overview],
  ["GET", /^\/devices$/, (_, q) => {
    const all = fleet.filter((d) => matches(d, q.get("selector") ?? ""));
    return /** @type {S["DeviceList"]} */ ({ ...page(all.map((d) => device(d, false)), q), total: all.length });
  }],
  ["GET", /^\/devices\/([^/]+)\/([^/]+)$/, ([site, node]) => device(find(site, node), true)],
  ["GET", /^\/devices\/([^/]+)\/([^/]+)\/timeline$/, ([site, node]) => ({ items: timeline(find(site, node)) })],
  ["GET", /^\/devices\/([^/]+)\/([^/]+)\/signals$/, ([site, node]) => {
    find(site, node);
    const last = Math.floor(Date.now() / 1000) * 1000;
    return /** @type {S["SignalList"]} */ ({ items: signals.map(([name, kind, unit], k) => ({ name, kind, unit, sampleRateHz: 1, lastAt: new Date(last).toISOString(), lastValue: valueAt(k, last) })) });
  }],
  ["GET", /^\/series$/, (_, q) => series(q)],
  ["GET", /^\/rollouts$/, (_, q) => page(rollouts(), q)],
  ["GET", /^\/rollouts\/([^/]+)$/, ([name]) => rollouts().find((r) => r.metadata.name === name) ?? missing(`rollout ${name}`)],
  ["GET", /^\/rollouts\/([^/]+)\/devices$/, ([name], q) => page(rolloutDevices(name ?? ""), q)],
  ["GET", /^\/rollouts\/([^/]+)\/decisions$/, ([name], q) => page(decisions(name ?? ""), q)],
  ["POST", /^\/rollouts\/preview$/, (_, __, body) => preview(body.release, body.policy, body.policySpec ?? policies.get(body.policy)?.spec ?? missing(`policy ${body.policy}`))],
  ["POST", /^\/rollouts\/([^/]+)\/replay$/, ([name], _, body) => replay(name ?? "", body.policy)],
  ["GET", /^\/rollouts\/([^/]+)\/decisions\/([^/]+)$/, ([name, id]) => {
    const d = decisions(name ?? "").find((x) => x.id === id) ?? missing(`decision ${id}`);
    return { ...d, snapshotDigest: digest(`${name} ${id}`), evidence: d.evidence ?? { snapshot: { devices: d.assigned ?? [] } } };
  }],
  ["POST", /^\/rollouts\/r-6\/actions\/undo$/, (_, q) => {
    const r = /** @type {S["Rollout"]} */ (rollouts().find((x) => x.metadata.name === "r-6"));
    const after = { ...r, status: { ...r.status, state: /** @type {const} */ ("rolling-back"), message: `${q.get("dryRun") ? "undone by demo" : `undone by demo: “${q.get("reason")}”`}; devices return to pump-anomaly-4.`, rollbackTo: release(4) } };
    if (q.get("dryRun") !== "true") throw new Problem(409, "r-7 is under way: end it first");
    return after;
  }],
  ["GET", /^\/rollout-policies$/, (_, q) => page([...policies.values()], q)],
  ["GET", /^\/rollout-policies\/([^/]+)$/, ([name]) => policies.get(name ?? "") ?? missing(`policy ${name}`)],
  ["PUT", /^\/rollout-policies\/([^/]+)$/, ([name = ""], q, body) => {
    const known = Object.keys(policySpec).concat("growth", "shadowSeconds", "stratify", "retries", "seed", "soakSeconds");
    const odd = Object.keys(body.spec).find((k) => !known.includes(k));
    if (odd) throw new Problem(400, `property "${odd}" is unsupported; there are: ${known.sort().join(", ")}`, [{ field: `spec.${odd}`, message: `unknown; there are: ${known.join(", ")}` }]);
    if (!body.spec.waves?.length && !body.spec.growth) throw new Problem(400, "spec: 0 waves: want 1 to 100", [{ field: "spec.waves", message: "0 waves: want 1 to 100" }]);
    if (q.get("dryRun") === "true") return { ...body, status: { devices: N, conditions: [] } };
    log.push({ at: nowIso(), actor: "user:demo", action: "rollout-policy.apply", subject: `RolloutPolicy/${name}`, reason: q.get("reason") ?? "", outcome: "ok" });
    emit({ kind: "RolloutPolicy", name });
    return keep(name, body.spec);
  }],
  ["GET", /^\/freezes$/, (_, q) => page(freezes, q)],
  ["POST", /^\/freezes$/, (_, q, body) => {
    const selector = body.selector ?? "";
    const key = /^!?([a-z]+)/.exec(selector)?.[1];
    if (key && !["site", "node", "line", "class", "state", "release", "hardware"].includes(key)) throw new Problem(400, `no device has the label "${key}"; there are: class, hardware, line, node, release, site, state`);
    if (freezes.some((f) => f.name === body.name)) throw new Problem(409, `cannot freeze ${body.name}: there is a freeze of this name: lift it first`);
    const f = { name: body.name, selector, from: nowIso(), until: body.until, by: "user:demo", reason: q.get("reason") ?? "", active: true, devices: fleet.filter((d) => matches(d, selector)).length };
    freezes.push(f);
    log.push({ at: nowIso(), actor: "user:demo", action: "freeze.start", subject: `Freeze/${body.name}`, reason: q.get("reason") ?? "", outcome: "ok" });
    emit({ kind: "Freeze", name: body.name });
    return f;
  }],
  ["DELETE", /^\/freezes\/([^/]+)$/, ([name]) => {
    const i = freezes.findIndex((f) => f.name === name);
    if (i < 0) missing(`freeze ${name}`);
    freezes.splice(i, 1);
    emit({ kind: "Freeze", name: name ?? "" });
  }],
  ["GET", /^\/quarantine$/, (_, q) => page(banned, q)],
  ["POST", /^\/quarantine$/, (_, q, body) => {
    const counter = [4, 5, 6, 7].find((c) => release(c).digest === body.release || release(c).id === body.release) ?? missing(`release ${body.release}`);
    const b = { release: release(counter).id, digest: release(counter).digest, by: "user:demo", reason: q.get("reason") ?? "", at: nowIso() };
    banned.unshift(b);
    emit({ kind: "Quarantine", name: b.release });
    return b;
  }],
  ["DELETE", /^\/quarantine\/(.+)$/, ([digest]) => {
    const i = banned.findIndex((b) => b.digest === digest);
    if (i < 0) missing("such quarantine");
    emit({ kind: "Quarantine", name: banned.splice(i, 1)[0]?.release ?? "" });
  }],
  ["POST", /^\/rollouts\/r-7\/actions\/(pause|resume|abort|approve|promote)$/, ([verb], q) => {
    const reason = q.get("reason");
    if (!reason) throw new Problem(400, "give a reason");
    if (q.get("dryRun") === "true") {
      const r = r7();
      const state = /** @type {S["RolloutState"]} */ (verb === "pause" ? "paused" : verb === "resume" ? "running" : verb === "abort" ? "rolling-back" : r.status.state);
      return { ...r, status: { ...r.status, state, message: verb === "abort" ? "aborted by user:demo; devices return to pump-anomaly-6." : verb === "pause" ? "paused by user:demo." : r.status.message } };
    }
    if (verb === "approve" || verb === "promote") throw new Problem(403, "whoever started a rollout cannot approve it");
    live.state = verb === "pause" ? "paused" : verb === "resume" ? "running" : "aborted";
    live.message = verb === "pause" ? `paused by demo in wave 2 of 3: “${reason}”.` : verb === "resume" ? "wave 2 of 3 goes on." : `aborted by demo: “${reason}”; devices return to pump-anomaly-6.`;
    log.push({ at: nowIso(), actor: "user:demo", action: `rollout.${verb}`, subject: "Rollout/r-7", reason, outcome: "ok" });
    emit({ kind: "Rollout", name: "r-7", state: live.state });
    emit({ kind: "AuditEvent", name: "" });
    return r7();
  }],
  ["GET", /^\/models$/, () => /** @type {S["ModelList"]} */ ({ items: [{ apiVersion: "swell/v1", kind: "Model", metadata: { name: "pump-anomaly" }, spec: { kind: "anomaly", description: "Anomalies of circulation pumps", classes: ["pump"] }, status: { versions: 7, latest: release(7), promoted: release(6), conditions: [] } }, { apiVersion: "swell/v1", kind: "Model", metadata: { name: "their-lstm", updatedAt: iso(-3 * HOUR) }, spec: { kind: "garden", description: "of the pump's maker, licence 4711" }, status: { versions: 1, latest: theirs.spec.release, conditions: [] } }] })],
  ["GET", /^\/models\/their-lstm\/versions$/, (_, q) => page([theirs], q)],
  ["GET", /^\/models\/their-lstm\/versions\/1$/, () => theirs],
  ["GET", /^\/models\/([^/]+)\/versions$/, (_, q) => page([7, 6, 5, 4].map(version), q)],
  ["GET", /^\/models\/([^/]+)\/versions\/(\d+)$/, ([, c]) => (Number(c) >= 4 && Number(c) <= 7 ? version(Number(c)) : missing(`version ${c}`))],
  ["POST", /^\/models\/([^/]+)\/versions\/(\d+)\/actions\/verify$/, ([, c]) =>
    /** @type {S["VerifyReport"]} */ ({
      release: release(Number(c)),
      ok: true,
      at: nowIso(),
      checks: [
        { name: "digests", ok: true, message: "5 files hash to what the manifest says" },
        { name: "model signature", ok: true, message: "one signature, by the hub's key" },
        { name: "lineage", ok: true, message: "signed for the same model" },
        { name: "ledger receipt", ok: true, message: "entry 34 of 41" },
      ],
      command: "cosign verify-blob-attestation --bundle model.sig --key cosign.pub --trusted-root trusted_root.json --type https://model_signing/signature/v1.0 model.digests",
    })],
  ["GET", /^\/retrain-policies$/, () => ({ items: [retrainPolicy] })],
  ["GET", /^\/training-runs$/, (_, q) => page([atWork(), ...[7, 6, 5, 4, 3].map((c) => run(c, false))], q)],
  ["GET", /^\/training-runs\/night-8$/, () => atWork()],
  ["GET", /^\/training-runs\/night-(\d+)$/, ([c]) => run(Number(c), true)],
  ["GET", /^\/training-runs\/night-(\d+)\/logs$/, ([c], q) => ({ items: (c === "8" ? atWork() : run(Number(c), true)).status.steps.filter((s) => s.name === q.get("step")).flatMap((s) => (s.log ?? []).map((l) => ({ ...l, step: s.name }))) })],
  ["POST", /^\/training-runs\/night-(\d+)\/actions\/(cancel|rerun)$/, ([c], q) => (q.get("reason") ? run(Number(c), true) : missing("reason"))],
  ["GET", /^\/models\/([^/]+)\/versions\/(\d+)\/compare$/, ([, c], q) => comparison(Number(c), Number(q.get("with")))],
  ["GET", /^\/models\/([^/]+)\/versions\/(\d+)\/lineage$/, ([, c]) => /** @type {S["ModelLineage"]} */ ({
    release: release(Number(c)), lineage: version(Number(c)).spec.lineage, labels: 14, frames: 0, children: Number(c) < 7 ? [release(Number(c) + 1)] : [], devices: Number(c) === 6 ? fleet.slice(0, 9).map((d) => `${d.site}/${d.node}`) : [],
    segments: fleet.map((d) => ({ digest: digest(`segment ${d.node}`), device: `${d.site}/${d.node}`, rows: 36_000 + d.i * 7, from: iso(-30 * HOUR), to: iso(-6 * HOUR) })),
  })],
  ["GET", /^\/labels$/, (_, q) => ({ items: said.filter((l) => !q.get("device") || l.device === q.get("device")) })],
  ["POST", /^\/labels$/, (_, __, body) => {
    const items = body.items.map((/** @type {S["LabelCreate"]} */ l) => ({ device: l.device ?? "hall-1/camera-01", from: l.from, to: l.to, frame: l.frame, value: l.value, by: "user:demo", at: nowIso() }));
    said.push(...items);
    emit({ kind: "Label", name: "" });
    return { items };
  }],
  ["GET", /^\/frames\/queue$/, () => ({ items: pictures.filter((f) => !said.some((l) => l.frame === f.digest)), choices: ["good", "scratches", "inclusion", "patches", "pitted surface", "crazing"] })],
  ["POST", /^\/retrain-policies\/([^/]+)\/actions\/backfill$/, (_, q, body) => {
    const { from, to } = /** @type {S["BackfillRequest"]} */ (body);
    const nights = Math.round((Date.parse(to) - Date.parse(from)) / 86_400_000);
    if (nights > 366) throw new Problem(422, "cannot backfill: nightly had more than 366 nights then: ask for a shorter interval");
    if (!q.get("dryRun") && !q.get("reason")) return missing("reason");
    return /** @type {S["BackfillAnswer"]} */ ({ runs: Array.from({ length: nights }, (_, i) => `nightly-${new Date(Date.parse(from) + i * 86_400_000).toISOString().slice(0, 10)}`) });
  }],
  ["POST", /^\/garden\/import$/, (_, q) => {
    if (q.get("name") === "broken") throw new Problem(422, 'the model cannot be taken in: the network is made for a batch of 1: export it with a free first dimension');
    return /** @type {S["GardenModel"]} */ ({ name: q.get("name"), at: iso(0), bytes: 11216, digest: `sha256:${"7c".repeat(32)}`, stage: "candidate", by: "user:demo", input: "float [batch any 3]", outputs: ["y [2 32 3]"], notes: ["kind: network", "its output is taken as a reconstruction of the window", "a policy names it as garden:NAME, or as garden:NAME:raw when it wants engineering units instead of values by their mean and deviation; the night sets its threshold and judges it like any other"] });
  }],
  ["POST", /^\/training-runs$/, () => {
    throw new Problem(409, "night-7 of the policy pumps-nightly is still going: wait for it or cancel it");
  }],
  ["GET", /^\/audit\/events$/, (_, q) => {
    const of = (/** @type {string} */ k) => q.get(k) ?? "";
    const items = log
      .map((_, i) => auditEvent(i))
      .filter((e) => (!of("actor") || e.actor === of("actor")) && (!of("subject") || e.subject === of("subject")) && (!of("action") || e.action === of("action") || (of("action").endsWith(".") && e.action.startsWith(of("action")))))
      .reverse();
    return /** @type {S["AuditEventList"]} */ ({ ...page(items, q), treeSize: log.length });
  }],
  ["GET", /^\/audit\/events\/(\d+)$/, ([i]) => (Number(i) < log.length ? auditEvent(Number(i)) : missing(`entry ${i}`))],
  ["GET", /^\/audit\/events\/(\d+)\/proof$/, ([i]) => (Number(i) < log.length ? proof(Number(i)) : missing(`entry ${i}`))],
];
/** @param {string} what @returns {never} */
function missing(what) {
  throw new Problem(404, `there is no ${what}`);
}
/** @param {string | undefined} site @param {string | undefined} node */
const find = (site, node) => fleet.find((d) => d.site === site && d.node === node) ?? missing(`device ${site}/${node}`);

const types = { ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2", ".html": "text/html; charset=utf-8" };

const server = createServer((req, res) => {
  const chunks = /** @type {Buffer[]} */ ([]);
  req.on("data", (c) => chunks.push(c));
  req.on("end", () => {
    const url = new URL(req.url ?? "/", "http://fixture");
    if (!url.pathname.startsWith("/api/v1/")) return app(url.pathname, res);
    const path = url.pathname.slice("/api/v1".length);
    const answer = (/** @type {number} */ status, /** @type {unknown} */ body, /** @type {Record<string, string>} */ headers = {}) => {
      res.writeHead(status, { "content-type": status < 400 ? "application/json" : "application/problem+json", ...headers });
      res.end(body === undefined ? undefined : JSON.stringify(body));
    };
    try {
      const body = chunks.length && req.headers["content-type"] !== "application/octet-stream" ? JSON.parse(Buffer.concat(chunks).toString()) : undefined;
      const cookie = /swell_session=(\w+)/.exec(req.headers.cookie ?? "")?.[1] ?? "";
      if (path === "/session" && req.method === "POST") {
        if (body.user !== USER || body.password !== PASSWORD) throw new Problem(401, "user or password is wrong");
        const id = randomBytes(16).toString("hex");
        sessions.set(id, randomBytes(16).toString("hex"));
        return answer(200, me(id), { "set-cookie": `swell_session=${id}; Path=/; HttpOnly; SameSite=Strict` });
      }
      if (path !== "/version" && path !== "/health" && !sessions.has(cookie)) throw new Problem(401, "log in first");
      if (path === "/session" && req.method === "GET") return answer(200, me(cookie));
      if (req.method !== "GET" && req.headers["x-swell-csrf"] !== sessions.get(cookie)) throw new Problem(403, "the X-Swell-CSRF header is missing or wrong");
      if (path === "/session") {
        sessions.delete(cookie);
        return answer(204, undefined, { "set-cookie": "swell_session=; Path=/; Max-Age=0" });
      }
      if (path === "/events") {
        res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
        res.write(`event: hello\ndata: ${JSON.stringify({ id: eventId, hub: String(t0) })}\n\n`);
        readers.add(res);
        res.on("close", () => readers.delete(res));
        return;
      }
      const picture = pictures.find((f) => path === `/frames/${encodeURIComponent(f.digest)}/image`);
      if (picture) {
        res.writeHead(200, { "content-type": "image/svg+xml" });
        res.end(picture.svg);
        return;
      }
      for (const [method, pattern, f] of routes) {
        const m = method === req.method ? pattern.exec(decodeURIComponent(path)) : null;
        if (m) return answer(method === "DELETE" ? 204 : method === "POST" && /^\/(training-runs|freezes|quarantine|labels|garden\/import|retrain-policies\/.*\/backfill)$/.test(path) ? 201 : 200, f(m.slice(1), url.searchParams, body));
      }
      missing(`path ${path}`);
    } catch (e) {
      const status = e instanceof Problem ? e.status : 500;
      answer(status, /** @type {S["Problem"]} */ ({ type: "about:blank", title: status === 500 ? "broken fixture" : "refused", status, detail: e instanceof Error ? e.message : String(e), fields: e instanceof Problem ? e.fields : undefined }));
    }
  });
});

/** @param {string} id @returns {S["Session"]} */
const me = (id) => ({ user: USER, role: "admin", csrfToken: sessions.get(id), expiresAt: iso(8 * HOUR) });

/** Serves the build as embed.go does: own nonce, strict policy. @param {string} path @param {import("node:http").ServerResponse} res */
function app(path, res) {
  const nonce = randomBytes(16).toString("base64");
  const csp = `default-src 'none'; script-src 'self'; style-src 'self' 'nonce-${nonce}'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'`;
  let file = normalize(path);
  try {
    const ext = extname(file);
    const body = readFileSync(join(dist, file));
    res.writeHead(200, { "content-type": types[/** @type {keyof typeof types} */ (ext)] ?? "application/octet-stream", "content-security-policy": csp });
    res.end(body);
  } catch {
    res.writeHead(200, { "content-type": "text/html; charset=utf-8", "content-security-policy": csp });
    res.end(readFileSync(join(dist, "index.html"), "utf8").replaceAll("__CSP_NONCE__", nonce));
  }
}

server.listen(PORT, "127.0.0.1", () => console.log(`fixture hub at http://127.0.0.1:${PORT}, login ${USER} / ${PASSWORD}`));
