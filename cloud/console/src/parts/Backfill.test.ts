import { describe, expect, it } from "vitest";
import { day, interval } from "./Backfill";

const noon = new Date("2026-11-23T12:00").getTime();

describe("the days of a backfill", () => {
  it("are whole, the last one as far as it is over", () => {
    expect(interval("2026-11-20", "2026-11-21", noon)).toEqual({ from: new Date("2026-11-20T00:00").toISOString(), to: new Date("2026-11-22T00:00").toISOString() });
    expect(interval("2026-11-23", "2026-11-23", noon)?.to).toBe(new Date(noon).toISOString());
  });
  it("make no sense backwards, in the future, or half typed", () => {
    expect(interval("2026-11-21", "2026-11-20", noon)).toBeUndefined();
    expect(interval("2026-11-24", "2026-11-25", noon)).toBeUndefined();
    expect(interval("", "2026-11-20", noon)).toBeUndefined();
    expect(interval("2026-11-20", "2026-1", noon)).toBeUndefined();
  });
  it("are local days", () => {
    expect(day(noon)).toBe("2026-11-23");
  });
});
