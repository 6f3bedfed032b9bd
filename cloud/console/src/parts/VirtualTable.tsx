import { useVirtualizer } from "@tanstack/react-virtual";
import { useRef, type ReactNode } from "react";
import css from "./parts.module.css";

export interface Column<T> {
  title: string;
  /** CSS grid track, e.g. "2fr" or "90px". */
  width: string;
  number?: boolean;
  cell: (row: T) => ReactNode;
}

const ROW = 30;

/** A table of any length: only the rows in view exist. */
export function VirtualTable<T>({ label, rows, columns, rowKey }: { label: string; rows: T[]; columns: Column<T>[]; rowKey: (row: T) => string }) {
  const box = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => box.current, estimateSize: () => ROW, overscan: 12 });
  const tracks = columns.map((c) => c.width).join(" ");
  return (
    <div ref={box} className={css.vbox} tabIndex={0} role="table" aria-label={label} aria-rowcount={rows.length + 1}>
      <div role="rowgroup" className={css.vhead}>
        <div role="row" aria-rowindex={1} className={css.vrow} style={{ gridTemplateColumns: tracks }}>
          {columns.map((c) => (
            <div key={c.title} role="columnheader" data-num={c.number || undefined}>
              {c.title}
            </div>
          ))}
        </div>
      </div>
      <div role="rowgroup" style={{ height: virtual.getTotalSize(), position: "relative" }}>
        {virtual.getVirtualItems().map((v) => {
          const row = rows[v.index]!;
          return (
            <div key={rowKey(row)} role="row" aria-rowindex={v.index + 2} className={css.vrow} style={{ gridTemplateColumns: tracks, position: "absolute", insetInline: 0, top: 0, height: ROW, transform: `translateY(${v.start}px)` }}>
              {columns.map((c) => (
                <div key={c.title} role="cell" data-num={c.number || undefined}>
                  {c.cell(row)}
                </div>
              ))}
            </div>
          );
        })}
      </div>
    </div>
  );
}
