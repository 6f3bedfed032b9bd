import type { Schemas } from "../api/client";
import { percent } from "../lib/format";
import { Nothing } from "./page";
import css from "./parts.module.css";

type Candidate = Schemas["Candidate"];

const W = 420;
const H = 200;
const LEFT = 58;
const BOTTOM = 34;
const TOP = 12;
const RIGHT = 70;

interface Point {
  name: string;
  found: number;
  alarms: number;
  kind: "winner" | "other" | "champion";
}

/** A candidate's own number, or that of the release it would replace; not those of single kinds of faults. */
const metric = (c: Candidate, name: string) => c.metrics.find((m) => m.name === name && !m.slice?.includes(","));

/** What is drawn of one device class: its candidates, and the champion they would replace. */
export function points(candidates: Candidate[]): Point[] {
  const out: Point[] = [];
  for (const c of candidates) {
    const found = metric(c, "faults_found");
    const alarms = metric(c, "flag_share");
    if (!found || !alarms) continue;
    out.push({ name: c.detector, found: found.value, alarms: alarms.value, kind: c.chosen ? "winner" : "other" });
    if (found.champion !== undefined && alarms.champion !== undefined && !out.some((p) => p.kind === "champion")) out.push({ name: "champion", found: found.champion, alarms: alarms.champion, kind: "champion" });
  }
  return out;
}

/** Competing detectors by what they found and how often they cried wolf: the best is at the top left. */
export function Candidates({ candidates }: { candidates: Candidate[] }) {
  const classes = [...new Set(candidates.map((c) => c.class ?? ""))];
  if (candidates.length === 0) return <Nothing>None was evaluated.</Nothing>;
  return (
    <div className={css.plots} data-wide>
      {classes.slice(0, MOST).map((k) => (
        <OfClass key={k} name={k} candidates={candidates.filter((c) => (c.class ?? "") === k)} />
      ))}
      {classes.length > MOST && <Nothing>{classes.length - MOST} more classes are in “swellctl retrain watch”.</Nothing>}
    </div>
  );
}

const MOST = 12;

function OfClass({ name, candidates }: { name: string; candidates: Candidate[] }) {
  const all = points(candidates);
  const most = niceAbove(Math.max(...all.map((p) => p.alarms), 0.001));
  const x = (v: number) => LEFT + (v / most) * (W - LEFT - RIGHT);
  const y = (v: number) => TOP + (1 - v) * (H - TOP - BOTTOM);
  const winner = candidates.find((c) => c.chosen);
  const broken = candidates.filter((c) => c.message && !c.chosen);
  const said = all.map((p) => `${p.name} found ${percent(p.found)} with ${percent(p.alarms)} false alarms`).join("; ");
  const heights = besides(all.map((p) => ({ x: x(p.alarms), y: y(p.found) })), H - BOTTOM - 2);
  const labelled = all.map((p, i) => ({ ...p, ly: heights[i]! }));
  return (
    <figure className={css.plot}>
      <figcaption>
        <b>{name || "all classes"}</b>
        <small>{winner ? `${winner.detector} wins` : "nobody wins"}</small>
      </figcaption>
      {all.length > 0 && (
        <svg viewBox={`0 0 ${W} ${H}`} role="img" aria-label={`Candidates of ${name}: ${said}`} data-scatter>
          {[0, 0.5, 1].map((v) => (
            <g key={v}>
              <path d={`M${LEFT} ${y(v)}H${W - RIGHT}`} stroke="var(--line-soft)" />
              <text x={LEFT - 6} y={y(v) + 4} textAnchor="end">
                {v * 100} %
              </text>
            </g>
          ))}
          {[0, most / 2, most].map((v) => (
            <text key={v} x={x(v)} y={H - BOTTOM + 14} textAnchor="middle">
              {percent(v)}
            </text>
          ))}
          <text x={(LEFT + W - RIGHT) / 2} y={H - 4} textAnchor="middle">
            false alarms, share of normal windows
          </text>
          <text transform={`translate(9 ${(H - BOTTOM) / 2 + TOP / 2}) rotate(-90)`} textAnchor="middle">
            faults found
          </text>
          {labelled.map((p) => (
            <g key={p.name + p.kind}>
              {p.kind === "champion" ? (
                <path d={`M${x(p.alarms)} ${y(p.found) - 6}l6 6-6 6-6-6z`} fill="var(--panel)" stroke="var(--n3)" strokeWidth="1.6" />
              ) : (
                <circle cx={x(p.alarms)} cy={y(p.found)} r={p.kind === "winner" ? 6 : 5} fill={p.kind === "winner" ? "var(--n4)" : "var(--panel)"} stroke="var(--n4)" strokeWidth="1.6" />
              )}
              {Math.abs(p.ly - y(p.found)) > 5 && <path d={`M${x(p.alarms) + 7} ${y(p.found)}L${x(p.alarms) + 15} ${p.ly}`} stroke="var(--ink-3)" />}
              <text x={x(p.alarms) + 18} y={p.ly + 4} style={p.kind === "winner" ? { fontWeight: 600 } : undefined} data-name>
                {p.name}
              </text>
            </g>
          ))}
        </svg>
      )}
      {winner?.why && <p className={css.prose}>{winner.why}</p>}
      {broken.map((c) => (
        <p key={c.detector} className={css.prose}>
          {c.detector}: {c.message}
        </p>
      ))}
    </figure>
  );
}

const APART = 13;

/**
 * The heights of names beside points, in the points' own order from top to
 * bottom: names that would touch are set one below the other, all as near to
 * their points as that leaves, and none below floor.
 */
export function besides(at: { x: number; y: number }[], floor: number): number[] {
  const out = at.map((p) => p.y);
  const order = at.map((_, i) => i).sort((a, b) => at[a]!.y - at[b]!.y);
  const groups: number[][] = [];
  const near = (a: number, b: number) => Math.abs(at[a]!.x - at[b]!.x) < 130 && Math.abs(out[a]! - out[b]!) < APART;
  for (const i of order) {
    let group = [i];
    // What is set apart takes more room, and may then touch the group above.
    for (let last = groups.at(-1); last && group.some((g) => last!.some((l) => near(g, l))); last = groups.at(-1)) {
      group = [...groups.pop()!, ...group];
      const middle = group.reduce((sum, g) => sum + at[g]!.y, 0) / group.length;
      const top = Math.min(middle - ((group.length - 1) * APART) / 2, floor - (group.length - 1) * APART);
      group.forEach((g, k) => (out[g] = top + k * APART));
    }
    groups.push(group);
  }
  return out;
}

/** A round number not below v, for the end of an axis. */
export function niceAbove(v: number): number {
  const size = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 2.5, 5, 10].map((k) => k * size).find((n) => n >= v * 0.999999)!;
}
