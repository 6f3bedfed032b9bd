import { describe, expect, it, vi } from "vitest";
import type { Schemas } from "../api/client";

vi.mock("uplot", () => ({ default: class {} }));
const { attestation, sentence } = await import("./Device");

const release = { kind: "model" as const, id: "pump-anomaly-7", name: "pump-anomaly", counter: 7, digest: "sha256:aa" };
const device = (status: Partial<Schemas["DeviceStatus"]>) =>
  ({ status: { state: "ok", connected: true, conditions: [], release, reportedDigest: "sha256:aa", attestedDigest: "sha256:b0", ...status } }) as unknown as Schemas["Device"];

describe("the sentence says", () => {
  it.each([
    ["what runs, attested", device({ desiredDigest: "sha256:aa", attested: true }), "Runs pump-anomaly-7, attested."],
    ["no more than is known", device({ desiredDigest: "sha256:aa" }), "Runs pump-anomaly-7."],
    ["that other bytes are loaded than the release has", device({ desiredDigest: "sha256:aa", attested: false }), "Runs pump-anomaly-7; not attested."],
    ["that another release is desired", device({ desiredDigest: "sha256:cc", attested: false }), "Runs pump-anomaly-7, which is not what is desired."],
    ["where a trial is", device({ phase: "rolled_back" }), "Runs pump-anomaly-7; its trial is at “rolled back”."],
    ["what an offline one ran last", device({ connected: false }), "Offline; last known to run pump-anomaly-7."],
    ["that no model acts", device({ release: undefined }), "Connected; no model acts yet."],
    ["the worst condition", device({ state: "degraded", conditions: [{ type: "DiskPressure", status: "True", severity: "warning", reason: "x", message: "The disk is full." }] }), "The disk is full."],
  ])("%s", (_, d, want) => expect(sentence(d)).toBe(want));
});

describe("the attestation", () => {
  it("needs bytes", () => expect(attestation(device({ attestedDigest: undefined }).status)).toBe("nothing attested yet"));
  it("is never taken from digests that only look alike", () => expect(attestation(device({ desiredDigest: "sha256:aa" }).status)).toBe(""));
  it("is the hub's word about the bytes", () => expect(attestation(device({ desiredDigest: "sha256:aa", attested: false }).status)).toContain("are not those"));
});
