import type { ReactNode } from "react";
import { place, type GraphNode } from "../lib/layers";
import { useWidth } from "../ui/useWidth";
import type { Mark } from "./marks";
import css from "./parts.module.css";
import { Shape } from "./StateMark";

export interface Box extends GraphNode {
  title: string;
  mark?: Mark;
  line?: ReactNode;
  onClick?: () => void;
  selected?: boolean;
}

const H = 46;
const GAP_X = 20;
const GAP_Y = 10;

/**
 * A small directed graph from left to right: the steps of a night, or a lineage.
 * It takes the width there is and scrolls only when its boxes would be too narrow to read.
 */
export function Graph({ boxes, label }: { boxes: Box[]; label: string }) {
  const { placed, columns, rows } = place(boxes);
  const [ref, width] = useWidth<HTMLDivElement>();
  const W = Math.max(92, Math.min(176, Math.floor((width - 4 + GAP_X) / Math.max(1, columns)) - GAP_X));
  const height = rows * (H + GAP_Y) - GAP_Y;
  const perColumn = new Map<number, number>();
  for (const p of placed.values()) perColumn.set(p.column, (perColumn.get(p.column) ?? 0) + 1);
  const at = (id: string) => {
    const p = placed.get(id)!;
    const own = perColumn.get(p.column)! * (H + GAP_Y) - GAP_Y;
    return { x: p.column * (W + GAP_X), y: (height - own) / 2 + p.row * (H + GAP_Y) };
  };
  return (
    <div ref={ref} className={css.graphScroll} tabIndex={0} role="region" aria-label={label}>
      <div className={css.graph} style={{ width: columns * (W + GAP_X) - GAP_X, height }}>
        <svg width="100%" height="100%" aria-hidden="true">
          {boxes.flatMap((b) =>
            b.after
              .filter((a) => placed.has(a))
              .map((a) => {
                const from = at(a);
                const to = at(b.id);
                const x1 = from.x + W;
                const y1 = from.y + H / 2;
                const x2 = to.x;
                const y2 = to.y + H / 2;
                return <path key={`${a} ${b.id}`} d={`M${x1} ${y1}C${x1 + 14} ${y1} ${x2 - 14} ${y2} ${x2} ${y2}`} />;
              }),
          )}
        </svg>
        <ol>
          {boxes.map((b) => {
            const { x, y } = at(b.id);
            const inside = (
              <>
                <span className={css.boxTitle}>
                  {b.mark && <Shape mark={b.mark} />}
                  <span title={b.title}>{b.title}</span>
                </span>
                <span className={css.boxLine}>{b.line}</span>
              </>
            );
            return (
              <li key={b.id} style={{ left: x, top: y, width: W, height: H }}>
                {b.onClick ? (
                  <button type="button" className={css.box} aria-pressed={b.selected ?? false} onClick={b.onClick}>
                    {inside}
                  </button>
                ) : (
                  <div className={css.box}>{inside}</div>
                )}
              </li>
            );
          })}
        </ol>
      </div>
    </div>
  );
}
