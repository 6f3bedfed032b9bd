import { describe, expect, it } from "vitest";
import type { Schemas } from "../api/client";
import { verbs, waveTime } from "./Rollout";

const counts = { devices: 5, pending: 0, unreachable: 0, inFlight: 0, done: 0, failed: 0, returned: 0, kept: 0, excluded: 0 };
const wave = (w: Partial<Schemas["Wave"]>): Schemas["Wave"] => ({ name: "canary", state: "running", counts, gates: [], ...w });
const rollout = (state: Schemas["RolloutState"], waves: Schemas["Wave"][] = [wave({})]) =>
  ({ status: { state, message: "", counts, waves, conditions: [], currentWave: 0 } }) as unknown as Schemas["Rollout"];
const gate = (verdict: Schemas["Verdict"]) => ({ name: "shadow", verdict, message: "" });

describe("what is offered", () => {
  it.each([
    ["nothing after the end", rollout("promoted"), []],
    ["pause while it runs", rollout("running"), ["pause", "abort"]],
    ["resume when paused", rollout("paused"), ["resume", "abort"]],
    ["approval when it waits for one", rollout("waiting"), ["approve", "pause", "abort"]],
    ["promotion when a gate is inconclusive", rollout("held", [wave({ gates: [gate("INCONCLUSIVE"), gate("PASS")] })]), ["promote", "pause", "abort"]],
    ["no promotion past a FAIL", rollout("held", [wave({ gates: [gate("INCONCLUSIVE"), gate("FAIL")] })]), ["pause", "abort"]],
    ["no promotion when no gate asks for it", rollout("held", [wave({ gates: [] })]), ["pause", "abort"]],
  ] as const)("%s", (_, r, want) => expect(verbs(r)).toEqual(want));
});

describe("waveTime", () => {
  const now = Date.parse("2026-11-22T12:00:00Z");
  it.each([
    ["the rest of its soak", wave({ state: "soaking", soakUntil: "2026-11-22T12:01:30Z" }), "soaks 1 min 30 s more"],
    ["that the soak is over", wave({ state: "soaking", soakUntil: "2026-11-22T11:59:00Z" }), "soaked, waits for its gates"],
    ["approvals", wave({ state: "waiting", approvalsNeeded: 2, approvals: [{ by: "ana", at: "2026-11-22T11:00:00Z" }] }), "needs 1 approval"],
    ["how long it took", wave({ state: "passed", startedAt: "2026-11-22T11:00:00Z", endedAt: "2026-11-22T11:00:42Z" }), "took 42 s"],
  ])("says %s", (_, w, want) => expect(waveTime(w, now)).toBe(want));
});
