import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Schemas } from "../api/client";
import { absolute, num } from "../lib/format";
import { useScheme } from "../ui/Provider";
import { useWidth } from "../ui/useWidth";
import css from "./parts.module.css";

const HEIGHT = 124;

/**
 * One signal over time: the mean as a line, min to max as a band, what the
 * device flagged as a tinted span with a mark at its top, and a threshold line
 * when there is one. Charts with the same sync key share their cursor.
 */
export function Chart({ series, from, to, threshold, sync }: { series: Schemas["Series"]; from: number; to: number; threshold?: number; sync: string }) {
  const [box, width] = useWidth<HTMLDivElement>();
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(null);
  const { scheme } = useScheme();
  // Hooks of uPlot outlive a render; they read what is current from here.
  const now = useRef({ series, threshold, from, to });

  useEffect(() => {
    if (!host.current || width === 0) return;
    const style = getComputedStyle(host.current);
    const of = (token: string) => style.getPropertyValue(`--${token}`).trim();
    const font = `11px ${style.fontFamily}`;
    const axis = { stroke: of("ink-3"), font, grid: { stroke: of("line-soft"), width: 1 }, ticks: { show: false } };
    const u = new uPlot(
      {
        width,
        height: HEIGHT,
        padding: [10, 24, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: sync }, drag: { x: false, y: false }, points: { size: 5 } },
        scales: {
          x: { time: true, range: () => [now.current.from / 1000, now.current.to / 1000] },
          y: {
            range: (_, lo, hi) => {
              const t = now.current.threshold;
              if (lo === null || hi === null) return [0, 1];
              const top = t === undefined ? hi : Math.max(hi, t);
              const bottom = t === undefined ? lo : Math.min(lo, t);
              const room = (top - bottom || Math.abs(top) || 1) * 0.08;
              return [bottom - room, top + room];
            },
          },
        },
        series: [
          {},
          { stroke: of("trace"), width: 1.4, points: { show: false } },
          { stroke: "transparent", points: { show: false } },
          { stroke: "transparent", points: { show: false } },
        ],
        bands: [{ series: [3, 2], fill: of("band") }],
        axes: [
          { ...axis, size: 26, values: (_, ticks) => clock(ticks, now.current.to - now.current.from) },
          { ...axis, size: 56, space: 24, values: (_, v) => v.map((x) => num(x)) },
        ],
        hooks: {
          drawClear: [
            (u) => {
              const { ctx, bbox } = u;
              for (const a of now.current.series.anomalies) {
                const left = Math.max(bbox.left, u.valToPos(a.from / 1000, "x", true));
                const right = Math.min(bbox.left + bbox.width, Math.max(u.valToPos(a.to / 1000, "x", true), left + 2));
                if (right <= bbox.left || left >= bbox.left + bbox.width) continue;
                ctx.fillStyle = of("anomaly");
                ctx.fillRect(left, bbox.top, right - left, bbox.height);
                // A triangle on the span's upper edge, so that colour is not the only sign.
                const mid = (left + right) / 2;
                const s = 5 * devicePixelRatio;
                ctx.fillStyle = of("red-fill");
                ctx.beginPath();
                ctx.moveTo(mid - s, bbox.top - s);
                ctx.lineTo(mid + s, bbox.top - s);
                ctx.lineTo(mid, bbox.top + s * 0.8);
                ctx.fill();
              }
              const t = now.current.threshold;
              if (t !== undefined) {
                const y = u.valToPos(t, "y", true);
                ctx.strokeStyle = of("ink-3");
                ctx.lineWidth = devicePixelRatio;
                ctx.setLineDash([6, 4]);
                ctx.beginPath();
                ctx.moveTo(bbox.left, y);
                ctx.lineTo(bbox.left + bbox.width, y);
                ctx.stroke();
                ctx.setLineDash([]);
              }
            },
          ],
        },
      },
      data(now.current.series),
      host.current,
    );
    plot.current = u;
    return () => {
      u.destroy();
      plot.current = null;
    };
  }, [width, scheme, sync]);

  useEffect(() => {
    now.current = { series, threshold, from, to };
    plot.current?.setData(data(series));
  }, [series, threshold, from, to]);

  const n = series.times.length;
  const last = series.mean[n - 1];
  const label = `${series.signal}: ${n} points, last ${num(last)} ${series.unit ?? ""}, ${series.anomalies.length} flagged spans`;
  return (
    <div ref={box} className={css.chart}>
      <div ref={host} role="img" aria-label={label} />
    </div>
  );
}

/** Labels of the time axis, as fine as the span asks for. */
export function clock(ticks: number[], spanMs: number): string[] {
  return ticks.map((t) => {
    const at = absolute(t * 1000);
    return spanMs > 36 * 3_600_000 ? at.slice(5, 10) + (spanMs < 5 * 86_400_000 ? ` ${at.slice(11, 16)}` : "") : spanMs > 600_000 ? at.slice(11, 16) : at.slice(11);
  });
}

/** Columns as uPlot wants them; where there is a hole in time, the line is broken. */
export function data(s: Schemas["Series"]): uPlot.AlignedData {
  const lo = s.min ?? s.mean;
  const hi = s.max ?? s.mean;
  const step = s.resolutionMs > 0 ? s.resolutionMs : usualStep(s.times);
  const out: [number[], (number | null)[], (number | null)[], (number | null)[]] = [[], [], [], []];
  s.times.forEach((t, i) => {
    const before = s.times[i - 1];
    if (before !== undefined && step > 0 && t - before > step * 3) {
      out[0].push((before + step) / 1000);
      out[1].push(null);
      out[2].push(null);
      out[3].push(null);
    }
    out[0].push(t / 1000);
    out[1].push(s.mean[i] ?? null);
    out[2].push(lo[i] ?? null);
    out[3].push(hi[i] ?? null);
  });
  return out;
}

function usualStep(times: number[]): number {
  const steps = times.slice(1).map((t, i) => t - times[i]!).sort((a, b) => a - b);
  return steps[Math.floor(steps.length / 2)] ?? 0;
}
