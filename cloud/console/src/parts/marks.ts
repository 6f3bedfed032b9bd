// The shapes states are drawn with, in tables (SVG) and heat grids (canvas)
// alike. Shapes tell states apart without colour; amber and red appear only
// where somebody must look or act (ISA-101).

import type { Schemas } from "../api/client";

type Tone = "n1" | "n2" | "n3" | "n4" | "amber-fill" | "red-fill";

/** One stroke or area of a mark in a box of 12 × 12. */
interface Stroke {
  d: string;
  fill?: Tone;
  stroke?: Tone;
  dash?: boolean;
}

export interface Mark {
  label: string;
  /** What the state means, for legends. */
  meaning: string;
  strokes: Stroke[];
  /** 0 calm, 1 look, 2 act: orders legends and lists. */
  alarm: 0 | 1 | 2;
}

const BOX = "M1.5 1.5h9v9h-9z";
const FULL = "M1 1h10v10h-10z";
const TRIANGLE = "M6 .8 11.6 11H.4z";
const DIAMOND = "M6 .2 11.8 6 6 11.8.2 6z";
const CROSS = "M3.9 3.9 8.1 8.1M8.1 3.9 3.9 8.1";

const mark = (label: string, meaning: string, alarm: 0 | 1 | 2, ...strokes: Stroke[]): Mark => ({ label, meaning, alarm, strokes });

export const deviceMarks: Record<Schemas["DeviceState"], Mark> = {
  ok: mark("ok", "runs what it should", 0, { d: FULL, fill: "n2" }),
  trial: mark("trial", "a challenger computes beside the champion", 0, { d: BOX, stroke: "n3" }, { d: "M4 4h4v4h-4z", fill: "n4" }),
  updating: mark("updating", "a release is on its way", 0, { d: BOX, stroke: "n3" }, { d: "M1 6h10v5h-10z", fill: "n3" }),
  degraded: mark("degraded", "a condition asks for a look", 1, { d: TRIANGLE, fill: "amber-fill" }),
  failed: mark("failed", "an update failed, or a condition is critical", 2, { d: DIAMOND, fill: "red-fill" }),
  offline: mark("offline", "silent past its time", 1, { d: BOX, stroke: "amber-fill" }, { d: "M2 10 10 2", stroke: "amber-fill" }),
  retired: mark("retired", "taken out of service", 0, { d: "M4.5 4.5h3v3h-3z", fill: "n1" }),
  unknown: mark("unknown", "enrolled, never heard of", 0, { d: BOX, stroke: "n2", dash: true }),
};

export const rolloutDeviceMarks: Record<Schemas["RolloutDeviceState"], Mark> = {
  pending: mark("pending", "not offered yet", 0, { d: BOX, stroke: "n2" }),
  unreachable: mark("unreachable", "offered, not heard of", 0, { d: BOX, stroke: "n2" }, { d: "M2 10 10 2", stroke: "n2" }),
  updating: mark("updating", "on its way to the trial", 0, { d: BOX, stroke: "n3" }, { d: "M1 8h10v3h-10z", fill: "n3" }),
  shadow: mark("in shadow", "computes beside the champion, does not act", 0, { d: BOX, stroke: "n3" }, { d: "M4 4h4v4h-4z", fill: "n4" }),
  soaking: mark("soaking", "acts, not confirmed yet", 0, { d: BOX, stroke: "n4" }, { d: "M1 4h10v7h-10z", fill: "n4" }),
  done: mark("done", "confirmed and attested", 0, { d: FULL, fill: "n4" }),
  silent: mark("silent", "started, then past its lease", 2, { d: DIAMOND, stroke: "red-fill" }),
  failed: mark("failed", "refused or gave up", 2, { d: DIAMOND, fill: "red-fill" }),
  "rolled-back": mark("rolled back", "acted, then the last good one took over", 1, { d: TRIANGLE, fill: "amber-fill" }),
  returned: mark("returned", "called back, runs the release before again", 0, { d: BOX, stroke: "n3" }, { d: "M8.5 3 4 6l4.5 3z", fill: "n3" }),
  kept: mark("kept", "keeps the release: there is none before it", 1, { d: FULL, fill: "amber-fill" }),
  excluded: mark("excluded", "not part of it", 0, { d: "M4.5 4.5h3v3h-3z", fill: "n1" }),
};

const circle = "M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1z";

export const rolloutMarks: Record<Schemas["RolloutState"], Mark> = {
  queued: mark("queued", "another rollout of the fleet is active", 0, { d: circle, stroke: "n2", dash: true }),
  waiting: mark("waits for approval", "a person must approve", 1, { d: TRIANGLE, fill: "amber-fill" }),
  running: mark("running", "waves go on by themselves", 0, { d: circle, stroke: "n4" }, { d: "M4.5 3.5 9 6 4.5 8.5z", fill: "n4" }),
  held: mark("held", "a gate has no verdict yet, or nothing may be touched now", 0, { d: circle, stroke: "n4" }, { d: "M6 3.2V6l2 1.6", stroke: "n4" }),
  paused: mark("paused", "by a person", 1, { d: "M2.5 1.5h2.6v9H2.5zM6.9 1.5h2.6v9H6.9z", fill: "amber-fill" }),
  "rolling-back": mark("rolling back", "devices return to the last promoted release", 2, { d: DIAMOND, stroke: "red-fill" }),
  promoted: mark("promoted", "finished well", 0, { d: "M1.6 6.4 4.8 9.6 10.6 2.6", stroke: "n4" }),
  aborted: mark("aborted", "ended by a person", 0, { d: circle, stroke: "n3" }, { d: CROSS, stroke: "n3" }),
  // The hub has taken it back already: worth a look, nothing to be done at once.
  failed: mark("failed", "a gate said FAIL; rolled back", 1, { d: TRIANGLE, fill: "amber-fill" }),
  superseded: mark("superseded", "a newer release took its place", 0, { d: circle, stroke: "n2" }, { d: "M3.6 6h4.8", stroke: "n2" }),
};

export const waveMarks: Record<Schemas["WaveState"], Mark> = {
  waiting: mark("waiting", "not begun", 0, { d: circle, stroke: "n2", dash: true }),
  running: rolloutMarks.running,
  soaking: mark("soaking", "in place, being watched", 0, { d: circle, stroke: "n4" }, { d: "M6 6V1a5 5 0 0 1 0 10z", fill: "n4" }),
  held: rolloutMarks.held,
  passed: mark("passed", "every gate said PASS", 0, { d: "M1.6 6.4 4.8 9.6 10.6 2.6", stroke: "n4" }),
  failed: mark("failed", "a gate said FAIL", 2, { d: DIAMOND, fill: "red-fill" }),
  skipped: mark("skipped", "nothing to do", 0, { d: circle, stroke: "n2" }, { d: "M3.6 6h4.8", stroke: "n2" }),
};

export const verdictMarks: Record<Schemas["Verdict"], Mark> = {
  PASS: mark("PASS", "shown to hold", 0, { d: "M1.6 6.4 4.8 9.6 10.6 2.6", stroke: "n4" }),
  FAIL: mark("FAIL", "shown not to hold", 2, { d: DIAMOND, fill: "red-fill" }),
  INCONCLUSIVE: mark("INCONCLUSIVE", "not enough evidence: holds, never passes", 0, { d: circle, stroke: "n3", dash: true }, { d: "M4 6h4", stroke: "n3" }),
};

export const stepMarks: Record<Schemas["StepState"], Mark> = {
  waiting: waveMarks.waiting,
  running: rolloutMarks.running,
  done: mark("done", "finished", 0, { d: "M1.6 6.4 4.8 9.6 10.6 2.6", stroke: "n4" }),
  refused: mark("refused", "not good enough, by a gate", 1, { d: TRIANGLE, fill: "amber-fill" }),
  failed: mark("failed", "something broke", 2, { d: DIAMOND, fill: "red-fill" }),
  skipped: waveMarks.skipped,
};

export const runMarks: Record<Schemas["RunState"], Mark> = {
  queued: waveMarks.waiting,
  running: rolloutMarks.running,
  released: mark("released", "a version was signed and released", 0, { d: "M1.6 6.4 4.8 9.6 10.6 2.6", stroke: "n4" }),
  refused: stepMarks.refused,
  failed: stepMarks.failed,
  cancelled: rolloutMarks.aborted,
};

export const severityMarks: Record<Schemas["Severity"], Mark> = {
  info: mark("info", "nobody is needed", 0, { d: "M4.5 4.5h3v3h-3z", fill: "n2" }),
  warning: mark("look", "should be looked at", 1, { d: TRIANGLE, fill: "amber-fill" }),
  critical: mark("act", "needs somebody now", 2, { d: DIAMOND, fill: "red-fill" }),
};

export const versionMarks: Record<Schemas["ModelVersionState"], Mark> = {
  candidate: mark("from outside", "brought by a person; no device gets it before a night has adapted and judged it", 0, { d: circle, stroke: "n2", dash: true }),
  blessed: mark("released", "signed, not rolled out yet", 0, { d: circle, stroke: "n3" }),
  "rolling-out": mark("rolling out", "a rollout of it is under way", 0, ...rolloutMarks.running.strokes),
  promoted: rolloutMarks.promoted,
  superseded: rolloutMarks.superseded,
  rejected: mark("rejected", "its rollout failed or was aborted", 1, { d: TRIANGLE, fill: "amber-fill" }),
  revoked: mark("revoked", "must not run", 2, { d: DIAMOND, fill: "red-fill" }),
};

/** A state the console does not know yet, from a newer hub. */
export const strange = (state: string): Mark => mark(state, "not known to this console", 0, { d: circle, stroke: "n2", dash: true });
