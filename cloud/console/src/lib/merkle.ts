// The inclusion proof of RFC 6962, section 2.1.1 (verification as in RFC 9162,
// section 2.1.3.2), computed in the browser so that the reader need not believe
// the hub that serves the page.

import { hex, sha256, unhex } from "./sha256";

/** One hash that was computed on the way from the leaf to the root. */
export interface Step {
  /** Which side the sibling stands on; "leaf" is the first step, which has none. */
  side: "leaf" | "left" | "right";
  /** Sibling's hash in hex; "" for the leaf. */
  sibling: string;
  /** Result in hex. */
  hash: string;
}

export interface Checked {
  ok: boolean;
  /** A sentence that says what held or what did not. */
  message: string;
  steps: Step[];
}

const node = (left: Uint8Array, right: Uint8Array) => {
  const b = new Uint8Array(65);
  b[0] = 1;
  b.set(left, 1);
  b.set(right, 33);
  return sha256(b);
};

/** The leaf hash: SHA-256 over a zero byte and the leaf. */
export function leafHash(leaf: Uint8Array): Uint8Array {
  const b = new Uint8Array(leaf.length + 1);
  b.set(leaf, 1);
  return sha256(b);
}

/** Bytes of standard base64; throws on anything else. */
export function fromBase64(s: string): Uint8Array {
  return Uint8Array.from(atob(s), (c) => c.charCodeAt(0));
}

/** Size and root hash of a checkpoint (C2SP tlog-checkpoint), or why there is none. */
function parseCheckpoint(text: string): { origin: string; size: number; root: string } {
  const [origin, size, root] = text.split("\n");
  if (!origin || !size || !root || !/^(0|[1-9][0-9]*)$/.test(size)) throw new Error("the checkpoint has no origin, size and root");
  return { origin, size: Number(size), root: hex(fromBase64(root)) };
}

/** Computes the root from the leaf and its path and compares it with the checkpoint. */
export function check(proof: { index: number; treeSize: number; leaf: string; hashes: string[]; checkpoint: string }): Checked {
  const steps: Step[] = [];
  try {
    const signed = parseCheckpoint(proof.checkpoint);
    if (signed.size !== proof.treeSize) return { ok: false, message: `The checkpoint is of ${signed.size} entries and the proof of ${proof.treeSize}.`, steps };
    if (proof.index < 0 || proof.index >= proof.treeSize) return { ok: false, message: `Entry ${proof.index} is not among the ${proof.treeSize} of the checkpoint.`, steps };

    let hash = leafHash(fromBase64(proof.leaf));
    steps.push({ side: "leaf", sibling: "", hash: hex(hash) });
    let fn = proof.index;
    let sn = proof.treeSize - 1;
    for (const h of proof.hashes) {
      if (sn === 0) return { ok: false, message: "The path is longer than the tree is high.", steps };
      const sibling = unhex(h);
      if (fn % 2 === 1 || fn === sn) {
        hash = node(sibling, hash);
        steps.push({ side: "left", sibling: h, hash: hex(hash) });
        while (fn % 2 === 0 && fn !== 0) {
          fn = Math.floor(fn / 2);
          sn = Math.floor(sn / 2);
        }
      } else {
        hash = node(hash, sibling);
        steps.push({ side: "right", sibling: h, hash: hex(hash) });
      }
      fn = Math.floor(fn / 2);
      sn = Math.floor(sn / 2);
    }
    if (sn !== 0) return { ok: false, message: "The path ends below the root.", steps };
    if (hex(hash) !== signed.root) return { ok: false, message: "The computed root differs from the one in the signed checkpoint: this entry is not in that log.", steps };
    return { ok: true, message: `Computed here: the entry is number ${proof.index} of the ${proof.treeSize} in the checkpoint of ${signed.origin}.`, steps };
  } catch (e) {
    return { ok: false, message: `The proof cannot be read: ${e instanceof Error ? e.message : String(e)}.`, steps };
  }
}
