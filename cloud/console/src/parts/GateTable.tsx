import { useState } from "react";
import type { Schemas } from "../api/client";
import { count, num } from "../lib/format";
import { verdictMarks } from "./marks";
import { Nothing, Scroll } from "./page";
import css from "./parts.module.css";
import { StateMark } from "./StateMark";

type Gate = Schemas["Gate"];

/** More gates than this are shown on demand: a night judges every slice. */
const MOST = 14;

/** Gates with value, threshold, n and verdict: the numbers a verdict stands on are always shown. */
export function GateTable({ gates, caption }: { gates: Gate[]; caption: string }) {
  const [all, setAll] = useState(false);
  if (gates.length === 0) return <Nothing>No gate has been evaluated yet.</Nothing>;
  const shown = all ? gates : gates.slice(0, MOST);
  return (
    <>
      <Scroll label={caption}>
      <table className={css.table}>
        <caption className={css.hidden}>{caption}</caption>
        <thead>
          <tr>
            <th scope="col">Gate</th>
            <th scope="col">Verdict</th>
            <th scope="col" data-num>
              Value
            </th>
            <th scope="col" data-num>
              Must be
            </th>
            <th scope="col">Room</th>
            <th scope="col" data-num>
              n
            </th>
            <th scope="col">Why</th>
          </tr>
        </thead>
        <tbody>
          {shown.map((g, i) => (
            // Competing candidates are judged by the same gates.
            <tr key={`${g.name} ${i}`}>
              <th scope="row" className={css.gate}>
                {g.name}
                {g.candidate && <small> {g.candidate}</small>}
                {g.advisory && <small> advice only</small>}
              </th>
              <td>
                <StateMark state={g.verdict} marks={verdictMarks} />
              </td>
              <td data-num>
                {num(g.value)}
                {g.value !== undefined && g.unit ? ` ${g.unit}` : ""}
                {g.low !== undefined && g.high !== undefined && (
                  <small>
                    {" "}
                    [{num(g.low)}, {num(g.high)}]
                  </small>
                )}
              </td>
              <td data-num>
                {g.threshold === undefined ? "–" : `${sign(g.comparison)} ${num(g.threshold)}${g.unit ? ` ${g.unit}` : ""}`}
              </td>
              <td>
                <Room gate={g} />
              </td>
              <td data-num>
                {count(g.n)} {g.n !== undefined && <small>{g.nUnit ?? ""}</small>}
              </td>
              <td className={css.prose}>{g.message}</td>
            </tr>
          ))}
        </tbody>
      </table>
      </Scroll>
      {gates.length > shown.length && (
        <p className={css.more}>
          <button type="button" className={css.linkButton} onClick={() => setAll(true)}>
            Show {gates.length - shown.length} more
          </button>
        </p>
      )}
    </>
  );
}

const signs = { "<=": "≤", "<": "<", ">=": "≥", ">": ">" };
const sign = (c: Gate["comparison"]) => (c ? signs[c] : "");

/** How far the value stands from its threshold: the tick in the middle is the threshold, right of it fails. */
function Room({ gate: g }: { gate: Gate }) {
  const at = position(g);
  if (at === undefined) return <>–</>;
  return (
    <svg className={css.room} viewBox="0 0 80 12" width="80" height="12" aria-hidden="true">
      <path d="M0 6h80" stroke="var(--line)" strokeWidth="2" />
      <path d="M40 1v10" stroke="var(--ink-3)" strokeWidth="1.5" />
      <circle cx={4 + at * 72} cy="6" r="3.5" fill={g.verdict === "FAIL" ? "var(--red-fill)" : "var(--n4)"} />
    </svg>
  );
}

/** Where the value stands on a scale on which ½ is the threshold and more is worse; undefined without numbers. */
export function position(g: Pick<Gate, "value" | "threshold" | "comparison">): number | undefined {
  if (g.value === undefined || g.threshold === undefined || !g.comparison) return undefined;
  const scale = Math.max(Math.abs(g.threshold), Math.abs(g.value), 1e-12);
  const over = ((g.value - g.threshold) / scale) * (g.comparison.startsWith("<") ? 1 : -1);
  return Math.min(1, Math.max(0, 0.5 + over / 2));
}
