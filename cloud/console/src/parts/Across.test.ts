import { expect, test } from "vitest";
import type { Schemas } from "../api/client";
import { shared, track } from "./Across";

const version = (counter: number, metrics: [string, number, string?][]) =>
  ({
    metadata: { name: `pump-${counter}` },
    spec: { release: { counter, id: `pump-${counter}` } },
    status: { state: "promoted", metrics: metrics.map(([name, value, slice]) => ({ name, value, slice })) },
  }) as unknown as Schemas["ModelVersion"];

const found = "faults_found\nclass=pump";

test("metrics that two versions have are offered, those of a whole class first", () => {
  const list = [
    version(3, [["faults_found", 0.1, "class=pump,fault=drift"], ["faults_found", 0.7, "class=pump"], ["accuracy", 0.9]]),
    version(2, [["faults_found", 0.2, "class=pump,fault=drift"], ["faults_found", 0.6, "class=pump"]]),
  ];
  expect(shared(list)).toEqual([found, "faults_found\nclass=pump,fault=drift"]);
});

test("a metric goes from the oldest to the newest, and its line is broken where a version lacks it", () => {
  const list = [version(4, [["faults_found", 0.8, "class=pump"]]), version(3, []), version(2, [["faults_found", 0.6, "class=pump"]]), version(1, [["faults_found", 0.5, "class=pump"]])];
  expect(track(list, found).map((d) => [d.version.spec.release.counter, d.value, d.joined])).toEqual([
    [1, 0.5, false],
    [2, 0.6, true],
    [4, 0.8, false],
  ]);
});
