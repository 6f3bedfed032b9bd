import { expect, it } from "vitest";
import { hit, layout, type HeatItem } from "./heat";

const item = (id: string, group: string): HeatItem => ({ id, group, state: "ok", title: id });

it("orders groups as people count and keeps each in its own rows", () => {
  const l = layout([item("b", "line 10"), item("a", "line 2"), item("c", "line 2")], 400, 80);
  expect(l.labels.map((g) => [g.text, g.count])).toEqual([["line 2", 2], ["line 10", 1]]);
  expect(l.cells.map((c) => c.item.id)).toEqual(["a", "c", "b"]);
  expect(l.cells[2]!.y).toBeGreaterThan(l.cells[0]!.y);
});

it("wraps rows and never lets two cells overlap, for ten thousand devices", () => {
  const items = Array.from({ length: 10_000 }, (_, i) => item(`d${i}`, `line ${i % 7}`));
  const l = layout(items, 900, 80);
  expect(l.cells).toHaveLength(10_000);
  const seen = new Set(l.cells.map((c) => `${c.x} ${c.y}`));
  expect(seen.size).toBe(10_000);
  expect(Math.max(...l.cells.map((c) => c.x + l.pitch))).toBeLessThanOrEqual(900);
});

it("finds the cell under the pointer and nothing beside it", () => {
  const l = layout([item("a", "l1"), item("b", "l1")], 400, 80);
  expect(hit(l, 80 + l.pitch + 1, 1)?.item.id).toBe("b");
  expect(hit(l, 10, 1)).toBeUndefined();
});

it("lives in no width at all", () => expect(layout([item("a", "l1")], 0, 80).cells).toHaveLength(1));
