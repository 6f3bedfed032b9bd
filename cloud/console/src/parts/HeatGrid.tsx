import { useEffect, useMemo, useRef, useState } from "react";
import { count } from "../lib/format";
import { useScheme } from "../ui/Provider";
import { useWidth } from "../ui/useWidth";
import { hit, layout, type Cell, type HeatItem } from "./heat";
import { strange, type Mark } from "./marks";
import css from "./parts.module.css";
import { Shape } from "./StateMark";

const GUTTER = 108;

/**
 * Devices as one cell each, by group, drawn on a canvas. Everything it shows is
 * in the table of the same page too; the canvas is one picture to a screen reader.
 */
export function HeatGrid({ items, marks, onOpen }: { items: HeatItem[]; marks: Record<string, Mark>; onOpen: (id: string) => void }) {
  const [box, width] = useWidth<HTMLDivElement>();
  const canvas = useRef<HTMLCanvasElement>(null);
  const { scheme } = useScheme();
  const [over, setOver] = useState<Cell>();
  const l = useMemo(() => layout(items, width, GUTTER), [items, width]);
  const counts = useMemo(() => {
    const c = new Map<string, number>();
    for (const i of items) c.set(i.state, (c.get(i.state) ?? 0) + 1);
    return c;
  }, [items]);
  const shown = useMemo(() => [...Object.keys(marks), ...[...counts.keys()].filter((s) => !(s in marks))].filter((s) => counts.has(s)), [counts, marks]);
  const summary = shown.map((s) => `${counts.get(s)} ${(marks[s] ?? strange(s)).label}`).join(", ");

  useEffect(() => {
    const el = canvas.current;
    const ctx = el?.getContext("2d");
    if (!el || !ctx || width === 0) return;
    const ratio = window.devicePixelRatio || 1;
    el.width = Math.round(width * ratio);
    el.height = Math.round(Math.max(1, l.height) * ratio);
    ctx.scale(ratio, ratio);
    ctx.clearRect(0, 0, width, l.height);
    const style = getComputedStyle(el);
    const colour = new Map<string, string>();
    const of = (token: string) => {
      let c = colour.get(token);
      if (c === undefined) colour.set(token, (c = style.getPropertyValue(`--${token}`).trim()));
      return c;
    };
    ctx.font = `500 12px ${style.fontFamily}`;
    ctx.textBaseline = "middle";
    const half = Math.max(l.pitch, 15) / 2;
    for (const g of l.labels) {
      ctx.fillStyle = of("ink-2");
      ctx.fillText(g.text, 0, g.y + half - 1, GUTTER - 44);
      ctx.fillStyle = of("ink-3");
      ctx.textAlign = "right";
      ctx.fillText(count(g.count), GUTTER - 14, g.y + half - 1);
      ctx.textAlign = "left";
    }
    const inner = l.pitch - (l.pitch > 24 ? 8 : l.pitch > 12 ? 5 : 2);
    const paths = new Map<string, Path2D>();
    for (const cell of l.cells) {
      const m = marks[cell.item.state] ?? strange(cell.item.state);
      ctx.save();
      ctx.translate(cell.x, cell.y);
      ctx.scale(inner / 12, inner / 12);
      for (const s of m.strokes) {
        let p = paths.get(s.d);
        if (!p) paths.set(s.d, (p = new Path2D(s.d)));
        if (s.fill) {
          ctx.fillStyle = of(s.fill);
          ctx.fill(p);
        }
        if (s.stroke) {
          ctx.strokeStyle = of(s.stroke);
          ctx.lineWidth = 1.4;
          ctx.setLineDash(s.dash ? [2, 1.6] : []);
          ctx.stroke(p);
        }
      }
      ctx.restore();
    }
  }, [l, marks, width, scheme]);

  const find = (e: React.MouseEvent) => {
    const r = e.currentTarget.getBoundingClientRect();
    return hit(l, e.clientX - r.left, e.clientY - r.top);
  };
  return (
    <div className={css.heat}>
      <ul className={css.legend} aria-label="Legend">
        {shown.map((s) => {
          const m = marks[s] ?? strange(s);
          return (
            <li key={s} title={m.meaning} data-alarm={m.alarm}>
              <Shape mark={m} /> {m.label} <b>{count(counts.get(s))}</b>
            </li>
          );
        })}
      </ul>
      <div ref={box} className={css.heatBox}>
        <canvas
          ref={canvas}
          role="img"
          aria-label={`${count(items.length)} devices: ${summary}`}
          className={css.heatCanvas}
          style={{ height: l.height, cursor: over ? "pointer" : "default" }}
          onMouseMove={(e) => setOver(find(e))}
          onMouseLeave={() => setOver(undefined)}
          onClick={(e) => {
            const c = find(e);
            if (c) onOpen(c.item.id);
          }}
        />
        {over && (
          <div className={css.heatTip} style={{ left: Math.min(over.x + l.pitch, Math.max(0, width - 240)), top: over.y + l.pitch + 2 }}>
            <b>{over.item.id}</b>
            <span>{over.item.title}</span>
          </div>
        )}
      </div>
    </div>
  );
}
