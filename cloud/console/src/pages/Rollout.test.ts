import { describe, expect, it } from "vitest";
import type { Schemas } from "../api/client";
import { follows, verbs, waveTime } from "./Rollout";

const counts = { devices: 5, pending: 0, unreachable: 0, inFlight: 0, done: 0, failed: 0, returned: 0, kept: 0, excluded: 0 };
const wave = (w: Partial<Schemas["Wave"]>): Schemas["Wave"] => ({ name: "canary", state: "running", counts, gates: [], ...w });
const rollout = (state: Schemas["RolloutState"], waves: Schemas["Wave"][] = [wave({})]) =>
  ({ status: { state, message: "", counts, waves, conditions: [], currentWave: 0 } }) as unknown as Schemas["Rollout"];

const gate = (name: string, verdict: Schemas["Verdict"], n = 1) => ({ name, verdict, n, message: "" });

describe("what is offered", () => {
  it.each([
    ["nothing after the end", rollout("promoted"), []],
    ["pause while it runs", rollout("running"), ["pause", "abort"]],
    ["resume when paused", rollout("paused"), ["resume", "abort"]],
    ["approval when it waits for one", rollout("waiting"), ["approve", "pause", "abort"]],
    ["approval of what a wave did, once its other gates have passed", rollout("held", [wave({ gates: [gate("success", "PASS"), gate("approval", "INCONCLUSIVE")] })]), ["approve", "pause", "abort"]],
    ["no approval before the other gates", rollout("held", [wave({ gates: [gate("success", "INCONCLUSIVE", 3), gate("approval", "INCONCLUSIVE")] })]), ["pause", "abort"]],
    ["to be hurried while two waves are left", rollout("running", [wave({}), wave({}), wave({})]), ["promote", "pause", "abort"]],
    ["no hurry before the last wave", rollout("running", [wave({}), wave({})]), ["pause", "abort"]],
    ["only its end while it is queued", rollout("queued"), ["abort"]],
    ["nothing while it goes back", rollout("rolling-back"), []],
    ["undo of what was promoted over something", { ...rollout("promoted"), status: { ...rollout("promoted").status, rollbackTo: { kind: "model", id: "a-6", name: "a", counter: 6, digest: "" } } } as Schemas["Rollout"], ["undo"]],
  ] as const)("%s", (_, r, want) => expect(verbs(r)).toEqual(want));
});

describe("what follows from an action", () => {
  const six = { kind: "model", id: "pump-6", name: "pump", counter: 6, digest: "" } as const;
  const with_ = (state: Schemas["RolloutState"], message: string, more: Partial<Schemas["RolloutStatus"]> = {}) => {
    const r = rollout(state);
    return { ...r, status: { ...r.status, message, counts: { ...counts, done: 3, inFlight: 2 }, ...more } };
  };
  it.each([
    ["the new state and who goes back", with_("running", "on its way"), with_("rolling-back", "aborted", { rollbackTo: six }), ["It would be “rolling back”: aborted", "5 devices that run it or have it on trial return to pump-6."]],
    ["that there is nothing to go back to", with_("running", "on its way"), with_("rolling-back", "aborted"), ["It would be “rolling back”: aborted", "2 devices drop their trial; there is no release before to return to."]],
    ["an approval that counts", with_("waiting", "needs 2"), with_("waiting", "needs 1", { waves: [wave({ approvalsNeeded: 2, approvals: [{ by: "ana", at: "" }] })] }), ["It stays “waits for approval”: needs 1", "Wave 1 would have 1 of 2 approvals."]],
  ] as const)("says %s", (_, before, after, want) => expect(follows(before, after)).toEqual(want));
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
