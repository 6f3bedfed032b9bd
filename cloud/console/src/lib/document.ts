// Policies as people write them: YAML, or JSON for who prefers it.

import { dump, JSON_SCHEMA, load } from "js-yaml";
import type { Schemas } from "../api/client";

export type Form = "yaml" | "json";
type Policy = Schemas["RolloutPolicy"];

/** A policy as a document. What the hub keeps of its own accord is left out; the version stays, so that two people do not overwrite each other. */
export function write(p: Policy, form: Form): string {
  const doc = {
    apiVersion: p.apiVersion,
    kind: p.kind,
    metadata: { name: p.metadata.name, ...(p.metadata.labels ? { labels: p.metadata.labels } : {}), ...(p.metadata.resourceVersion ? { resourceVersion: p.metadata.resourceVersion } : {}) },
    spec: ordered(p.spec),
  };
  return form === "json" ? `${JSON.stringify(doc, null, 2)}\n` : dump(doc, { schema: JSON_SCHEMA, lineWidth: 100, noRefs: true, flowLevel: 3 });
}

// People read who and how before the details; the hub answers in alphabetical order.
const first = ["name", "groupBy", "selector", "waves", "growth", "budgets", "windows", "gates"];

function ordered(v: unknown): unknown {
  if (Array.isArray(v)) return v.map(ordered);
  if (typeof v !== "object" || v === null) return v;
  const rank = ([key]: [string, unknown]) => (first.includes(key) ? first.indexOf(key) : first.length);
  return Object.fromEntries(
    Object.entries(v)
      .sort((a, b) => rank(a) - rank(b))
      .map(([key, x]) => [key, ordered(x)]),
  );
}

/** The document in a text of either form. The hub checks what it says; here it only has to be an object. */
export function read(text: string): Policy {
  let doc: unknown;
  try {
    doc = load(text, { schema: JSON_SCHEMA }); // every JSON text is YAML, too
  } catch (e) {
    throw new Error(`This is not YAML: ${e instanceof Error ? e.message.split("\n")[0] : String(e)}`, { cause: e });
  }
  if (typeof doc !== "object" || doc === null || Array.isArray(doc)) throw new Error("Write one document with apiVersion, kind, metadata and spec.");
  if (!("spec" in doc) || !("metadata" in doc)) throw new Error("The document needs metadata with a name, and a spec.");
  return doc as Policy;
}

/** A text in the other form; the same text when it cannot be read. */
export function rewrite(text: string, form: Form): string {
  try {
    const doc = load(text, { schema: JSON_SCHEMA });
    return form === "json" ? `${JSON.stringify(doc, null, 2)}\n` : dump(doc, { schema: JSON_SCHEMA, lineWidth: 100, noRefs: true, flowLevel: 3 });
  } catch {
    return text;
  }
}

/** What a new policy begins with. */
export const example = `apiVersion: swell/v1
kind: RolloutPolicy
metadata:
  name: careful
spec:
  selector: "!retired"
  waves:
    - {name: canary, devices: 3, soakSeconds: 600}
    - {name: half, share: 0.5, soakSeconds: 600}
    - {name: rest, share: 1, soakSeconds: 600, approvals: 1}
  budgets:
    - {groupBy: line, maxUnavailable: 1}
  gates:
    - {name: success}
    - {name: shadow, threshold: 1.5}
`;
