import { expect, test } from "vitest";
import { blocks } from "./Card";

test("a card becomes headings, lists and paragraphs", () => {
  expect(blocks("# Data\n24 devices.\nSeven days.\n\n- one\n- two\nAfter it.")).toEqual([
    { kind: "head", lines: ["Data"] },
    { kind: "text", lines: ["24 devices.", "Seven days."] },
    { kind: "list", lines: ["one", "two"] },
    { kind: "text", lines: ["After it."] },
  ]);
});
