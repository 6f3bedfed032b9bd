import { describe, expect, it } from "vitest";
import { stale } from "./queries";

describe("a change makes stale", () => {
  it.each([
    ["the object itself", ["Device", "hall-1/p1"], { kind: "Device", name: "hall-1/p1" }, true],
    ["not its neighbour", ["Device", "hall-1/p2"], { kind: "Device", name: "hall-1/p1" }, false],
    ["the list it is in", ["Device", "", "site=hall-1"], { kind: "Device", name: "hall-1/p1" }, true],
    ["everything of its kind when many changed", ["Device", "hall-1/p2"], { kind: "Device", name: "" }, true],
    ["the rollout's devices by their parent", ["RolloutDevice", "r-1"], { kind: "RolloutDevice", name: "hall-1/p1", parent: "r-1" }, true],
    ["not those of another rollout", ["RolloutDevice", "r-2"], { kind: "RolloutDevice", name: "hall-1/p1", parent: "r-1" }, false],
    ["the rollout's devices with the rollout", ["RolloutDevice", "r-1"], { kind: "Rollout", name: "r-1" }, true],
    ["the overview, whatever it is", ["Overview"], { kind: "Rollout", name: "r-1" }, true],
    ["not what never changes", ["Version"], { kind: "Device", name: "" }, false],
  ] as const)("%s", (_, key, change, want) => expect(stale(key, change)).toBe(want));
});
