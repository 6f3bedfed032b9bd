import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { retrainPolicies, trainingRun, trainingRuns } from "../api/queries";
import { between, count, many, seconds } from "../lib/format";
import { BackfillDialog } from "../parts/Backfill";
import { runMarks } from "../parts/marks";
import { Facts, Head, Loaded, Nothing, Panel, Scroll, When } from "../parts/page";
import table from "../parts/parts.module.css";
import { ReasonDialog, type Action } from "../parts/ReasonDialog";
import { StateMark } from "../parts/StateMark";
import { Button } from "../ui/controls";
import { useNow } from "../ui/useNow";
import css from "./pages.module.css";

type Run = Schemas["TrainingRun"];

export function TrainingPage() {
  const runs = useQuery(trainingRuns());
  const policies = useQuery(retrainPolicies());
  return (
    <Loaded query={runs}>
      {({ items }) => (
        <>
          <Head title="Training" sentence={sentence(items)} alarm={items[0]?.status.state === "failed" ? 2 : items[0]?.status.state === "refused" ? 1 : 0} />
          <div className={css.columns} data-split="3-1">
            <div className={css.stack}>
              <AtWork runs={items.filter(going)} />
              <Panel title="Last nights" flush>
                <Runs runs={items} />
              </Panel>
            </div>
            <div className={css.stack}>
              <Loaded query={policies}>
                {(p) => (
                  <>
                    {p.items.length === 0 && (
                      <Panel title="Policies">
                        <Nothing>No retrain policy. “swellctl apply” makes one.</Nothing>
                      </Panel>
                    )}
                    {p.items.map((policy) => (
                      <Policy key={policy.metadata.name} policy={policy} running={items.some((r) => r.spec.policy === policy.metadata.name && going(r))} />
                    ))}
                  </>
                )}
              </Loaded>
            </div>
          </div>
        </>
      )}
    </Loaded>
  );
}

const going = (r: Run) => r.status.state === "running" || r.status.state === "queued";

/** How the newest run went, in one sentence. */
export function sentence(runs: Run[]): string {
  const newest = runs[0];
  if (!newest) return "No night has been trained yet.";
  if (newest.status.summary) return newest.status.summary;
  const step = newest.status.steps.find((s) => s.state === "running");
  switch (newest.status.state) {
    case "queued":
      return `${newest.metadata.name} waits for its turn.`;
    case "running":
      return `${newest.metadata.name} is at work${step ? `: ${step.name}` : ""}.`;
    case "released":
      return `The last run released ${newest.status.release?.id ?? "a version"}.`;
    case "refused":
      return `The last run released nothing: ${newest.status.refusals[0] ?? "a gate refused"}`;
    case "failed":
      return "The last run failed.";
    default:
      return "The last run was cancelled.";
  }
}

/** How much of a run is done, 0 to 1: its steps, and of the one at work its tasks. */
export function share(r: Run): number {
  const steps = r.status.steps;
  if (steps.length === 0) return 0;
  const done = (x: { state: string }) => x.state !== "waiting" && x.state !== "running";
  return steps.reduce((n, s) => n + (done(s) ? 1 : s.tasks?.length ? s.tasks.filter(done).length / s.tasks.length : 0), 0) / steps.length;
}

/** Runs that are going, and those that wait for their turn. */
function AtWork({ runs }: { runs: Run[] }) {
  if (runs.length === 0) return null;
  return (
    <Panel title="At work and waiting">
      {runs.map((r) => (
        <Working key={r.metadata.name} listed={r} />
      ))}
    </Panel>
  );
}

/** One run that is going; the list has no tasks, so it is asked for by itself. */
function Working({ listed }: { listed: Run }) {
  const r = useQuery(trainingRun(listed.metadata.name)).data ?? listed;
  const now = useNow();
  const done = share(r);
  const step = r.status.steps.find((s) => s.state === "running");
  const tasks = step?.tasks ?? [];
  const over = tasks.filter((t) => t.state !== "waiting" && t.state !== "running").length;
  return (
    <div className={css.going}>
      <div className={css.goingHead}>
        <Link to="/training/$name" params={{ name: r.metadata.name }}>
          {r.metadata.name}
        </Link>
        <StateMark state={r.status.state} marks={runMarks} />
      </div>
      <div className={table.progress} role="progressbar" aria-label={`Progress of ${r.metadata.name}`} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(done * 100)}>
        <span style={{ width: `${done * 100}%`, background: "var(--n4)" }} />
      </div>
      <p>{step ? `Step ${step.name}${tasks.length > 0 ? `: ${over} of ${tasks.length} tasks` : ""}${step.summary ? `: ${step.summary}` : ""}` : r.status.state === "queued" ? "waits for its turn" : "between two steps"}{r.status.startedAt && `, ${between(r.status.startedAt, undefined, now)} so far`}</p>
    </div>
  );
}

function Runs({ runs }: { runs: Run[] }) {
  const now = useNow();
  if (runs.length === 0) return <Nothing>None yet.</Nothing>;
  return (
    <Scroll label="Last nights">
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">Run</th>
            <th scope="col">Outcome</th>
            <th scope="col">Result</th>
            <th scope="col" data-num>
              Windows
            </th>
            <th scope="col" data-num>
              Added
            </th>
            <th scope="col" data-num>
              Dropped
            </th>
            <th scope="col">Trigger</th>
            <th scope="col" data-num>
              Took
            </th>
            <th scope="col" data-num>
              CPU
            </th>
            <th scope="col">Started</th>
          </tr>
        </thead>
        <tbody>
          {runs.map((r) => (
            <tr key={r.metadata.name}>
              <th scope="row">
                <Link to="/training/$name" params={{ name: r.metadata.name }}>
                  {r.metadata.name}
                </Link>
              </th>
              <td>
                <StateMark state={r.status.state} marks={runMarks} />
              </td>
              <td className={table.prose}>{r.status.release?.id ?? r.status.refusals[0] ?? r.status.steps.find((s) => s.state === "running")?.name ?? "–"}</td>
              <td data-num>{count(r.status.data?.windows)}</td>
              <td data-num>{count(r.status.data?.added)}</td>
              <td data-num>{count(r.status.data?.dropped.reduce((n, d) => n + d.windows, 0))}</td>
              <td>{r.spec.trigger}</td>
              <td data-num>{between(r.status.startedAt, r.status.endedAt, now)}</td>
              <td data-num>{seconds(r.status.cost?.cpuSeconds)}</td>
              <td>
                <When at={r.status.startedAt ?? r.status.queuedAt} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Policy({ policy: p, running }: { policy: Schemas["RetrainPolicy"]; running: boolean }) {
  const { role } = useSession();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [action, setAction] = useState<Action>();
  const [filling, setFilling] = useState(false);
  const name = p.metadata.name;
  const denied = forbidden(role, "operator") ?? (p.spec.schedule.cron ? undefined : "It has no schedule that could have missed anything.");
  const why = forbidden(role, "operator") ?? (running ? "A run of this policy is going." : undefined);
  const start: Action = {
    title: `Retrain ${p.spec.model} now`,
    effect: `A run of the policy ${name} begins at once, beside the schedule. What it blesses is released and rolled out as on any night.`,
    button: "Retrain now",
    run: async (reason) => {
      const run = await ask(client.POST("/training-runs", { params: { query: { reason }, header: { "Idempotency-Key": key() } }, body: { policy: name } }));
      await queries.invalidateQueries({ queryKey: ["TrainingRun"] });
      void navigate({ to: "/training/$name", params: { name: run.metadata.name } });
    },
  };
  return (
    <Panel
      title={name}
      aside={
        <span className={css.actions}>
          <Button disabled={denied !== undefined} why={denied} onClick={() => denied === undefined && setFilling(true)}>
            Past nights
          </Button>
          <Button tone="main" disabled={why !== undefined} why={why} onClick={() => why === undefined && setAction(start)}>
            Retrain now
          </Button>
        </span>
      }
    >
      <Facts
        facts={[
          ["Model", p.spec.model],
          ["Next run", p.spec.schedule.paused ? "paused" : <When at={p.status?.nextRunAt} />],
          ["Schedule", <code className={css.mono}>{p.spec.schedule.cron}</code>],
          ["Time zone", p.spec.schedule.timeZone ?? "UTC"],
          ["Learns from", p.spec.selector || "every device"],
          ["Reaches back", p.spec.lookbackHours === undefined ? undefined : many(p.spec.lookbackHours, "hour")],
          ["Competing", p.spec.detectors?.join(", ")],
          ["Rolls out under", p.spec.rolloutPolicy],
        ]}
      />
      <ReasonDialog action={action} onClose={() => setAction(undefined)} />
      <BackfillDialog policy={name} open={filling} onClose={() => setFilling(false)} />
    </Panel>
  );
}

/** A fresh idempotency key. crypto.randomUUID is missing on plain http. */
function key(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
