import { describe, expect, it } from "vitest";
import { between, bytes, count, many, num, percent, relative, seconds, short } from "./format";

describe("what is absent is said, not guessed", () => {
  it.each([
    [count(undefined)], [num(undefined)], [percent(undefined)], [bytes(undefined)], [seconds(undefined)], [short(undefined)], [between(undefined, undefined, 0)],
  ])("writes a dash", (text) => expect(text).toBe("–"));
});

describe("seconds", () => {
  it.each([
    [0, "0.0 s"],
    [9.96, "10.0 s"],
    [42.4, "42 s"],
    [200, "3 min 20 s"],
    [3600, "1 h"],
    [7500, "2 h 5 min"],
    [356400, "4 d 3 h"],
  ])("%d s is %s", (s, text) => expect(seconds(s)).toBe(text));
});

describe("num keeps four digits", () => {
  it.each([
    [0, "0"],
    [0.018349, "0.01835"],
    [412.04, "412"],
    [0.00001234, "1.23e-5"],
    [Number.NaN, "NaN"],
  ])("%d is %s", (x, text) => expect(num(x)).toBe(text));
});

it("groups counts", () => expect(count(1234567)).toBe("1\u202f234\u202f567"));
it("says one and many", () => expect([many(1, "device"), many(2, "device")]).toEqual(["1 device", "2 devices"]));
it("tells the time from both sides", () => {
  const now = Date.parse("2026-11-22T12:00:00Z");
  expect(relative("2026-11-22T11:55:00Z", now)).toBe("5 min ago");
  expect(relative("2026-11-22T14:00:00Z", now)).toBe("in 2 h");
});
it("shortens a digest as the agents do", () => expect(short("sha256:0123456789abcdef")).toBe("0123456789ab"));
