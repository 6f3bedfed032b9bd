// Columns for a small directed graph: each node stands one column right of the
// last node it comes after. Enough for the steps of a night and for a lineage.

export interface GraphNode {
  id: string;
  /** Ids this node comes after; unknown ones are ignored. */
  after: string[];
}

export interface Placed {
  id: string;
  column: number;
  row: number;
}

/** Columns and rows of nodes, in the order given. A cycle ends in the column where it was met. */
export function place(nodes: GraphNode[]): { placed: Map<string, Placed>; columns: number; rows: number } {
  const byId = new Map(nodes.map((n) => [n.id, n]));
  const column = new Map<string, number>();
  const depth = (id: string, seen: Set<string>): number => {
    const known = column.get(id);
    if (known !== undefined) return known;
    if (seen.has(id)) return 0;
    seen.add(id);
    const parents = byId.get(id)!.after.filter((a) => byId.has(a));
    const at = parents.length === 0 ? 0 : 1 + Math.max(...parents.map((p) => depth(p, seen)));
    column.set(id, at);
    return at;
  };
  const used = new Map<number, number>();
  const placed = new Map<string, Placed>();
  for (const n of nodes) {
    const c = depth(n.id, new Set());
    const row = used.get(c) ?? 0;
    used.set(c, row + 1);
    placed.set(n.id, { id: n.id, column: c, row });
  }
  return { placed, columns: used.size === 0 ? 0 : Math.max(...used.keys()) + 1, rows: Math.max(0, ...used.values()) };
}
