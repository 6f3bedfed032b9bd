// Where the cells of a heat grid stand. Pure, so that ten thousand devices can
// be laid out in a test.

export interface HeatItem {
  id: string;
  group: string;
  state: string;
  /** Said when the cell is pointed at. */
  title: string;
}

export interface Cell {
  item: HeatItem;
  x: number;
  y: number;
}

export interface Layout {
  cells: Cell[];
  labels: { text: string; count: number; y: number }[];
  /** Side of a cell with its gap, in CSS pixels. */
  pitch: number;
  height: number;
  gutter: number;
}

/** Cells shrink as the fleet grows, from 30 to 8 pixels. */
function pitchFor(n: number): number {
  if (n <= 60) return 30;
  if (n <= 200) return 22;
  if (n <= 1000) return 16;
  if (n <= 4000) return 11;
  return 8;
}

/** Lays items out in rows by group, within width pixels; groups and items keep a stable order. */
export function layout(items: HeatItem[], width: number, gutter: number): Layout {
  const pitch = pitchFor(items.length);
  const groups = new Map<string, HeatItem[]>();
  for (const item of items) {
    const g = groups.get(item.group);
    if (g) g.push(item);
    else groups.set(item.group, [item]);
  }
  const columns = Math.max(1, Math.floor((width - gutter) / pitch));
  const cells: Cell[] = [];
  const labels: Layout["labels"] = [];
  let y = 0;
  const names = [...groups.keys()].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  for (const name of names) {
    const members = groups.get(name)!.sort((a, b) => (a.id < b.id ? -1 : 1));
    labels.push({ text: name, count: members.length, y });
    members.forEach((item, i) => cells.push({ item, x: gutter + (i % columns) * pitch, y: y + Math.floor(i / columns) * pitch }));
    y += Math.max(Math.ceil(members.length / columns) * pitch, 16) + 6;
  }
  return { cells, labels, pitch, height: Math.max(0, y - 6), gutter };
}

/** The cell at a point, or undefined. */
export function hit(l: Layout, x: number, y: number): Cell | undefined {
  return l.cells.find((c) => x >= c.x && x < c.x + l.pitch && y >= c.y && y < c.y + l.pitch);
}
