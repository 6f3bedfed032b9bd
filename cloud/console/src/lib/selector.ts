// Suggestions for the selector field. The hub evaluates selectors; the console
// only helps to write them.

/** Known keys with the values seen in the fleet. */
export type Vocabulary = Map<string, Set<string>>;

/** The vocabulary of the given label sets. */
export function vocabularyOf(sets: Iterable<Record<string, string | undefined>>): Vocabulary {
  const v: Vocabulary = new Map();
  for (const labels of sets)
    for (const [key, value] of Object.entries(labels)) {
      if (value === undefined) continue;
      const values = v.get(key) ?? new Set<string>();
      v.set(key, values.add(value));
    }
  return v;
}

/** Whole texts that complete the last term of text, best first, at most 12. */
export function suggest(text: string, vocabulary: Vocabulary): string[] {
  const cut = lastComma(text) + 1;
  const before = text.slice(0, cut);
  const term = text.slice(cut).trim();
  const negated = term.startsWith("!");
  const body = negated ? term.slice(1) : term;
  const eq = /^([^=!]+)(!?=)(.*)$/.exec(body);
  const out: string[] = [];
  if (eq && !negated) {
    const [, key, op, start] = eq as unknown as [string, string, string, string];
    for (const value of [...(vocabulary.get(key) ?? [])].sort()) if (value.startsWith(start) && value !== start) out.push(before + key + op + value);
  } else {
    for (const [key, values] of [...vocabulary].sort(([a], [b]) => (a < b ? -1 : 1))) {
      if (!key.startsWith(body)) continue;
      if (negated) out.push(`${before}!${key}`);
      // A key with many values is completed to "key=", one with few to its terms.
      else if (values.size > 6) out.push(`${before}${key}=`);
      else for (const value of [...values].sort()) out.push(`${before}${key}=${value}`, `${before}${key}!=${value}`);
    }
  }
  return out.filter((s) => s !== text).slice(0, 12);
}

/** Index of the last comma outside parentheses, -1 when there is none. */
function lastComma(text: string): number {
  let depth = 0;
  let at = -1;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "(") depth++;
    else if (text[i] === ")") depth--;
    else if (text[i] === "," && depth === 0) at = i;
  }
  return at;
}
