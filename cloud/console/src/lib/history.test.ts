import { describe, expect, it } from "vitest";
import type { Schemas } from "../api/client";
import { axis, gateLines, path } from "./history";

const gate = (value: number | undefined, more: Partial<Schemas["Gate"]> = {}): Schemas["Gate"] => ({ name: "success", verdict: "INCONCLUSIVE", value, message: "", ...more });
const decision = (minute: number, wave: number, gates: Schemas["Gate"][], gatesWave?: number): Schemas["RolloutDecision"] => ({ id: String(minute), at: new Date(minute * 60_000).toISOString(), summary: "", state: "running", wave, gatesWave, gates });

describe("gateLines", () => {
  it("puts the decisions of a wave in order and the present at the end", () => {
    const lines = gateLines([decision(3, 0, [gate(0.9)]), decision(1, 0, [gate(0.5)]), decision(2, 1, [gate(0.1)])], 0, [gate(1, { at: new Date(4 * 60_000).toISOString() })]);
    expect(lines.map((l) => [l.name, l.points.map((p) => p.gate.value)])).toEqual([["success", [0.5, 0.9, 1]]]);
  });
  it("gives a decision that passes a wave to the wave it is about", () => {
    const all = [decision(1, 0, [gate(0.5)]), decision(2, 1, [gate(1)], 0)];
    expect(gateLines(all, 0, [])[0]?.points.map((p) => p.gate.value)).toEqual([0.5, 1]);
    expect(gateLines(all, 1, [])).toEqual([]);
  });
  it("tells expressions apart by what people call them", () => {
    const all = [decision(1, 0, [gate(1, { name: "expr", title: "flow" }), gate(2, { name: "expr", title: "heat" })])];
    expect(gateLines(all, 0, []).map((l) => l.name)).toEqual(["flow", "heat"]);
  });
  it("takes the present once", () => {
    const at = new Date(60_000).toISOString();
    expect(gateLines([decision(1, 0, [gate(1)])], 0, [gate(1, { at })])[0]?.points).toHaveLength(1);
  });
});

describe("axis", () => {
  it("keeps everything inside, with more above less", () => {
    const { to } = axis([1, 2, 10], false);
    expect(to(1)).toBeGreaterThan(0);
    expect(to(10)).toBeLessThan(1);
    expect(to(2)).toBeLessThan(to(10));
  });
  it("stands in the middle for one number and for none", () => {
    expect(axis([3], false).to(3)).toBeCloseTo(0.5);
    expect(axis([], false).to(3)).toBe(0.5);
  });
  it("gives evidence a tenth and a hundred their place", () => {
    const { to } = axis([0, 412, 100], true);
    expect(to(0)).toBeGreaterThanOrEqual(0);
    expect(to(100)).toBeGreaterThan(0.5);
    expect(to(412)).toBeGreaterThan(to(100));
  });
});

describe("path", () => {
  it("steps from decision to decision and breaks where nothing was measured", () => {
    const points = [1, undefined, 3, 4].map((v, at) => ({ at, gate: gate(v) }));
    expect(path(points, (g) => g.value, (x) => x, (y) => y)).toBe("M0.0 1.0M2.0 3.0H3.0V4.0");
  });
});
