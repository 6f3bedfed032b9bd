import { expect, it, vi } from "vitest";

vi.mock("uplot", () => ({ default: class {} }));
const { clock, data } = await import("./Chart");

const series = (times: number[], resolutionMs: number) => ({ node: "s/n", signal: "x", resolutionMs, times, mean: times.map((t) => t), anomalies: [] });

it("breaks the line where buckets are missing", () => {
  const d = data({ ...series([0, 1000, 2000, 9000, 10_000], 1000), min: [0, 0, 0, 0, 0], max: [1, 1, 1, 1, 1] });
  expect(d[0]).toEqual([0, 1, 2, 3, 9, 10]);
  expect(d[1]![3]).toBeNull();
});
it("takes the usual distance of raw points for their step", () => expect([...data(series([0, 10, 20, 30, 500, 510], 0))[1]!].filter((v) => v === null)).toHaveLength(1));
it("does not break a regular line", () => expect(data(series([0, 10, 20, 31, 39], 0))[1]).not.toContain(null));
it("draws nothing for nothing", () => expect(data(series([], 1000))[0]).toEqual([]));
it("labels the time as finely as the span asks for", () => {
  const t = new Date(2026, 10, 22, 9, 5, 7).getTime() / 1000;
  expect([clock([t], 300_000), clock([t], 3_600_000), clock([t], 172_800_000), clock([t], 604_800_000)].flat()).toEqual(["09:05:07", "09:05", "11-22 09:05", "11-22"]);
});
