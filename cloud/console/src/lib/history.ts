// How the gates of a wave moved: the verdicts of the decisions on record, in
// order, and those of this moment at the end.

import type { Schemas } from "../api/client";

type Gate = Schemas["Gate"];
type Decision = Schemas["RolloutDecision"];

/** A gate at one moment, in milliseconds. */
export interface Point {
  at: number;
  gate: Gate;
}

export interface Line {
  /** Name of the gate, or what people call its expression. */
  name: string;
  points: Point[];
}

/** The gates of a wave over time, in the policy's order. Decisions may come in any order. */
export function gateLines(decisions: Decision[], wave: number, present: Gate[]): Line[] {
  const lines = new Map<string, Line>();
  const add = (at: number, gates: Gate[]) => {
    for (const gate of gates) {
      const name = gateName(gate);
      const line = lines.get(name) ?? { name, points: [] };
      lines.set(name, line);
      const last = line.points.at(-1);
      if (!last || last.at < at) line.points.push({ at, gate });
    }
  };
  for (const d of [...decisions].sort((a, b) => Date.parse(a.at) - Date.parse(b.at))) if ((d.gatesWave ?? d.wave) === wave) add(Date.parse(d.at), d.gates);
  const newest = Math.max(...present.map((g) => (g.at ? Date.parse(g.at) : 0)), 0);
  if (newest > 0) add(newest, present);
  return [...lines.values()];
}

export const gateName = (g: Gate) => g.title ?? g.name;

/** Numbers to be drawn on one axis. */
export interface Axis {
  /** Where a number stands between the bottom (0) and the top (1). */
  to: (x: number) => number;
}

/** An axis that shows all of the numbers with some room; on a log axis what is below 0.01 stands at the bottom. */
export function axis(numbers: number[], log: boolean): Axis {
  const f = (x: number) => (log ? Math.log10(Math.max(x, 0.01)) : x);
  const all = numbers.filter(Number.isFinite).map(f);
  const lo = Math.min(...all, log ? -1 : Infinity);
  const hi = Math.max(...all, log ? 1 : -Infinity);
  if (!(hi >= lo)) return { to: () => 0.5 };
  const room = (hi - lo || Math.abs(hi) || 1) * 0.12;
  return { to: (x) => Math.min(1, Math.max(0, (f(x) - lo + room) / (hi - lo + 2 * room))) };
}

/** An SVG path through what is known; where a value is missing the line is broken. */
export function path(points: Point[], of: (g: Gate) => number | undefined, x: (at: number) => number, y: (v: number) => number): string {
  let d = "";
  let pen = "M";
  for (const p of points) {
    const v = of(p.gate);
    if (v === undefined || !Number.isFinite(v)) {
      pen = "M";
      continue;
    }
    // What was decided holds until the next decision: a step, not a slope.
    d += pen === "M" ? `M${x(p.at).toFixed(1)} ${y(v).toFixed(1)}` : `H${x(p.at).toFixed(1)}V${y(v).toFixed(1)}`;
    pen = "H";
  }
  return d;
}
