import type { ReactNode } from "react";
import css from "./parts.module.css";

interface Block {
  kind: "head" | "list" | "text";
  lines: string[];
}

/** Splits a card into its headings ("# …"), lists ("- …") and paragraphs. */
export function blocks(card: string): Block[] {
  const out: Block[] = [];
  let open: Block | undefined;
  for (const line of card.split("\n").map((l) => l.trimEnd())) {
    const head = /^#+\s+(.*)/.exec(line);
    const item = /^\s*[-*]\s+(.*)/.exec(line);
    if (line === "") open = undefined;
    else if (head) {
      out.push({ kind: "head", lines: [head[1]!] });
      open = undefined;
    } else {
      const kind = item ? "list" : "text";
      if (open?.kind !== kind) out.push((open = { kind, lines: [] }));
      open.lines.push(item ? item[1]! : line);
    }
  }
  return out;
}

/** A model card, as the hub or a person wrote it. */
export function Card({ text }: { text: string }) {
  return (
    <div className={css.card}>
      {blocks(text).map((b, i): ReactNode => {
        if (b.kind === "head") return <h3 key={i}>{b.lines[0]}</h3>;
        if (b.kind === "list")
          return (
            <ul key={i}>
              {b.lines.map((l, k) => (
                <li key={k}>{l}</li>
              ))}
            </ul>
          );
        return <p key={i}>{b.lines.join("\n")}</p>;
      })}
    </div>
  );
}
