import { describe, expect, it } from "vitest";
import { suggest, vocabularyOf } from "./selector";

const v = vocabularyOf([
  { site: "hall-1", line: "l1", hardware: "pi4" },
  { site: "hall-1", line: "l2" },
  { site: "hall-2", line: "l1", retired: undefined },
]);

describe("suggest", () => {
  it("offers terms and their negations", () => expect(suggest("si", v)).toEqual(["site=hall-1", "site!=hall-1", "site=hall-2", "site!=hall-2"]));
  it("completes a value", () => expect(suggest("site=hall-", v)).toEqual(["site=hall-1", "site=hall-2"]));
  it("completes after !=", () => expect(suggest("line!=l", v)).toEqual(["line!=l1", "line!=l2"]));
  it("offers absent labels after !", () => expect(suggest("site=hall-1,!h", v)).toEqual(["site=hall-1,!hardware"]));
  it("keeps what stands before", () => expect(suggest("line=l1, site=hall-2", v)).toEqual([]));
  it("does not cut inside a set", () => expect(suggest("line in (l1,l2", v)).toEqual([]));
});
