// Rollout policies in words.

import type { Schemas } from "../api/client";
import { seconds } from "./format";

type Spec = Schemas["RolloutPolicySpec"];

const share = (v: number) => `${+(100 * v).toFixed(1)} %`;

/** What a disruption budget allows. */
export function budgetWords(b: Schemas["Budget"]): string {
  const most = [b.maxUnavailable, b.maxUnavailableShare && share(b.maxUnavailableShare)].filter((v) => v !== undefined && v !== 0);
  const least = [b.minAvailable, b.minAvailableShare && share(b.minAvailableShare)].filter((v) => v !== undefined && v !== 0);
  return [most.length > 0 && `at most ${most.join(" and ")} disturbed`, least.length > 0 && `at least ${least.join(" and ")} available`].filter(Boolean).join(", ");
}

/** How large a wave is and what it waits for. */
export function waveWords(w: Schemas["WaveSpec"]): string {
  const size = w.devices !== undefined ? `${w.devices} ${w.devices === 1 ? "device" : "devices"}` : w.share !== undefined ? `up to ${share(w.share)} of the fleet` : "all that are left";
  return [size, w.selector && `of ${w.selector}`, w.approvals && `after ${w.approvals} ${w.approvals === 1 ? "approval" : "approvals"}${w.approvers?.length ? ` of ${w.approvers.join(", ")}` : ""}`, w.deadlineSeconds && `within ${seconds(w.deadlineSeconds)}`].filter(Boolean).join(", ");
}

export function growthWords(g: Schemas["Growth"]): string {
  return `then waves from ${g.first ?? 1} ${(g.first ?? 1) === 1 ? "device" : "devices"} on, each ×${g.factor}${g.maxShare ? `, at most ${share(g.maxShare)} of the fleet` : ""}`;
}

/** When a maintenance window is open. */
export function windowWords(w: Schemas["Window"]): string {
  const time = w.from || w.to ? `${w.from ?? "00:00"} to ${w.to ?? "24:00"}` : "all day";
  const days = w.days?.length ? w.days.join(", ") : w.start && w.everyDays ? `days ${w.on?.join(", ") ?? ""} of ${w.everyDays} from ${w.start}` : "every day";
  const but = [w.except?.length && `not on ${w.except.join(", ")}`, w.also?.length && `also on ${w.also.join(", ")}`].filter(Boolean).join("; ");
  return `${time}, ${days}${w.zone ? `, ${w.zone}` : ", time of the device"}${w.selector ? `, for ${w.selector}` : ""}${but ? `; ${but}` : ""}`;
}

/** What a gate asks for. */
export function gateWords(g: Schemas["GateSpec"]): string {
  const parts = [g.expr, g.threshold !== undefined && `threshold ${g.threshold}`, g.minN !== undefined && `from ${g.minN} on`, g.alpha !== undefined && `error ${share(g.alpha)}`];
  return parts.filter(Boolean).join(", ") || "with its defaults";
}

/** A policy in one sentence. */
export function policySentence(spec: Spec, devices: number | undefined): string {
  const n = spec.waves.length;
  const waves = n > 0 ? `${n} ${n === 1 ? "wave" : "waves"}${spec.growth ? " and more that grow" : ""}` : "growing waves";
  const fleet = `${spec.selector || "Every device"}${devices === undefined ? "" : ` (${devices} now)`}`;
  const rules = [spec.budgets?.length && `a budget per ${spec.budgets.map((b) => b.groupBy).join(" and ")}`, spec.windows?.length && `${spec.windows.length} maintenance ${spec.windows.length === 1 ? "window" : "windows"}`].filter(Boolean);
  return `${fleet} in ${waves}${rules.length ? `, with ${rules.join(" and ")}` : ""}.`;
}
