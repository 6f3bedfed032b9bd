import { expect, test } from "vitest";
import { besides, niceAbove, points } from "./Scatter";

const candidate = (detector: string, found: number, alarms: number, more: object = {}) => ({
  detector,
  class: "pump",
  metrics: [
    { name: "faults_found", value: found, champion: 0.7, slice: "class=pump" },
    { name: "flag_share", value: alarms, champion: 0.02, slice: "class=pump" },
    { name: "faults_found", value: 0, slice: "class=pump,fault=drift" },
  ],
  ...more,
});

test("the champion is drawn once, the winner is told apart, and single faults are left out", () => {
  expect(points([candidate("pca", 0.6, 0.01), candidate("dense-ae", 0.8, 0.015, { chosen: true })])).toEqual([
    { name: "pca", found: 0.6, alarms: 0.01, kind: "other" },
    { name: "champion", found: 0.7, alarms: 0.02, kind: "champion" },
    { name: "dense-ae", found: 0.8, alarms: 0.015, kind: "winner" },
  ]);
});

test("a candidate that could not be judged has no point", () => {
  expect(points([{ detector: "pca", metrics: [] }])).toEqual([]);
});

test.each([
  [0.013, 0.02],
  [0.02, 0.02],
  [0.3, 0.5],
  [0.023, 0.025],
  [7, 10],
])("an axis up to %s ends at %s", (v, end) => expect(niceAbove(v)).toBeCloseTo(end));

test("names of points that lie close are set apart, in the order of their points", () => {
  const four = [
    { x: 58, y: 96 },
    { x: 58, y: 90 },
    { x: 58, y: 98 },
    { x: 58, y: 110 },
  ];
  const got = besides(four, 160);
  expect(got).toEqual([92, 79, 105, 118]);
  expect(besides([{ x: 58, y: 90 }, { x: 300, y: 91 }], 160), "far apart to the side").toEqual([90, 91]);
  expect(besides([{ x: 58, y: 158 }, { x: 58, y: 159 }], 160), "at the axis").toEqual([147, 160]);
});
