import { expect, it } from "vitest";
import type { Schemas } from "../api/client";
import { freezeWords } from "../parts/Freezes";
import { windowState } from "../parts/PreviewParts";
import { sentence as replayed } from "../parts/Replay";
import { sentence as policies } from "./Policies";
import { sentence } from "./StartRollout";

const preview = (p: Partial<Schemas["RolloutPreview"]>) => ({ refusals: [], waves: [{ name: "canary", devices: 3, lines: [], names: [] }], devices: 24, ...p }) as unknown as Schemas["RolloutPreview"];

it("says what a rollout would reach, or that it would be refused", () => {
  expect(sentence(preview({}), "pump-7", "careful")).toBe("pump-7 would reach 24 devices in 1 wave.");
  expect(sentence(preview({ refusals: ["the window never opens"] }), "pump-7", "careful")).toBe("The hub would refuse to start pump-7 under careful.");
  expect(sentence(undefined, "pump-7", "careful")).toBe("pump-7 under careful");
});

it.each([
  ["open for good", { names: ["night"], zone: "UTC", devices: 1, open: true }, "open"],
  ["shut until", { names: ["night"], zone: "UTC", devices: 1, open: false, changeAt: "2026-11-23T22:00:00" }, "shut, opens 2026-11-23 22:00"],
  ["never open", { names: ["night"], zone: "UTC", devices: 1, open: false }, "shut, and does not open within a year"],
  ["for nobody", { names: [], zone: "UTC", devices: 1, open: false }, "no window is for them, so they never activate"],
])("says of a window that it is %s", (_, w, want) => expect(windowState(w)).toBe(want));

it("says what a freeze covers", () => {
  const f = { name: "count", selector: "line=l1", by: "user:ana", reason: "", active: true, devices: 8 };
  expect(freezeWords(f)).toBe("line=l1 (8 devices) until it is lifted");
  expect(freezeWords({ ...f, selector: "", devices: 1, active: false, from: "2026-12-24T06:00:00" })).toBe("every device (1 device) from 2026-12-24 06:00");
  expect(policies([], [f])).toBe("No rollout policy yet; count freezes 8 devices.");
});

it.each([
  ["would have stopped on 2026-11-12 22:14 after 4 devices: shadow gate.", "Under brave it would have stopped on 2026-11-12 22:14 after 4 devices: shadow gate."],
  ["decides the same", "Under brave it decides the same."],
  ["nothing was decided that could be decided otherwise", "Under brave: nothing was decided that could be decided otherwise."],
])("says what a replay came to: %s", (verdict, want) => expect(replayed({ rollout: "r-7", policy: "brave", verdict, same: 1, steps: [] })).toBe(want));
