import { expect, it } from "vitest";
import { forbidden } from "./session";

it("lets each role do what the ones before it may", () => {
  expect(forbidden("admin", "operator")).toBeUndefined();
  expect(forbidden("operator", "operator")).toBeUndefined();
  expect(forbidden("operator", "approver")).toContain("needs approver");
});
