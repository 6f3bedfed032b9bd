import { describe, expect, it } from "vitest";
import { Gatherer } from "./stream";

const change = (id: number, name = "a") => ({ id, kind: "Device", name });

describe("Gatherer", () => {
  it("hands on each change once, however often it came", () => {
    const g = new Gatherer();
    g.hello({ id: 7, hub: "x" });
    g.change(change(8));
    g.change(change(9));
    g.change(change(10, "b"));
    expect(g.take()).toEqual([
      { kind: "Device", name: "a", parent: undefined },
      { kind: "Device", name: "b", parent: undefined },
    ]);
    expect(g.take()).toBeUndefined();
  });
  it("says all after a gap, once", () => {
    const g = new Gatherer();
    g.hello({ id: 7, hub: "x" });
    g.change(change(9));
    expect(g.take()).toBe("all");
    g.change(change(10));
    expect(g.take()).toHaveLength(1);
  });
  it("says all when it missed something while away", () => {
    const g = new Gatherer();
    g.hello({ id: 7, hub: "x" });
    g.hello({ id: 12, hub: "x" });
    expect(g.take()).toBe("all");
  });
  it("says all when the hub was restarted, even at the same id", () => {
    const g = new Gatherer();
    g.hello({ id: 0, hub: "x" });
    g.hello({ id: 0, hub: "y" });
    expect(g.take()).toBe("all");
  });
  it("says nothing after a reconnect that missed nothing", () => {
    const g = new Gatherer();
    g.hello({ id: 7, hub: "x" });
    g.hello({ id: 7, hub: "x" });
    g.change(change(7));
    expect(g.take()).toBeUndefined();
  });
});
