import { expect, test } from "vitest";
import { wordOn } from "./Flagged";

const label = (value: string, at: string, from = "2026-11-22T10:00:00Z") => ({ device: "hall-1/pump-01", value, by: "user:ana", at, from, to: "2026-11-22T10:05:00Z" });
const span = { from: Date.parse("2026-11-22T10:00:00Z"), to: Date.parse("2026-11-22T10:05:00Z") };

test("the newest word on the same stretch counts", () => {
  expect(wordOn(span, [label("normal", "2026-11-22T12:00:00Z"), label("anomaly", "2026-11-22T11:00:00Z")])?.value).toBe("normal");
});

test("a stretch that is read in other buckets is still the same", () => {
  expect(wordOn({ from: span.from - 2000, to: span.to + 1000 }, [label("normal", "2026-11-22T12:00:00Z")])?.value).toBe("normal");
});

test("a word on another stretch, or on a frame, does not", () => {
  expect(wordOn(span, [label("normal", "2026-11-22T12:00:00Z", "2026-11-22T09:00:00Z"), { ...label("scratches", "2026-11-22T12:00:00Z"), frame: "sha256:00" }])).toBeUndefined();
});
