import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { check, leafHash } from "./merkle";
import { hex, sha256, unhex } from "./sha256";

const b64 = (b: Uint8Array) => Buffer.from(b).toString("base64");

describe("sha256 agrees with the platform's", () => {
  it.each([0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 1000])("on %d bytes", (n) => {
    const data = Uint8Array.from({ length: n }, (_, i) => (i * 37 + n) & 255);
    expect(hex(sha256(data))).toBe(createHash("sha256").update(data).digest("hex"));
  });
});

// A small log of our own: root and path by the recursive definition of RFC 6962,
// which is not how check goes about it.
const combine = (l: Uint8Array, r: Uint8Array) => sha256(Uint8Array.from([1, ...l, ...r]));
const split = (n: number) => {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
};
function root(leaves: Uint8Array[]): Uint8Array {
  if (leaves.length === 1) return leafHash(leaves[0]!);
  const k = split(leaves.length);
  return combine(root(leaves.slice(0, k)), root(leaves.slice(k)));
}
function path(m: number, leaves: Uint8Array[]): Uint8Array[] {
  if (leaves.length === 1) return [];
  const k = split(leaves.length);
  return m < k ? [...path(m, leaves.slice(0, k)), root(leaves.slice(k))] : [...path(m - k, leaves.slice(k)), root(leaves.slice(0, k))];
}
const log = (n: number) => Array.from({ length: n }, (_, i) => new TextEncoder().encode(`entry ${i}`));
const proofOf = (index: number, n: number) => {
  const leaves = log(n);
  return { index, treeSize: n, leaf: b64(leaves[index]!), hashes: path(index, leaves).map(hex), checkpoint: `swell-test\n${n}\n${b64(root(leaves))}\n\n— swell-test sig\n` };
};

describe("check", () => {
  it("accepts every entry of every log up to 33 entries", () => {
    for (let n = 1; n <= 33; n++) for (let i = 0; i < n; i++) expect(check(proofOf(i, n)).ok, `${i} of ${n}`).toBe(true);
  });
  it("refuses another leaf", () => expect(check({ ...proofOf(3, 10), leaf: b64(new TextEncoder().encode("entry 4")) }).ok).toBe(false));
  it("refuses another index", () => expect(check({ ...proofOf(3, 10), index: 2 }).ok).toBe(false));
  it("refuses a flipped bit in the path", () => {
    const p = proofOf(3, 10);
    const h = unhex(p.hashes[1]!);
    h[0]! ^= 1;
    expect(check({ ...p, hashes: p.hashes.with(1, hex(h)) }).ok).toBe(false);
  });
  it("refuses a path that is too short or too long", () => {
    const p = proofOf(3, 10);
    expect(check({ ...p, hashes: p.hashes.slice(1) }).ok).toBe(false);
    expect(check({ ...p, hashes: [...p.hashes, p.hashes[0]!] }).ok).toBe(false);
  });
  it("refuses a checkpoint of another size", () => expect(check({ ...proofOf(3, 10), treeSize: 11 }).message).toContain("10 entries"));
  it("says what is wrong with rubbish", () => expect(check({ ...proofOf(3, 10), checkpoint: "hello" }).message).toContain("no origin"));
});
