import { axis, path, type Line } from "../lib/history";
import { absolute, num } from "../lib/format";
import { verdictMarks } from "./marks";
import { Nothing } from "./page";
import css from "./parts.module.css";
import { Shape, StateMark } from "./StateMark";

const W = 240;
const H = 64;
const EDGE = 6;

/** How each gate moved towards its verdict: value against threshold, and for the shadow gate its evidence against what it has to reach. */
export function GatePlots({ lines }: { lines: Line[] }) {
  const all = lines.flatMap((l) => l.points);
  if (all.length === 0) return <Nothing>No gate has been evaluated yet.</Nothing>;
  const from = Math.min(...all.map((p) => p.at));
  const to = Math.max(...all.map((p) => p.at));
  const x = (at: number) => EDGE + ((at - from) / (to - from || 1)) * (W - 2 * EDGE);
  return (
    <>
      <div className={css.plots}>
        {lines.map((l) => (
          <Plot key={l.name} line={l} x={x} />
        ))}
      </div>
      <p className={css.plotFoot}>
        <small>{absolute(from)}</small>
        <small>{to > from ? absolute(to) : ""}</small>
      </p>
    </>
  );
}

function Plot({ line, x }: { line: Line; x: (at: number) => number }) {
  const last = line.points.at(-1)!.gate;
  const evidence = last.eLimit !== undefined && line.points.some((p) => p.gate.eHarm !== undefined);
  // A value in another unit than the newest cannot share its axis.
  const value = (g: typeof last) => (g.unit === last.unit && g.comparison === last.comparison ? g.value : undefined);
  const limit = evidence ? last.eLimit : last.threshold;
  const numbers = line.points.flatMap((p) => (evidence ? [p.gate.eHarm, p.gate.eSafe] : [value(p.gate)])).filter((v) => v !== undefined);
  // Evidence grows without end: what lies far beyond its limit would squash all that matters below it.
  const most = evidence && limit !== undefined ? 100 * limit : Infinity;
  const { to } = axis([...numbers, ...(limit === undefined ? [] : [limit])].map((v) => Math.min(v, most)), evidence);
  const y = (v: number) => H - EDGE - to(v) * (H - 2 * EDGE);
  const says = evidence ? `evidence for harm ${num(last.eHarm)}, for safety ${num(last.eSafe)}, needed ${num(last.eLimit)}` : last.value === undefined ? "nothing measured yet" : `${num(last.value)}${last.unit ? ` ${last.unit}` : ""}, must be ${words[last.comparison ?? ""] ?? ""} ${num(last.threshold)}`;
  const end = line.points.at(-1)!;
  // A stroke of no length stays round when the plot is stretched.
  const dot = (v: number | undefined, fill: string) => v !== undefined && Number.isFinite(v) && <path d={`M${x(end.at).toFixed(1)} ${y(v).toFixed(1)}h0`} stroke={fill} strokeWidth="6" strokeLinecap="round" />;
  return (
    <figure className={css.plot}>
      <figcaption>
        <b>{line.name}</b>
        <StateMark state={last.verdict} marks={verdictMarks} />
      </figcaption>
      <svg viewBox={`0 0 ${W} ${H}`} preserveAspectRatio="none" role="img" aria-label={`${line.name} over ${line.points.length} decisions: ${says}`}>
        {limit !== undefined && <path d={`M0 ${y(limit).toFixed(1)}H${W}`} stroke="var(--ink-3)" strokeWidth="1" strokeDasharray="5 4" />}
        {evidence ? (
          <>
            <path d={path(line.points, (g) => g.eSafe, x, y)} stroke="var(--n3)" strokeWidth="1.5" strokeDasharray="2 2" />
            <path d={path(line.points, (g) => g.eHarm, x, y)} stroke={last.verdict === "FAIL" ? "var(--red-fill)" : "var(--trace)"} strokeWidth="1.6" />
            {dot(last.eSafe, "var(--n3)")}
            {dot(last.eHarm, last.verdict === "FAIL" ? "var(--red-fill)" : "var(--trace)")}
          </>
        ) : (
          <>
            <path d={path(line.points, value, x, y)} stroke={last.verdict === "FAIL" ? "var(--red-fill)" : "var(--trace)"} strokeWidth="1.6" />
            {dot(last.value, last.verdict === "FAIL" ? "var(--red-fill)" : "var(--trace)")}
          </>
        )}
      </svg>
      {evidence ? (
        <small className={css.plotFoot}>
          <span className={css.key}>
            <Key /> harm {num(last.eHarm)}
          </span>
          <span className={css.key}>
            <Key dash /> safety {num(last.eSafe)}
          </span>
          <span>needs {num(last.eLimit)}</span>
        </small>
      ) : (
        <small className={css.plotFoot}>
          <span>{last.value === undefined ? <Shape mark={verdictMarks.INCONCLUSIVE} size={10} /> : null} {says}</span>
        </small>
      )}
    </figure>
  );
}

const words: Record<string, string> = { "<=": "≤", "<": "<", ">=": "≥", ">": ">" };

function Key({ dash }: { dash?: boolean }) {
  return (
    <svg width="14" height="6" aria-hidden="true">
      <path d="M0 3h14" stroke={dash ? "var(--n3)" : "var(--trace)"} strokeWidth="1.8" strokeDasharray={dash ? "2 2" : undefined} />
    </svg>
  );
}
