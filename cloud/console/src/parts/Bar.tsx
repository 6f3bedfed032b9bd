import type { Schemas } from "../api/client";
import { count } from "../lib/format";
import css from "./parts.module.css";

/** How far a rollout or wave has come, as one bar with its numbers. */
export function ProgressBar({ counts }: { counts: Schemas["RolloutCounts"] }) {
  const { devices, done, inFlight, failed, unreachable } = counts;
  const parts = [
    { key: "done", n: done, fill: "var(--n4)", text: "done" },
    { key: "inFlight", n: inFlight, fill: "var(--n3)", text: "in flight" },
    // Most of these went back by themselves or were called back: worth a look, not an alarm.
    { key: "failed", n: failed, fill: "var(--amber-fill)", text: "failed or rolled back" },
    { key: "unreachable", n: unreachable, fill: "var(--n2)", text: "unreachable" },
  ].filter((p) => p.n > 0);
  const said = parts.map((p) => `${count(p.n)} ${p.text}`).join(", ");
  return (
    <div className={css.progress} role="img" aria-label={`${count(devices)} devices: ${said || "none begun"}`} title={said || "none begun"}>
      {devices > 0 && parts.map((p) => <span key={p.key} style={{ width: `${(p.n / devices) * 100}%`, background: p.fill }} />)}
    </div>
  );
}
