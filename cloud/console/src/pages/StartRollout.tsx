import { useQueries, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { models, modelVersions, rolloutPolicies, rolloutPreview } from "../api/queries";
import { absolute, count, many } from "../lib/format";
import { Facts, Head, Loaded, Nothing, Panel } from "../parts/page";
import { BudgetTable, PreviewWaves, Refusals, WindowList } from "../parts/PreviewParts";
import { ReasonDialog, type Action } from "../parts/ReasonDialog";
import { Button, SelectField } from "../ui/controls";
import css from "./pages.module.css";

/** Choose a release and a policy, see what would happen, and start it. */
export function StartRolloutPage() {
  const { release = "", policy = "" } = useSearch({ from: "/rollouts/new" });
  const navigate = useNavigate({ from: "/rollouts/new" });
  const families = useQuery(models());
  const versions = useQueries({ queries: (families.data ?? []).map((m) => modelVersions(m.metadata.name)) });
  const policies = useQuery(rolloutPolicies());
  const releases = versions.flatMap((v) => v.data ?? []).filter((v) => v.status.state !== "candidate").map((v) => v.spec.release.id);
  const names = (policies.data ?? []).map((p) => p.metadata.name);
  const choices = (all: string[], now: string, none: string) => [{ value: "", label: none }, ...[...new Set(now ? [now, ...all] : all)].map((x) => ({ value: x, label: x }))];
  const preview = useQuery(rolloutPreview(release, policy));
  const chosen = release !== "" && policy !== "";
  return (
    <>
      <Head title="Start a rollout" trail={<><Link to="/rollouts">Rollouts</Link> / </>} sentence={chosen ? sentence(preview.data, release, policy) : "Choose a release and a policy: what would happen is shown before anything does."} alarm={preview.data && preview.data.refusals.length > 0 ? 2 : 0}>
        {preview.data && <Start preview={preview.data} release={release} policy={policy} />}
      </Head>
      <div className={css.tools}>
        <SelectField label="Release" value={release} width={240} onChange={(v) => void navigate({ search: (s) => ({ ...s, release: v || undefined }), replace: true })} options={choices(releases, release, "choose a release")} />
        <SelectField label="Policy" value={policy} width={240} onChange={(v) => void navigate({ search: (s) => ({ ...s, policy: v || undefined }), replace: true })} options={choices(names, policy, "choose a policy")} />
      </div>
      {chosen ? <Loaded query={preview}>{(p) => <Preview preview={p} />}</Loaded> : <Panel><Nothing>Nothing is chosen yet.</Nothing></Panel>}
    </>
  );
}

/** What would happen, in one sentence. */
export function sentence(p: Schemas["RolloutPreview"] | undefined, release: string, policy: string): string {
  if (!p) return `${release} under ${policy}`;
  if (p.refusals.length > 0) return `The hub would refuse to start ${release} under ${policy}.`;
  return `${release} would reach ${many(p.devices, "device")} in ${many(p.waves.length, "wave")}${p.finishAt ? `, by ${absolute(p.finishAt).slice(0, 16)} if all goes well` : ""}.`;
}

/** A whole preview; also shown beside a policy that is being written. */
export function Preview({ preview: p }: { preview: Schemas["RolloutPreview"] }) {
  return (
    <>
      <Refusals refusals={p.refusals} />
      <div className={css.columns} data-split="3-1">
        <div className={css.stack}>
          <Panel title="Waves" aside="drawn at random, evenly over lines, hardware and products" flush>
            <PreviewWaves waves={p.waves} />
          </Panel>
          <Panel title="Disruption budget" aside="offline, leased and degraded devices count" flush>
            <BudgetTable groups={p.budgets} />
          </Panel>
        </div>
        <div className={css.stack}>
          <Panel title="In short">
            <Facts
              facts={[
                ["Would be", p.state],
                ["Devices", count(p.devices)],
                ["Left out", p.excluded.length === 0 ? "none" : count(p.excluded.reduce((n, x) => n + x.devices, 0))],
                ["Goes back to", p.rollbackTo?.id ?? "nothing: there is no release before"],
                ["Ends, if all goes well", p.finishAt && absolute(p.finishAt).slice(0, 16)],
              ]}
            />
            <p className={css.note}>{p.message}</p>
          </Panel>
          <Panel title="Maintenance windows">{p.windows.length === 0 ? <Nothing>None: devices may activate at any time.</Nothing> : <WindowList windows={p.windows} />}</Panel>
          {p.excluded.length > 0 && (
            <Panel title="Left out">
              <ul className={css.why}>
                {p.excluded.map((x) => (
                  <li key={x.reason}>
                    {many(x.devices, "device")}: {x.reason}
                  </li>
                ))}
              </ul>
            </Panel>
          )}
        </div>
      </div>
    </>
  );
}

function Start({ preview, release, policy }: { preview: Schemas["RolloutPreview"]; release: string; policy: string }) {
  const { role } = useSession();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [action, setAction] = useState<Action>();
  const why = forbidden(role, "operator") ?? (preview.refusals.length > 0 ? "The hub would refuse it: see below." : undefined);
  const run = async (reason: string) => {
    const made = await ask(client.POST("/rollouts", { params: { query: { reason } }, body: { release, policy } }));
    await queries.invalidateQueries({ queryKey: ["Rollout"] });
    await navigate({ to: "/rollouts/$name", params: { name: made.metadata.name } });
  };
  return (
    <>
      <Button tone="main" disabled={why !== undefined} why={why} onClick={() => why === undefined && setAction({ title: `Start ${release}`, effect: sentence(preview, release, policy), button: "Start rollout", run })}>
        Start
      </Button>
      <ReasonDialog action={action} onClose={() => setAction(undefined)} />
    </>
  );
}
