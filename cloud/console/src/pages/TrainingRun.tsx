import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { trainingRun } from "../api/queries";
import { absolute, between, count, many, num, seconds, short } from "../lib/format";
import { GateTable } from "../parts/GateTable";
import { Graph } from "../parts/Graph";
import { runMarks, severityMarks, stepMarks, strange } from "../parts/marks";
import { Digest, Facts, Head, Loaded, Nothing, Panel, Scroll, When } from "../parts/page";
import table from "../parts/parts.module.css";
import { ReasonDialog, type Action } from "../parts/ReasonDialog";
import { Shape, StateMark } from "../parts/StateMark";
import { Button } from "../ui/controls";
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
          </Head>
          <div className={css.above}>
            <Steps run={r} />
          </div>
          <div className={css.columns} data-split="3-1">
            <div className={css.stack}>
              {r.status.refusals.length > 0 && (
                <Panel title="Why nothing was released">
                  <ul className={css.refusals}>
                    {r.status.refusals.map((x) => (
                      <li key={x}>
                        <Shape mark={severityMarks.warning} /> {x}
                      </li>
                    ))}
                  </ul>
                </Panel>
              )}
              <Panel title="Quality gates" flush>
                <GateTable gates={r.status.gates} caption="Quality gates of the run" />
              </Panel>
              <Panel title="Candidates" flush>
                <Candidates candidates={r.status.candidates ?? []} />
              </Panel>
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
          {shown.log && shown.log.length > 0 && (
            <ol className={css.lines} tabIndex={0} aria-label={`Log of ${shown.name}`}>
              {shown.log.map((l, i) => (
                <li key={i}>
                  <span>{absolute(l.at).slice(11)}</span>
                  <span>{l.level ?? ""}</span>
                  {l.message}
                </li>
              ))}
            </ol>
          )}
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

function Candidates({ candidates }: { candidates: Schemas["Candidate"][] }) {
  if (candidates.length === 0) return <Nothing>None was evaluated.</Nothing>;
  const names = [...new Set(candidates.flatMap((c) => c.metrics.filter((m) => !m.slice).map((m) => m.name)))];
  return (
    <Scroll label="Candidates">
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">Detector</th>
            {names.map((n) => (
              <th key={n} scope="col" data-num>
                {n.replaceAll("_", " ")}
              </th>
            ))}
            <th scope="col">Why</th>
          </tr>
        </thead>
        <tbody>
          {candidates.map((c) => (
            <tr key={c.detector}>
              <th scope="row">
                {c.detector}
                {c.chosen && " (chosen)"}
              </th>
              {names.map((n) => {
                const m = c.metrics.find((x) => x.name === n && !x.slice);
                return (
                  <td key={n} data-num>
                    {num(m?.value)} {m?.unit ?? ""}
                  </td>
                );
              })}
              <td className={table.prose}>{c.message ?? "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
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
