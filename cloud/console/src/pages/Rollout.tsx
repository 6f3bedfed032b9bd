import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useCallback, useMemo, useState, type ToggleEvent } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { rollout, rolloutDecision, rolloutDecisions, rolloutDevices } from "../api/queries";
import { absolute, between, count, many, seconds } from "../lib/format";
import { gateLines } from "../lib/history";
import { budgetWords } from "../lib/policy";
import { ProgressBar } from "../parts/Bar";
import { GatePlots } from "../parts/GatePlots";
import { GateTable } from "../parts/GateTable";
import { HeatGrid } from "../parts/HeatGrid";
import { rolloutDeviceMarks, rolloutMarks, waveMarks } from "../parts/marks";
import { Digest, Facts, Head, Loaded, Nothing, Panel, When } from "../parts/page";
import { BudgetTable, WindowList } from "../parts/PreviewParts";
import { Replay } from "../parts/Replay";
import { ReasonDialog, type Action } from "../parts/ReasonDialog";
import { StateMark } from "../parts/StateMark";
import { VirtualTable, type Column } from "../parts/VirtualTable";
import { Button, Segmented } from "../ui/controls";
import { useNow } from "../ui/useNow";
import css from "./pages.module.css";
import { ended } from "./Rollouts";

type Rollout = Schemas["Rollout"];

export function RolloutPage() {
  const { name } = useParams({ from: "/rollouts/$name" });
  const query = useQuery(rollout(name));
  const [picked, setPicked] = useState<number>();
  return (
    <Loaded query={query}>
      {(r) => {
        const wave = picked ?? r.status.currentWave ?? lastBegun(r);
        const shown = r.status.waves[wave];
        return (
          <>
            <Head title={r.metadata.name} trail={<><Link to="/rollouts">Rollouts</Link> / </>} sentence={`${r.spec.release.id}: ${r.status.message}`} alarm={rolloutMarks[r.status.state]?.alarm ?? 0}>
              <Actions rollout={r} />
            </Head>
            <div className={css.columns} data-split="3-1">
              <div className={css.stack}>
                <Panel title="Waves" aside={<StateMark state={r.status.state} marks={rolloutMarks} />}>
                  <Waves rollout={r} shown={wave} onPick={setPicked} />
                </Panel>
                <Panel title={shown ? `Gates of wave ${wave + 1}, ${shown.name}` : "Gates"} flush aside={shown && <StateMark state={shown.state} marks={waveMarks} />}>
                  <GateTable gates={shown?.gates ?? []} caption="Gates with value, threshold, count and verdict" />
                </Panel>
                <Timeline name={name} wave={wave} gates={ended(r.status.state) ? undefined : shown?.gates} />
                {ended(r.status.state) && <Replay name={name} policy={r.spec.policy} />}
                <Devices name={name} waves={r.status.waves} />
                <Decisions name={name} />
              </div>
              <div className={css.stack}>
                <Panel title="Impact on production">
                  <Facts
                    facts={[
                      ["Production stopped", seconds(r.status.productionStoppedSeconds)],
                      ["Windows scored meanwhile", count(r.status.windowsScored)],
                      ["Windows lost", count(r.status.windowsLost)],
                    ]}
                  />
                </Panel>
                <Panel title="Rollout">
                  <Facts
                    facts={[
                      ["Release", <Link to="/models/$name/$counter" params={{ name: r.spec.release.name, counter: String(r.spec.release.counter) }}>{r.spec.release.id}</Link>],
                      ["Digest", <Digest of={r.spec.release.digest} />],
                      ["Rolls back to", r.status.rollbackTo?.id],
                      ["Policy", r.spec.policy],
                      ["Fleet", r.spec.policySpec?.selector || (r.spec.policySpec ? "every device" : undefined)],
                      ["Started by", r.spec.startedBy],
                      ["Reason", r.spec.reason],
                      ["Started", <When at={r.status.startedAt} />],
                      ["Took", <Took rollout={r} />],
                      ["Looks again", ended(r.status.state) ? undefined : <When at={r.status.wakeAt} />],
                    ]}
                  />
                </Panel>
                {r.status.windows && r.status.windows.length > 0 && (
                  <Panel title="Maintenance windows">
                    <WindowList windows={r.status.windows} />
                  </Panel>
                )}
                {r.spec.policySpec?.budgets && r.spec.policySpec.budgets.length > 0 && (
                  <Panel title="Disruption budget" flush={r.status.budgets !== undefined} aside={r.status.budgets && r.spec.policySpec.budgets.map(budgetWords).join("; ")}>
                    {r.status.budgets ? <BudgetTable groups={r.status.budgets} narrow /> : <Facts facts={r.spec.policySpec.budgets.map((b) => [`per ${b.groupBy}`, budgetWords(b)])} />}
                  </Panel>
                )}
              </div>
            </div>
          </>
        );
      }}
    </Loaded>
  );
}

/** How the gates of a wave moved from decision to decision, and where they are now; gates is undefined after the end. */
function Timeline({ name, wave, gates }: { name: string; wave: number; gates: Schemas["Gate"][] | undefined }) {
  const query = useQuery(rolloutDecisions(name));
  const lines = useMemo(() => gateLines(query.data?.items ?? [], wave, gates ?? []), [query.data, wave, gates]);
  if (lines.length === 0) return null;
  return (
    <Panel title="How the gates moved" aside="from decision to decision; the dashed line is the threshold, or what the evidence has to reach">
      <GatePlots lines={lines} />
    </Panel>
  );
}

function lastBegun(r: Rollout): number {
  const i = r.status.waves.findLastIndex((w) => w.state !== "waiting" && w.state !== "skipped");
  return Math.max(0, i);
}

function Took({ rollout: r }: { rollout: Rollout }) {
  return <>{between(r.status.startedAt, r.status.endedAt, useNow())}</>;
}

function Waves({ rollout: r, shown, onPick }: { rollout: Rollout; shown: number; onPick: (i: number) => void }) {
  const now = useNow();
  if (r.status.waves.length === 0) return <Nothing>Planned when the rollout begins.</Nothing>;
  return (
    <div className={css.waves} role="group" aria-label="Waves">
      {r.status.waves.map((w, i) => (
        <button key={w.name} type="button" className={css.wave} aria-pressed={i === shown} onClick={() => onPick(i)}>
          <span className={css.waveHead}>
            <b>
              {i + 1} {w.name}
            </b>
            <StateMark state={w.state} marks={waveMarks} />
          </span>
          <ProgressBar counts={w.counts} />
          <small>
            {w.counts.devices === 0 && w.state === "waiting" ? "devices not drawn yet" : `${count(w.counts.done)} of ${many(w.counts.devices, "device")}`}
            {w.counts.failed > 0 && `, ${count(w.counts.failed)} failed or rolled back`}
            {w.counts.returned > 0 && `, ${count(w.counts.returned)} called back`}
            {w.counts.kept > 0 && `, ${count(w.counts.kept)} keep it: there is none before`}
          </small>
          <small>{waveTime(w, now)}</small>
        </button>
      ))}
    </div>
  );
}

/** What a wave waits for, or how long it took. */
export function waveTime(w: Schemas["Wave"], now: number): string {
  const needed = (w.approvalsNeeded ?? 0) - (w.approvals?.length ?? 0);
  if (needed > 0 && w.state === "waiting") return `needs ${needed} ${needed === 1 ? "approval" : "approvals"}`;
  if (w.state === "soaking" && w.soakUntil) {
    const left = (Date.parse(w.soakUntil) - now) / 1000;
    return left > 0 ? `soaks ${seconds(left)} more` : "soaked, waits for its gates";
  }
  if (w.endedAt) return `took ${between(w.startedAt, w.endedAt, now)}`;
  if (w.startedAt) return `for ${between(w.startedAt, undefined, now)}`;
  return w.soakSeconds ? `soak ${seconds(w.soakSeconds)}` : "not begun";
}

type Verb = "pause" | "resume" | "abort" | "promote" | "approve" | "undo";

/** What may be done in a state; what the hub would refuse anyway is not offered. */
export function verbs(r: Rollout): Verb[] {
  const s = r.status.state;
  if (s === "promoted") return r.status.rollbackTo ? ["undo"] : [];
  if (ended(s) || s === "rolling-back") return [];
  if (s === "queued") return ["abort"];
  const out: Verb[] = [];
  if (s === "waiting" || r.status.waves.some((w) => w.state === "waiting" && (w.approvalsNeeded ?? 0) > (w.approvals?.length ?? 0) && r.status.currentWave === r.status.waves.indexOf(w))) out.push("approve");
  // And what a wave did, once its other gates have passed, where the policy asks for it.
  const gates = r.status.currentWave === undefined ? [] : (r.status.waves[r.status.currentWave]?.gates ?? []);
  if (!out.includes("approve") && gates.some((g) => g.name === "approval" && g.verdict !== "PASS") && gates.every((g) => g.name === "approval" || g.verdict === "PASS" || g.n === undefined)) out.push("approve");
  // Two waves have to be left: the one on its way, and the next, which would take them all.
  if (s !== "paused" && r.status.currentWave !== undefined && r.status.currentWave + 2 < r.status.waves.length) out.push("promote");
  out.push(s === "paused" ? "resume" : "pause", "abort");
  return out;
}

const wording: Record<Verb, { button: string; effect: string; needs: Schemas["Role"]; danger?: boolean }> = {
  pause: { button: "Pause", effect: "Nothing new is assigned. Devices under way finish or roll back by themselves.", needs: "operator" },
  resume: { button: "Resume", effect: "The rollout goes on where it stands.", needs: "operator" },
  abort: { button: "Abort", effect: "The rollout ends. Devices that took the release return to the last promoted one; production goes on meanwhile.", needs: "operator", danger: true },
  promote: { button: "Promote", effect: "The wave after this one takes all devices that are left. Every gate still has to pass.", needs: "approver" },
  approve: { button: "Approve", effect: "Your approval is counted: for the wave that waits to begin, or for what the wave on its way did.", needs: "approver" },
  undo: { button: "Undo", effect: "Every device that took the release goes back to the one before, within its budget; production goes on meanwhile.", needs: "operator", danger: true },
};

function Actions({ rollout: r }: { rollout: Rollout }) {
  const { role } = useSession();
  const queries = useQueryClient();
  const [action, setAction] = useState<Action>();
  const name = r.metadata.name;
  const call = (verb: Verb, reason: string, dryRun: boolean) => {
    const init = { params: { path: { name }, query: { reason, ...(dryRun ? { dryRun } : {}) } } };
    const calls = {
      pause: () => client.POST("/rollouts/{name}/actions/pause", init),
      resume: () => client.POST("/rollouts/{name}/actions/resume", init),
      abort: () => client.POST("/rollouts/{name}/actions/abort", init),
      promote: () => client.POST("/rollouts/{name}/actions/promote", init),
      approve: () => client.POST("/rollouts/{name}/actions/approve", init),
      undo: () => client.POST("/rollouts/{name}/actions/undo", init),
    };
    return ask<Rollout>(calls[verb]());
  };
  const run = async (verb: Verb, reason: string) => {
    const after = await call(verb, reason, false);
    queries.setQueryData(rollout(name).queryKey, after);
    await queries.invalidateQueries({ queryKey: ["Rollout"] });
  };
  return (
    <>
      {verbs(r).map((v) => {
        const w = wording[v];
        const why = forbidden(role, w.needs);
        return (
          <Button
            key={v}
            tone={v === "approve" ? "main" : "quiet"}
            disabled={why !== undefined}
            why={why}
            onClick={() => why === undefined && setAction({ title: `${w.button} ${name}`, effect: w.effect, button: `${w.button} rollout`, danger: w.danger, follows: () => call(v, "what would follow", true).then((after) => follows(r, after)), run: (reason) => run(v, reason) })}
          >
            {w.button}
          </Button>
        );
      })}
      <ReasonDialog action={action} onClose={() => setAction(undefined)} />
    </>
  );
}

/** What a trial run of an action says would become of a rollout. */
export function follows(before: Rollout, after: Rollout): string[] {
  const mark = (s: Schemas["RolloutState"]) => rolloutMarks[s]?.label ?? s;
  const out = [before.status.state === after.status.state ? `It stays “${mark(after.status.state)}”: ${after.status.message}` : `It would be “${mark(after.status.state)}”: ${after.status.message}`];
  const { done, inFlight } = before.status.counts;
  if (after.status.state === "rolling-back" && done + inFlight > 0)
    out.push(after.status.rollbackTo ? `${many(done + inFlight, "device")} that run it or have it on trial return to ${after.status.rollbackTo.id}.` : `${many(inFlight, "device")} drop their trial; there is no release before to return to.`);
  after.status.waves.forEach((w, i) => {
    const old = before.status.waves[i];
    const given = (w.approvals?.length ?? 0) - (old?.approvals?.length ?? 0);
    if (given > 0) out.push(`Wave ${i + 1} would have ${w.approvals?.length} of ${many(w.approvalsNeeded ?? 0, "approval")}.`);
  });
  if (after.status.waves.length < before.status.waves.length) out.push(`${many(after.status.waves.length, "wave")} instead of ${before.status.waves.length}.`);
  return out;
}

type RD = Schemas["RolloutDevice"];

function Devices({ name, waves }: { name: string; waves: Schemas["Wave"][] }) {
  const query = useQuery(rolloutDevices(name));
  const navigate = useNavigate();
  const [view, setView] = useState<"grid" | "table">("grid");
  const [by, setBy] = useState<"line" | "wave">("line");
  const waveName = (i: number) => (i < 0 ? "late or excluded" : `${i + 1} ${waves[i]?.name ?? ""}`);
  const items = useMemo(
    () =>
      (query.data ?? []).map((d) => ({
        id: d.name,
        group: by === "wave" ? (d.wave < 0 ? "no wave" : `wave ${d.wave + 1}`) : (d.line ?? d.name.split("/")[0]!),
        state: d.state,
        title: [rolloutDeviceMarks[d.state]?.label ?? d.state, d.phase?.replaceAll("_", " "), d.wave >= 0 ? `wave ${d.wave + 1}` : undefined, d.reason].filter(Boolean).join(" · "),
      })),
    [query.data, by],
  );
  const columns: Column<RD>[] = [
    { title: "Device", width: "minmax(130px, 1.2fr)", cell: (d) => <DeviceLink name={d.name} /> },
    { title: "State", width: "110px", cell: (d) => <StateMark state={d.state} marks={rolloutDeviceMarks} /> },
    { title: "Wave", width: "100px", cell: (d) => waveName(d.wave) },
    { title: "Line", width: "70px", cell: (d) => d.line ?? "–" },
    { title: "Attested", width: "110px", cell: (d) => <Digest of={d.attestedDigest} /> },
    { title: "Both scored", width: "84px", number: true, cell: (d) => count(d.windows) },
    { title: "Only challenger", width: "104px", number: true, cell: (d) => count(d.onlyChallenger) },
    { title: "Only champion", width: "100px", number: true, cell: (d) => count(d.onlyChampion) },
    { title: "Why", width: "minmax(120px, 2fr)", cell: (d) => <span title={d.reason}>{d.reason ?? "–"}</span> },
  ];
  return (
    <Panel
      title="Devices"
      aside={
        <>
          {view === "grid" && <Segmented label="Rows" value={by} onChange={setBy} options={[{ value: "line", label: "By line" }, { value: "wave", label: "By wave" }]} />}
          <Segmented label="View" value={view} onChange={setView} options={[{ value: "grid", label: "Grid" }, { value: "table", label: "Table" }]} />
        </>
      }
    >
      <Loaded query={query}>
        {(all) =>
          all.length === 0 ? (
            <Nothing>No device is part of it yet.</Nothing>
          ) : view === "grid" ? (
            <HeatGrid items={items} marks={rolloutDeviceMarks} onOpen={(id) => void navigate(deviceRoute(id))} />
          ) : (
            <VirtualTable label="Devices of the rollout" rows={all} columns={columns} rowKey={(d) => d.name} />
          )
        }
      </Loaded>
    </Panel>
  );
}

function deviceRoute(name: string) {
  const [site = "", node = ""] = name.split("/");
  return { to: "/fleet/$site/$node", params: { site, node } } as const;
}

function DeviceLink({ name }: { name: string }) {
  return <Link {...deviceRoute(name)}>{name}</Link>;
}

function Decisions({ name }: { name: string }) {
  const query = useQuery(rolloutDecisions(name));
  return (
    <Panel title="Why: the decisions" aside="newest first, each with the evidence it was made on" flush>
      <Loaded query={query}>
        {({ items }) =>
          items.length === 0 ? (
            <Nothing>Nothing has been decided yet.</Nothing>
          ) : (
            <ol className={css.log}>
              {items.map((d) => (
                <li key={d.id}>
                  <time dateTime={d.at} title={absolute(d.at)}>
                    {absolute(d.at).slice(11)}
                  </time>
                  <StateMark state={d.state} marks={rolloutMarks} />
                  <div>
                    {d.summary}
                    {d.reasons && d.reasons.length > 0 && (
                      <ul className={css.why}>
                        {d.reasons.map((r) => (
                          <li key={r}>{r}</li>
                        ))}
                      </ul>
                    )}
                  </div>
                  <Evidence name={name} decision={d} />
                </li>
              ))}
            </ol>
          )
        }
      </Loaded>
    </Panel>
  );
}

/** What a decision rested on, read when somebody opens it. */
function Evidence({ name, decision: d }: { name: string; decision: Schemas["RolloutDecision"] }) {
  const [open, setOpen] = useState(false);
  const toggle = useCallback((e: ToggleEvent<HTMLDetailsElement>) => setOpen(e.currentTarget.open), []);
  return (
    <details onToggle={toggle}>
      <summary>Evidence</summary>
      {open && (
        <>
          <Facts
            wide
            facts={[
              ["By", d.actor ?? "the planner"],
              ["Wave", d.wave === undefined ? undefined : String((d.gatesWave ?? d.wave) + 1)],
              ["Assigned", d.assigned?.length ? many(d.assigned.length, "device") : "none"],
              ["Called back", d.revoked?.length ? many(d.revoked.length, "device") : "none"],
              ["Looks again", d.wakeAt && absolute(d.wakeAt)],
            ]}
          />
          {d.gates.length > 0 && <GateTable gates={d.gates} caption={`Gates as they stood at ${absolute(d.at)}`} />}
          <Stored name={name} id={d.id} />
        </>
      )}
    </details>
  );
}

function Stored({ name, id }: { name: string; id: string }) {
  const query = useQuery(rolloutDecision(name, id));
  return (
    <Loaded query={query}>
      {(d) =>
        d.evidence ? (
          <>
            <Facts facts={[["Snapshot", <Digest of={d.snapshotDigest} />]]} />
            <pre className={css.evidence} tabIndex={0}>
              {excerpt(JSON.stringify({ assigned: d.assigned, revoked: d.revoked, ...d.evidence }, null, 2))}
            </pre>
          </>
        ) : (
          <Nothing>The hub that decided this did not keep what it rested on.</Nothing>
        )
      }
    </Loaded>
  );
}

// A browser lays out a megabyte of text in a blink and a hundred of them never.
const MOST = 1_000_000;

function excerpt(text: string): string {
  return text.length <= MOST ? text : `${text.slice(0, MOST)}\n… ${count(text.length - MOST)} more characters: “swellctl rollout why -o json” has all of them`;
}
