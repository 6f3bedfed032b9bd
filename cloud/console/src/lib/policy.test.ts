import { expect, it } from "vitest";
import { budgetWords, gateWords, growthWords, policySentence, waveWords, windowWords } from "./policy";

it.each([
  ["a count and a share", { groupBy: "line", maxUnavailable: 2, minAvailableShare: 0.5 }, "at most 2 disturbed, at least 50 % available"],
  ["two of a kind", { groupBy: "line", maxUnavailable: 2, maxUnavailableShare: 0.1 }, "at most 2 and 10 % disturbed"],
])("says a budget with %s", (_, b, want) => expect(budgetWords(b)).toBe(want));

it.each([
  [{ name: "canary", devices: 1 }, "1 device"],
  [{ name: "half", share: 0.5, selector: "line=l1", approvals: 2, approvers: ["user:ana", "user:ben"] }, "up to 50 % of the fleet, of line=l1, after 2 approvals of user:ana, user:ben"],
  [{ name: "rest", deadlineSeconds: 3600 }, "all that are left, within 1 h"],
])("says the wave %o", (w, want) => expect(waveWords(w)).toBe(want));

it.each([
  [{ name: "night", from: "22:00", to: "06:00", days: ["mon" as const, "tue" as const], zone: "Europe/Berlin" }, "22:00 to 06:00, mon, tue, Europe/Berlin"],
  [{ name: "shift", start: "2026-11-02", everyDays: 4, on: [0, 1], except: ["2026-12-24"] }, "all day, days 0, 1 of 4 from 2026-11-02, time of the device; not on 2026-12-24"],
])("says the window %o", (w, want) => expect(windowWords(w)).toBe(want));

it("says gates, growth and a whole policy", () => {
  expect(gateWords({ name: "success" })).toBe("with its defaults");
  expect(gateWords({ name: "shadow", threshold: 1.5, alpha: 0.01 })).toBe("threshold 1.5, error 1 %");
  expect(growthWords({ first: 2, factor: 3, maxShare: 0.25 })).toBe("then waves from 2 devices on, each ×3, at most 25 % of the fleet");
  expect(policySentence({ selector: "class=pump", waves: [{ name: "all" }], budgets: [{ groupBy: "line", maxUnavailable: 1 }], windows: [{ name: "night" }] }, 24)).toBe("class=pump (24 now) in 1 wave, with a budget per line and 1 maintenance window.");
  expect(policySentence({ selector: "", waves: [], growth: { first: 1, factor: 2 } }, undefined)).toBe("Every device in growing waves.");
});
