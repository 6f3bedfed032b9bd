import { expect, it } from "vitest";
import { place } from "./layers";

it("puts competing steps into one column and what follows right of both", () => {
  const { placed, columns, rows } = place([
    { id: "extract", after: [] },
    { id: "train/pca", after: ["extract"] },
    { id: "train/ae", after: ["extract"] },
    { id: "evaluate", after: ["train/pca", "train/ae"] },
  ]);
  expect([columns, rows]).toEqual([3, 2]);
  expect([...placed.values()].map((p) => [p.column, p.row])).toEqual([[0, 0], [1, 0], [1, 1], [2, 0]]);
});

it("lives through a cycle and through a missing parent", () => {
  const { placed } = place([
    { id: "a", after: ["b"] },
    { id: "b", after: ["a", "gone"] },
  ]);
  expect(placed.size).toBe(2);
});

it("has nothing to place for nothing", () => expect(place([])).toMatchObject({ columns: 0, rows: 0 }));
