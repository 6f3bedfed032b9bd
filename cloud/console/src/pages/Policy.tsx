import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ApiError, ask, client, type Schemas } from "../api/client";
import { models, rolloutPolicy, rolloutPreview } from "../api/queries";
import { example, read, rewrite, write, type Form } from "../lib/document";
import { budgetWords, gateWords, growthWords, policySentence, waveWords, windowWords } from "../lib/policy";
import { seconds } from "../lib/format";
import { verdictMarks } from "../parts/marks";
import { Facts, Failure, Head, Loaded, Nothing, Panel, When } from "../parts/page";
import { ReasonDialog, type Action } from "../parts/ReasonDialog";
import { Shape } from "../parts/StateMark";
import { Button, CodeArea, Segmented } from "../ui/controls";
import css from "./pages.module.css";
import { Preview } from "./StartRollout";

type Policy = Schemas["RolloutPolicy"];

const trail = (
  <>
    <Link to="/policies">Policies</Link> /{" "}
  </>
);

/** One policy in words, and as the text it is written in. */
export function PolicyPage() {
  const { name } = useParams({ from: "/policies/$name" });
  const query = useQuery(rolloutPolicy(name));
  return (
    <Loaded query={query}>
      {(p) => (
        <>
          <Head title={p.metadata.name} trail={trail} sentence={policySentence(p.spec, p.status?.devices)} />
          <div className={css.columns} data-split="1-1">
            <Editor key={p.metadata.resourceVersion} stored={p} />
            <InWords policy={p} />
          </div>
        </>
      )}
    </Loaded>
  );
}

/** A policy that is not at the hub yet. */
export function NewPolicyPage() {
  return (
    <>
      <Head title="New policy" trail={trail} sentence="Write it, let the hub check it, and see what it would do, before it is stored." />
      <Editor />
    </>
  );
}

function Editor({ stored }: { stored?: Policy }) {
  const { role } = useSession();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [form, setForm] = useState<Form>("yaml");
  const before = stored ? write(stored, form) : "";
  const [text, setText] = useState(stored ? before : example);
  const [checked, setChecked] = useState<{ ok: Policy } | { error: unknown }>();
  const [action, setAction] = useState<Action>();
  const changed = text !== before;
  const why = forbidden(role, "operator");

  const put = (p: Policy, query: { reason?: string; dryRun?: boolean }) => ask(client.PUT("/rollout-policies/{name}", { params: { path: { name: p.metadata.name }, query }, body: p }));

  // The hub says what is wrong while one writes, a moment after the last key.
  useEffect(() => {
    if (!changed) {
      setChecked(undefined);
      return;
    }
    let gone = false;
    const later = setTimeout(() => {
      const check = async () => {
        const p = read(text);
        if (stored && p.metadata.name !== stored.metadata.name) throw new Error(`The document is named ${p.metadata.name}, and this page is about ${stored.metadata.name}.`);
        return why === undefined ? put(p, { dryRun: true }) : p;
      };
      check().then(
        (ok) => gone || setChecked({ ok }),
        (error: unknown) => gone || setChecked({ error }),
      );
    }, 500);
    return () => {
      gone = true;
      clearTimeout(later);
    };
  }, [text, changed, stored, why]);

  const good = checked && "ok" in checked;
  const run = async (reason: string) => {
    const after = await put(read(text), { reason });
    queries.setQueryData(rolloutPolicy(after.metadata.name).queryKey, after);
    await queries.invalidateQueries({ queryKey: ["RolloutPolicy"] });
    if (!stored) await navigate({ to: "/policies/$name", params: { name: after.metadata.name } });
  };
  return (
    <div className={css.stack}>
      <Panel
        title="Document"
        aside={
          <>
            <Segmented
              label="Form"
              value={form}
              options={[
                { value: "yaml", label: "YAML" },
                { value: "json", label: "JSON" },
              ]}
              onChange={(f) => {
                setForm(f);
                setText((t) => (stored && t === before ? write(stored, f) : rewrite(t, f)));
              }}
            />
            {changed && stored && <Button onClick={() => setText(before)}>Start over</Button>}
            <Button
              tone="main"
              disabled={!good || why !== undefined}
              why={why ?? (changed ? undefined : "Nothing is changed.")}
              onClick={() => good && why === undefined && setAction({ title: `Store ${checked.ok.metadata.name}`, effect: "Rollouts that start from now on follow it. Those that are under way keep the policy they started with.", button: "Store policy", run })}
            >
              Store
            </Button>
          </>
        }
      >
        <CodeArea label="Policy document" value={text} onChange={setText} rows={Math.min(34, Math.max(18, text.split("\n").length + 1))} />
        <div aria-live="polite" className={css.note}>
          {checked && "error" in checked && <Wrong error={checked.error} />}
          {good && (
            <p className={css.verdict}>
              <Shape mark={verdictMarks.PASS} /> The hub would take it.
            </p>
          )}
        </div>
      </Panel>
      {good && <WhatIf spec={checked.ok.spec} />}
      <ReasonDialog action={action} onClose={() => setAction(undefined)} />
    </div>
  );
}

/** What the hub does not take, by field where it names them. */
function Wrong({ error }: { error: unknown }) {
  if (!(error instanceof ApiError) || error.fields.length === 0) return <Failure error={error} />;
  return (
    <div role="alert">
      <p className={css.verdict}>
        <Shape mark={verdictMarks.FAIL} /> The hub would refuse it.
      </p>
      <Facts facts={error.fields.map((f) => [f.field, f.message])} />
    </div>
  );
}

/** What the newest release would do under a policy that is being written. */
function WhatIf({ spec }: { spec: Schemas["RolloutPolicySpec"] }) {
  const families = useQuery(models());
  const release = families.data?.find((m) => m.status.latest)?.status.latest?.id ?? "";
  const preview = useQuery(rolloutPreview(release, spec));
  if (release === "") return null;
  return (
    <Panel title={`What ${release} would do under it now`}>
      <Loaded query={preview}>{(p) => <Preview preview={p} />}</Loaded>
    </Panel>
  );
}

function InWords({ policy: p }: { policy: Policy }) {
  const s = p.spec;
  return (
    <div className={css.stack}>
      <Panel title="Waves" aside={s.growth && growthWords(s.growth)}>
        {s.waves.length === 0 ? <Nothing>None is named.</Nothing> : <Facts facts={s.waves.map((w, i) => [`${i + 1} ${w.name}`, waveWords(w)])} />}
      </Panel>
      <Panel title="Gates">
        {s.gates?.length ? <Facts facts={s.gates.map((g) => [g.title ?? g.name, gateWords(g)])} /> : <Nothing>success, shadow, non-finite and output, with their defaults.</Nothing>}
      </Panel>
      <Panel title="Disruption budget">{s.budgets?.length ? <Facts facts={s.budgets.map((b) => [`per ${b.groupBy}`, budgetWords(b)])} /> : <Nothing>None: all devices of a line may be away at once.</Nothing>}</Panel>
      <Panel title="Maintenance windows">{s.windows?.length ? <Facts facts={s.windows.map((w) => [w.name, windowWords(w)])} /> : <Nothing>None: devices may activate at any time.</Nothing>}</Panel>
      <Panel title="Times">
        <Facts
          facts={[
            ["Shadow", seconds(s.shadowSeconds)],
            ["Soak", seconds(s.waves[0]?.soakSeconds)],
            ["Lease", seconds(s.leaseSeconds)],
            ["Retries", s.retries === undefined ? undefined : String(s.retries)],
            ["Stored", <When at={p.metadata.updatedAt ?? p.metadata.createdAt} />],
          ]}
        />
      </Panel>
    </div>
  );
}
