import { cleanup, render, screen } from "@testing-library/react";
import { afterEach, describe, expect, it } from "vitest";
import { GateTable, position } from "./GateTable";

afterEach(cleanup);

describe("GateTable", () => {
  it("shows value, threshold, n and verdict with their units", () => {
    render(<GateTable caption="Gates" gates={[{ name: "shadow", verdict: "FAIL", value: 412, threshold: 100, comparison: "<=", n: 5120, nUnit: "windows", message: "3 of 5 canaries flag 1.9 × the champion" }]} />);
    const row = screen.getByRole("row", { name: /shadow/ });
    for (const text of ["FAIL", "412", "≤ 100", "5\u202f120", "windows", "3 of 5 canaries"]) expect(row.textContent).toContain(text);
  });
  it("shows a gate without data as inconclusive, with dashes and not with zeros", () => {
    render(<GateTable caption="Gates" gates={[{ name: "success", verdict: "INCONCLUSIVE", message: "no device has reported" }]} />);
    const row = screen.getByRole("row", { name: /success/ });
    expect(row.textContent).toContain("INCONCLUSIVE");
    expect(row.textContent).not.toMatch(/\b0\b/);
  });
  it("says so when no gate was evaluated", () => {
    render(<GateTable caption="Gates" gates={[]} />);
    expect(screen.getByText(/No gate/)).toBeTruthy();
  });
});

describe("position: more than a half is on the failing side", () => {
  it.each([
    ["below a ceiling", { value: 50, threshold: 100, comparison: "<=" as const }, (p: number) => p < 0.5],
    ["over a ceiling", { value: 150, threshold: 100, comparison: "<=" as const }, (p: number) => p > 0.5],
    ["over a floor", { value: 0.9, threshold: 0.7, comparison: ">=" as const }, (p: number) => p < 0.5],
    ["at the threshold", { value: 3, threshold: 3, comparison: ">=" as const }, (p: number) => p === 0.5],
    ["nothing against nothing", { value: 0, threshold: 0, comparison: "<=" as const }, (p: number) => p === 0.5],
  ])("%s", (_, g, ok) => expect(ok(position(g)!)).toBe(true));
  it("is unknown without a value", () => expect(position({ threshold: 1, comparison: "<=" })).toBeUndefined());
});
