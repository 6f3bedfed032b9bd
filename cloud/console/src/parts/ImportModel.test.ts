import { describe, expect, it } from "vitest";
import { nameOf } from "./ImportModel";

describe("the name of a model that somebody brings", () => {
  it("is made of the file's", () => {
    expect(nameOf("MobileNet_V2 (1).onnx")).toBe("mobilenet-v2-1");
    expect(nameOf("https://example.com/nets/pump.v3.onnx?download=1")).toBe("pump.v3");
    expect(nameOf("_.onnx")).toBe("");
    expect(nameOf("https://example.com/latest")).toBe("");
    expect(nameOf(`${"a".repeat(80)}.onnx`)).toHaveLength(63);
  });
});
