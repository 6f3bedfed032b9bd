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
  // Names of points that lie close are set one below the other.
  const placed: { x: number; y: number }[] = [];
  const labelled = [...all]
    .sort((a, b) => Number(b.kind === "winner") - Number(a.kind === "winner"))
    .map((p) => {
      const own = y(p.found) + 4;
      const free = (v: number) => !placed.some((q) => Math.abs(q.y - v) < 12 && Math.abs(q.x - x(p.alarms)) < 78);
      const ly = [0, 12, -12, 24, -24, 36].map((d) => own + d).find(free) ?? own;
      placed.push({ x: x(p.alarms), y: ly });
      return { ...p, ly };
    });
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
              <text x={x(p.alarms) + 10} y={p.ly} fontWeight={p.kind === "winner" ? 600 : 400} data-name>
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

/** A round number not below v, for the end of an axis. */
export function niceAbove(v: number): number {
  const size = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 2.5, 5, 10].map((k) => k * size).find((n) => n >= v * 0.999999)!;
}
