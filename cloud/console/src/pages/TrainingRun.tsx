import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { trainingLogs, trainingRun } from "../api/queries";
import { absolute, between, count, many, seconds, short } from "../lib/format";
import { Candidates } from "../parts/Scatter";
import { GateTable } from "../parts/GateTable";
import { Graph } from "../parts/Graph";
import { runMarks, severityMarks, stepMarks, strange } from "../parts/marks";
import { Digest, Facts, Failure, Head, Loaded, Nothing, Panel, When } from "../parts/page";
import table from "../parts/parts.module.css";
import { ReasonDialog, type Action } from "../parts/ReasonDialog";
import { Shape, StateMark } from "../parts/StateMark";
import { Button, SelectField } from "../ui/controls";
import { useNow } from "../ui/useNow";
import css from "./pages.module.css";
import { sentence } from "./Training";

type Run = Schemas["TrainingRun"];

export function TrainingRunPage() {
  const { name } = useParams({ from: "/training/$name" });
  const query = useQuery(trainingRun(name));
  return (
    <Loaded query={query}>
      {(r) => (
        <>
          <Head title={r.metadata.name} trail={<><Link to="/training">Training</Link> / </>} sentence={sentence([r])} alarm={runMarks[r.status.state]?.alarm ?? 0}>
            <Cancel run={r} />
            <Rerun run={r} />
          </Head>
          {r.status.refusals.length > 0 && (
            <div className={css.above}>
              <Panel title={r.status.release ? "What got no new model, and why" : "Why nothing was released"}>
                <ul className={css.refusals}>
                  {r.status.refusals.map((x) => (
                    <li key={x}>
                      <Shape mark={severityMarks.warning} /> {x}
                    </li>
                  ))}
                </ul>
              </Panel>
            </div>
          )}
          <div className={css.above}>
            <Steps run={r} />
          </div>
          <div className={css.columns} data-split="3-1">
            <div className={css.stack}>
              <Panel title="Candidates" aside="found and false alarms on rows that nobody learned from">
                {!r.status.candidates && !r.status.endedAt ? <Nothing>None has been evaluated yet.</Nothing> : <Candidates candidates={r.status.candidates ?? []} />}
              </Panel>
              {(r.status.data?.gates?.length ?? 0) > 0 && (
                <Panel title="Data gates" aside="is the data fit to learn from" flush>
                  <GateTable gates={worstFirst(r.status.data?.gates ?? [])} caption="Data gates of the run" />
                </Panel>
              )}
              <QualityGates run={r} />
            </div>
            <div className={css.stack}>
              <Panel title="Run" aside={<StateMark state={r.status.state} marks={runMarks} />}>
                <Facts
                  facts={[
                    ["Policy", r.spec.policy],
                    ["Trigger", r.spec.trigger],
                    ["Started by", r.spec.startedBy],
                    ["Reason", r.spec.reason],
                    ["Release", r.status.release ? <Link to="/models/$name/$counter" params={{ name: r.status.release.name, counter: String(r.status.release.counter) }}>{r.status.release.id}</Link> : undefined],
                    ["Rollout", r.status.rollout ? <Link to="/rollouts/$name" params={{ name: r.status.rollout }}>{r.status.rollout}</Link> : undefined],
                    ["Started", <When at={r.status.startedAt} />],
                    ["Took", <Took of={r.status} />],
                    ["CPU time", seconds(r.status.cost?.cpuSeconds)],
                    ["Most memory", r.status.cost?.peakMiB === undefined ? undefined : `${count(r.status.cost.peakMiB)} MiB`],
                    ["Data from", r.spec.from && absolute(r.spec.from)],
                    ["to", r.spec.to && absolute(r.spec.to)],
                    ["Seed", r.spec.seed === undefined ? undefined : String(r.spec.seed)],
                  ]}
                />
              </Panel>
              <Data data={r.status.data} />
            </div>
          </div>
        </>
      )}
    </Loaded>
  );
}

function Took({ of: { startedAt, endedAt } }: { of: { startedAt?: string; endedAt?: string } }) {
  return <>{between(startedAt, endedAt, useNow())}</>;
}

function Steps({ run }: { run: Run }) {
  const now = useNow();
  const steps = run.status.steps;
  const [picked, setPicked] = useState<string>();
  const shown = steps.find((s) => s.name === picked) ?? steps.find((s) => s.state === "failed" || s.state === "refused") ?? steps.find((s) => s.state === "running") ?? steps.find((s) => s.name === "evaluate" && s.state === "done") ?? steps.findLast((s) => s.state === "done");
  const timeOf = (s: Schemas["TrainingStep"]) => (s.cached ? "cached" : s.startedAt ? between(s.startedAt, s.endedAt, now) : s.state === "skipped" ? "skipped" : "");
  return (
    <Panel title="Steps">
      {steps.length === 0 ? (
        <Nothing>Not planned yet.</Nothing>
      ) : (
        <Graph
          label="Steps of the run"
          boxes={steps.map((s) => ({
            id: s.name,
            after: s.after,
            // "train/pca" is one of the competing steps of "train".
            title: s.name.split("/").at(-1)!,
            mark: stepMarks[s.state] ?? strange(s.state),
            line: [s.name.includes("/") ? s.name.split("/")[0] : "", timeOf(s)].filter(Boolean).join(" · "),
            onClick: () => setPicked(s.name),
            selected: s === shown,
          }))}
        />
      )}
      {shown && (
        <>
          <p className={css.verdict}>
            <StateMark state={shown.state} marks={stepMarks} /> {shown.name}
            {(shown.attempts ?? 1) > 1 && `, attempt ${shown.attempts}`}
          </p>
          {shown.summary && <p>{shown.summary}</p>}
          {shown.reasons && (
            <ul className={css.why}>
              {shown.reasons.map((x) => (
                <li key={x}>{x}</li>
              ))}
            </ul>
          )}
          {shown.outputs && Object.keys(shown.outputs).length > 0 && <Facts wide facts={Object.entries(shown.outputs).map(([k, v]) => [k, <span title={v}>{v.startsWith("sha256:") ? short(v) : v}</span>])} />}
          {shown.cost && (
            <p>
              <small className={css.quiet}>
                {seconds(shown.cost.cpuSeconds)} CPU, {seconds(shown.cost.wallSeconds)} on the clock{shown.cost.peakMiB !== undefined && `, at most ${count(shown.cost.peakMiB)} MiB`}
              </small>
            </p>
          )}
          {shown.tasks && shown.tasks.length > 0 && <Tasks step={shown} />}
          <Log key={shown.name} run={run.metadata.name} step={shown} />
        </>
      )}
    </Panel>
  );
}

function Data({ data }: { data: Schemas["DataUse"] | undefined }) {
  if (!data)
    return (
      <Panel title="Data">
        <Nothing>Not extracted yet.</Nothing>
      </Panel>
    );
  const dropped = data.dropped.reduce((n, d) => n + d.windows, 0);
  return (
    <Panel title="Data">
      <Facts
        facts={[
          ["Windows kept", count(data.windows)],
          ["New since last run", count(data.added)],
          ["Windows dropped", count(dropped)],
          ["Devices", count(data.devices)],
          ["Segments", count(data.segments)],
          ["From", data.from && absolute(data.from)],
          ["To", data.to && absolute(data.to)],
          ["Snapshot", <Digest of={data.snapshot} />],
        ]}
      />
      {data.dropped.length > 0 && (
        <>
          <h3 className={css.dropHead}>Dropped, and why</h3>
          <Facts facts={data.dropped.map((d) => [d.reason, `${count(d.windows)}${d.devices === undefined ? "" : ` · ${many(d.devices, "device")}`}`])} />
        </>
      )}
    </Panel>
  );
}

/** What somebody must look at stands on top. */
const worstFirst = (gates: Schemas["Gate"][]) => {
  const order = { FAIL: 0, INCONCLUSIVE: 1, PASS: 2 };
  return [...gates].sort((a, b) => order[a.verdict] - order[b.verdict]);
};

/** The winners' gates; those of candidates that lost are folded away, unless nobody won. */
function QualityGates({ run: r }: { run: Run }) {
  const won = (g: Schemas["Gate"]) => (r.status.candidates ?? []).some((c) => c.chosen && c.detector === g.candidate && c.class === g.class);
  const first = r.status.gates.filter((g) => won(g) || !g.candidate);
  const rest = r.status.gates.filter((g) => !won(g) && g.candidate);
  return (
    <Panel title="Quality gates" aside={first.length > 0 ? "is the winner good enough" : "nobody was good enough"} flush>
      <GateTable gates={worstFirst(first.length > 0 ? first : rest)} caption="Quality gates of the run" />
      {first.length > 0 && rest.length > 0 && (
        <details className={css.folded}>
          <summary>{many(rest.length, "gate")} of candidates that did not win</summary>
          <GateTable gates={worstFirst(rest)} caption="Quality gates of the other candidates" />
        </details>
      )}
    </Panel>
  );
}

const MOST_TASKS = 12;

/** The tasks that workers take of a step: how many are over, and those that matter now. */
function Tasks({ step }: { step: Schemas["TrainingStep"] }) {
  const now = useNow();
  const tasks = step.tasks ?? [];
  const order = { failed: 0, refused: 1, running: 2, waiting: 3, done: 4, skipped: 5 };
  const shown = [...tasks].sort((a, b) => order[a.state] - order[b.state]).slice(0, MOST_TASKS);
  const over = tasks.filter((t) => t.state !== "waiting" && t.state !== "running").length;
  return (
    <>
      <div className={table.progress} role="progressbar" aria-label={`Tasks of ${step.name}`} aria-valuemin={0} aria-valuemax={tasks.length} aria-valuenow={over}>
        <span style={{ width: `${(over / tasks.length) * 100}%`, background: "var(--n4)" }} />
      </div>
      <ul className={css.tasks} aria-label={`Tasks of ${step.name}`}>
        {shown.map((t) => (
          <li key={t.name}>
            <StateMark state={t.state} marks={stepMarks} />
            <span>
              {t.name}
              {t.message && <small> {t.message}</small>}
            </span>
            <small>{between(t.startedAt, t.endedAt, now)}</small>
          </li>
        ))}
      </ul>
      <p>
        <small className={css.quiet}>
          {count(over)} of {many(tasks.length, "task")} over{tasks.length > MOST_TASKS && `; ${count(tasks.length - MOST_TASKS)} are not shown`}
        </small>
      </p>
    </>
  );
}

/** What a step says, as it says it. */
function Log({ run, step }: { run: string; step: Schemas["TrainingStep"] }) {
  const query = useQuery({ ...trainingLogs(run, step.name), enabled: step.startedAt !== undefined || step.state === "running" });
  const lines = query.data?.items ?? step.log ?? [];
  const end = useRef<HTMLOListElement>(null);
  useEffect(() => {
    if (step.state === "running") end.current?.scrollTo({ top: end.current.scrollHeight });
  }, [lines.length, step.state]);
  if (query.error && lines.length === 0) return <Failure error={query.error} retry={() => void query.refetch()} />;
  if (lines.length === 0) return null;
  return (
    <ol ref={end} className={css.lines} tabIndex={0} aria-label={`Log of ${step.name}`}>
      {lines.map((l, i) => (
        <li key={i}>
          <span>{absolute(l.at).slice(11)}</span>
          <span>{l.level ?? ""}</span>
          {l.message}
        </li>
      ))}
    </ol>
  );
}

/** Repeats an ended run from a step that it came to. */
function Rerun({ run: r }: { run: Run }) {
  const { role } = useSession();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [action, setAction] = useState<Action>();
  const reached = r.status.steps.filter((s) => s.state !== "skipped" && s.state !== "waiting").map((s) => s.name);
  const [picked, setPicked] = useState<string>();
  if (r.status.state === "running" || r.status.state === "queued" || reached.length === 0) return null;
  const from = picked && reached.includes(picked) ? picked : reached[0]!;
  const why = forbidden(role, "operator");
  const name = r.metadata.name;
  return (
    <>
      <SelectField label="Step to begin again at" hideLabel value={from} onChange={setPicked} options={reached.map((s) => ({ value: s, label: `from ${s}` }))} width={170} />
      <Button
        disabled={why !== undefined}
        why={why}
        onClick={() =>
          why === undefined &&
          setAction({
            title: `Rerun ${name} from ${from}`,
            effect: `A new run keeps what the steps before ${from} found and does the rest again. What it blesses is released and rolled out as on any night.`,
            button: "Rerun",
            run: async (reason) => {
              const again = await ask(client.POST("/training-runs/{name}/actions/rerun", { params: { path: { name }, query: { reason } }, body: { from } }));
              await queries.invalidateQueries({ queryKey: ["TrainingRun"] });
              void navigate({ to: "/training/$name", params: { name: again.metadata.name } });
            },
          })
        }
      >
        Rerun
      </Button>
      <ReasonDialog action={action} onClose={() => setAction(undefined)} />
    </>
  );
}

function Cancel({ run: r }: { run: Run }) {
  const { role } = useSession();
  const queries = useQueryClient();
  const [action, setAction] = useState<Action>();
  if (r.status.state !== "running" && r.status.state !== "queued") return null;
  const why = forbidden(role, "operator");
  const name = r.metadata.name;
  return (
    <>
      <Button
        disabled={why !== undefined}
        why={why}
        onClick={() =>
          why === undefined &&
          setAction({
            title: `Cancel ${name}`,
            effect: "The run ends after the step it is in. Nothing is released.",
            button: "Cancel run",
            danger: true,
            run: async (reason) => {
              await ask(client.POST("/training-runs/{name}/actions/cancel", { params: { path: { name }, query: { reason } } }));
              await queries.invalidateQueries({ queryKey: ["TrainingRun"] });
            },
          })
        }
      >
        Cancel
      </Button>
      <ReasonDialog action={action} onClose={() => setAction(undefined)} />
    </>
  );
}
