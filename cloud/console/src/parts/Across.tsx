import { useState } from "react";
import type { Schemas } from "../api/client";
import { num } from "../lib/format";
import { SelectField } from "../ui/controls";
import { useWidth } from "../ui/useWidth";
import { versionMarks } from "./marks";
import css from "./parts.module.css";

type Version = Schemas["ModelVersion"];

const H = 130;
const EDGE = { left: 52, right: 16, top: 12, bottom: 24 };

const keyOf = (m: Schemas["Metric"]) => [m.name, m.slice ?? ""].join("\n");
const nameOf = (key: string) => {
  const [name = "", slice = ""] = key.split("\n");
  return name.replaceAll("_", " ") + (slice ? ` (${slice.replaceAll("=", " ")})` : "");
};

/** The metrics that at least two versions have, those of a whole class first. */
export function shared(versions: Version[]): string[] {
  const seen = new Map<string, number>();
  for (const v of versions) for (const m of v.status.metrics) seen.set(keyOf(m), (seen.get(keyOf(m)) ?? 0) + 1);
  return [...seen].filter(([, n]) => n > 1).map(([k]) => k).sort((a, b) => Number(a.includes(",")) - Number(b.includes(",")));
}

interface Dot {
  version: Version;
  value: number;
  /** The version before was measured too: a line leads here from it. */
  joined: boolean;
}

/** A metric from the oldest version to the newest, without those that lack it. */
export function track(versions: Version[], key: string): Dot[] {
  let before = false;
  return [...versions]
    .sort((a, b) => a.spec.release.counter - b.spec.release.counter)
    .flatMap((version) => {
      const m = version.status.metrics.find((x) => keyOf(x) === key);
      const joined = before;
      before = m !== undefined;
      return m ? [{ version, value: m.value, joined }] : [];
    });
}

/** One metric over the versions of a family, each as its own night measured it. */
export function Across({ versions }: { versions: Version[] }) {
  const keys = shared(versions);
  const [picked, setPicked] = useState<string>();
  const [box, width] = useWidth<HTMLElement>();
  const W = Math.max(width - 24, 240);
  const key = picked && keys.includes(picked) ? picked : keys[0];
  if (!key) return null;
  const dots = track(versions, key);
  const values = dots.map((d) => d.value);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * 0.15;
  const x = (i: number) => EDGE.left + (dots.length === 1 ? 0.5 : i / (dots.length - 1)) * (W - EDGE.left - EDGE.right);
  const y = (v: number) => EDGE.top + ((high + room - v) / (high - low + 2 * room)) * (H - EDGE.top - EDGE.bottom);
  const every = Math.ceil(dots.length / 12);
  return (
    <figure ref={box} className={css.across}>
      <figcaption>
        <SelectField label="Metric over the versions" hideLabel value={key} onChange={setPicked} options={keys.map((k) => ({ value: k, label: nameOf(k) }))} width={280} />
        <small>each version on the data of its own night; filled: promoted, triangle: rejected or revoked</small>
      </figcaption>
      <svg viewBox={`0 0 ${W} ${H}`} width={W} height={H} role="img" aria-label={`${nameOf(key)}: ${dots.map((d) => `${d.version.spec.release.id} ${num(d.value)}, ${versionMarks[d.version.status.state]?.label ?? d.version.status.state}`).join("; ")}`}>
        {[low, high].map((v, i) => (
          <g key={i}>
            <path d={`M${EDGE.left} ${y(v)}H${W - EDGE.right}`} stroke="var(--line-soft)" />
            {(i === 0 || high > low) && (
              <text x={EDGE.left - 8} y={y(v) + 4} textAnchor="end">
                {num(v)}
              </text>
            )}
          </g>
        ))}
        <path d={dots.map((d, i) => `${d.joined ? "L" : "M"}${x(i).toFixed(1)} ${y(d.value).toFixed(1)}`).join("")} stroke="var(--trace)" strokeWidth="1.5" fill="none" />
        {dots.map((d, i) => {
          const { state } = d.version.status;
          const bad = versionMarks[state]?.alarm ?? 0;
          return (
            <g key={d.version.metadata.name}>
              <title>{`${d.version.spec.release.id}: ${num(d.value)}, ${versionMarks[state]?.label ?? state}`}</title>
              {bad > 0 ? <path d={`M${x(i)} ${y(d.value) - 6}l6 10.5h-12z`} fill="var(--amber-fill)" /> : <circle cx={x(i)} cy={y(d.value)} r="4" fill={state === "promoted" ? "var(--n4)" : "var(--panel)"} stroke="var(--n4)" strokeWidth="1.5" />}
              {(i === dots.length - 1 || (i % every === 0 && dots.length - 1 - i >= every / 2)) && (
                <text x={x(i)} y={H - 6} textAnchor="middle">
                  {d.version.spec.release.counter}
                </text>
              )}
            </g>
          );
        })}
      </svg>
    </figure>
  );
}
