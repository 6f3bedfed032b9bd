import { describe, expect, it } from "vitest";
import { example, read, rewrite, write, type Form } from "./document";

const policy = { ...read(example), status: { conditions: [] } };

describe("a policy as a document", () => {
  it.each(["yaml", "json"] as Form[])("is the same after it was written as %s and read", (form) => {
    const again = read(write(policy, form));
    expect(again).toEqual({ apiVersion: policy.apiVersion, kind: policy.kind, metadata: policy.metadata, spec: policy.spec });
  });
  it("keeps the version, so that two people do not overwrite each other, and drops the status", () => {
    const text = write({ ...policy, metadata: { ...policy.metadata, resourceVersion: "7" } }, "yaml");
    expect(text).toContain('resourceVersion: "7"'.replaceAll('"', "'"));
    expect(text).not.toContain("status");
  });
  it("says who and how before the details, in whatever order the hub answers", () => {
    const spec = { budgets: [{ maxUnavailable: 1, groupBy: "line" }], leaseSeconds: 20, selector: "", waves: [{ devices: 3, name: "canary" }] };
    const text = write({ ...policy, spec }, "yaml");
    expect(text.slice(text.indexOf("spec:"))).toBe("spec:\n  selector: ''\n  waves:\n    - {name: canary, devices: 3}\n  budgets:\n    - {groupBy: line, maxUnavailable: 1}\n  leaseSeconds: 20\n");
  });
  it("leaves dates as they are written", () => {
    expect(read("metadata: {name: p}\nspec: {selector: '', waves: [], windows: [{name: w, except: [2026-12-24]}]}").spec.windows?.[0]?.except).toEqual(["2026-12-24"]);
  });
  it.each([
    ["what is no YAML", "a: [", "This is not YAML"],
    ["a list", "- a", "one document"],
    ["nothing", "", "one document"],
    ["what has no spec", "metadata: {name: p}", "a spec"],
  ])("refuses %s", (_, text, want) => expect(() => read(text)).toThrow(want));
  it("changes form, and leaves alone what it cannot read", () => {
    expect(rewrite("a: 1", "json")).toBe('{\n  "a": 1\n}\n');
    expect(rewrite("a: [", "json")).toBe("a: [");
  });
});
