import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { Schemas } from "../api/client";
import { rollouts } from "../api/queries";
import { between, count } from "../lib/format";
import { ProgressBar } from "../parts/Bar";
import { rolloutMarks } from "../parts/marks";
import { Head, Loaded, Nothing, Panel, When } from "../parts/page";
import { StateMark } from "../parts/StateMark";
import { VirtualTable, type Column } from "../parts/VirtualTable";
import { useNow } from "../ui/useNow";

type Rollout = Schemas["Rollout"];

const columns: Column<Rollout>[] = [
  { title: "Rollout", width: "minmax(120px, 0.7fr)", cell: (r) => <Link to="/rollouts/$name" params={{ name: r.metadata.name }}>{r.metadata.name}</Link> },
  { title: "Release", width: "minmax(120px, 0.7fr)", cell: (r) => r.spec.release.id },
  { title: "State", width: "124px", cell: (r) => <StateMark state={r.status.state} marks={rolloutMarks} /> },
  { title: "Wave", width: "60px", number: true, cell: (r) => (r.status.currentWave === undefined ? "–" : `${r.status.currentWave + 1} / ${r.status.waves.length}`) },
  { title: "Devices", width: "90px", number: true, cell: (r) => `${count(r.status.counts.done)} / ${count(r.status.counts.devices)}` },
  { title: "Progress", width: "120px", cell: (r) => <ProgressBar counts={r.status.counts} /> },
  { title: "Where it stands", width: "minmax(240px, 4fr)", cell: (r) => <span title={r.status.message}>{r.status.message}</span> },
  { title: "Took", width: "96px", number: true, cell: (r) => <Took rollout={r} /> },
  { title: "Started", width: "90px", number: true, cell: (r) => <When at={r.status.startedAt ?? r.metadata.createdAt} /> },
];

function Took({ rollout: r }: { rollout: Rollout }) {
  return <>{between(r.status.startedAt, r.status.endedAt, useNow())}</>;
}

export function RolloutsPage() {
  const query = useQuery(rollouts());
  return (
    <Loaded query={query}>
      {(all) => {
        const { text, alarm } = sentence(all);
        return (
          <>
            <Head title="Rollouts" sentence={text} alarm={alarm}>
              <Link to="/rollouts/new">Start a rollout</Link>
            </Head>
            <Panel flush>{all.length === 0 ? <Nothing>None yet. A blessed night proposes one, or a person starts one.</Nothing> : <VirtualTable label="Rollouts" rows={all} columns={columns} rowKey={(r) => r.metadata.name} />}</Panel>
          </>
        );
      }}
    </Loaded>
  );
}

/** The state of all rollouts in one sentence; the newest one's when none is under way. */
export function sentence(all: Rollout[]): { text: string; alarm: 0 | 1 | 2 } {
  const active = all.filter((r) => !r.status.endedAt && r.status.state !== "queued" && !ended(r.status.state));
  const first = active[0] ?? all[0];
  if (!first) return { text: "Nothing has been rolled out yet.", alarm: 0 };
  const alarm = active.reduce<0 | 1 | 2>((worst, r) => Math.max(worst, rolloutMarks[r.status.state]?.alarm ?? 0) as 0 | 1 | 2, 0);
  if (active.length > 1) return { text: `${active.length} rollouts are under way.`, alarm };
  if (active.length === 1) return { text: `${first.spec.release.id}: ${first.status.message}`, alarm };
  return { text: `Nothing is under way. The last one, ${first.spec.release.id}: ${first.status.message}`, alarm: 0 };
}

export const ended = (s: Schemas["RolloutState"]) => s === "promoted" || s === "aborted" || s === "failed" || s === "superseded";
