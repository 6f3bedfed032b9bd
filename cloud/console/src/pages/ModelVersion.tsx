import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { modelLineage, modelVersion, quarantine } from "../api/queries";
import { absolute, bytes, count, many, num, percent, short } from "../lib/format";
import { Card } from "../parts/Card";
import { Graph, type Box } from "../parts/Graph";
import { runMarks, severityMarks, verdictMarks, versionMarks } from "../parts/marks";
import { Digest, Facts, Failure, Head, Loaded, Nothing, Panel, Scroll, When } from "../parts/page";
import table from "../parts/parts.module.css";
import { ReasonDialog, type Action } from "../parts/ReasonDialog";
import { Shape, StateMark } from "../parts/StateMark";
import { Button } from "../ui/controls";
import css from "./pages.module.css";

type Version = Schemas["ModelVersion"];

export function ModelVersionPage() {
  const { name, counter } = useParams({ from: "/models/$name/$counter" });
  const query = useQuery(modelVersion(name, Number(counter)));
  return (
    <Loaded query={query}>
      {(v) => (
        <>
          <Head title={v.spec.release.id} trail={<><Link to="/models">Models</Link> / </>} sentence={sentence(v)} alarm={versionMarks[v.status.state]?.alarm ?? 0}>
            {!outside(v) && (
              <>
                <Link to="/models/$name/compare" params={{ name }} search={v.spec.lineage.parent ? { a: v.spec.release.counter, b: v.spec.lineage.parent.counter } : { a: v.spec.release.counter }}>
                  Compare
                </Link>
                <Link to="/rollouts/new" search={{ release: v.spec.release.id }}>
                  Roll out
                </Link>
              </>
            )}
          </Head>
          <div className={css.columns} data-split="2-1">
            <div className={css.stack}>
              {!outside(v) && (
                <>
                  <Panel title="Lineage" aside="where it came from and where it went">
                    <LineageGraph version={v} />
                  </Panel>
                  <Panel title="Metrics" aside="against the release it replaces, on the same data" flush>
                    <Metrics metrics={v.status.metrics} />
                  </Panel>
                </>
              )}
              <Panel title="Model card">{v.spec.card ? <Card text={v.spec.card} /> : <Nothing>None was written.</Nothing>}</Panel>
              {!outside(v) && <Files version={v} />}
            </div>
            <div className={css.stack}>
              <Panel title="Version" aside={<StateMark state={v.status.state} marks={versionMarks} />}>
                <Facts
                  facts={outside(v) ? [["Kind", v.spec.detector], ["Brought", <When at={v.metadata.createdAt} />]] : [
                    ["Digest", <Digest of={v.spec.release.digest} />],
                    ["Detector", v.spec.detector],
                    ["Classes", v.spec.classes.join(", ")],
                    ["Threshold", num(v.spec.threshold)],
                    ["Expected to flag", percent(v.spec.expectedFlagShare)],
                    ["Parent flagged", percent(v.spec.parentFlagShare)],
                    ["Released", <When at={v.metadata.createdAt} />],
                  ]}
                />
              </Panel>
              {!outside(v) && (
                <>
                  <Panel title="Where it runs" aside={<Link to="/fleet" search={{ selector: `release=${v.spec.release.id}` }}>show devices</Link>}>
                    <Facts
                      facts={[
                        ["As champion", count(v.status.runsOn?.champion)],
                        ["On trial", count(v.status.runsOn?.challenger)],
                        ["Kept as last good", count(v.status.runsOn?.lastGood)],
                      ]}
                    />
                  </Panel>
                  <Quarantine release={v.spec.release} />
                  <Signatures version={v} />
                </>
              )}
            </div>
          </div>
        </>
      )}
    </Loaded>
  );
}

/** Whether a person brought it: a part for nights to build on, and no release. */
const outside = (v: Version) => v.status.state === "candidate";

function sentence(v: Version): string {
  if (outside(v)) return "Brought from outside: no device gets it before a night has adapted and judged it.";
  const on = v.status.runsOn?.champion ?? 0;
  const f1 = v.status.metrics.find((m) => m.name === "f1" && !m.slice);
  const better = f1?.champion !== undefined ? `, F1 ${num(f1.value)} against ${num(f1.champion)} before` : "";
  const mark = versionMarks[v.status.state]?.label ?? v.status.state;
  return `${mark[0]!.toUpperCase()}${mark.slice(1)}; champion on ${many(on, "device")}${better}.`;
}

/** Whether rollouts may offer it, and the way to change that. */
function Quarantine({ release }: { release: Schemas["ReleaseRef"] }) {
  const query = useQuery(quarantine());
  const queries = useQueryClient();
  const { role } = useSession();
  const why = forbidden(role, "approver");
  const [action, setAction] = useState<Action>();
  const after = () => Promise.all([queries.invalidateQueries({ queryKey: ["Quarantine"] }), queries.invalidateQueries({ queryKey: ["Rollout"] })]);
  const put = () =>
    setAction({
      title: `Quarantine ${release.id}`,
      effect: "No rollout offers it from now on. One that does goes back, whatever its state: devices that run it return to the release before.",
      button: "Quarantine release",
      danger: true,
      run: async (reason) => {
        await ask(client.POST("/quarantine", { params: { query: { reason } }, body: { release: release.digest } }));
        await after();
      },
    });
  const lift = () =>
    setAction({
      title: `Lift the quarantine of ${release.id}`,
      effect: "It may be rolled out again. Nothing starts by itself.",
      button: "Lift quarantine",
      run: async (reason) => {
        await ask(client.DELETE("/quarantine/{digest}", { params: { path: { digest: release.digest }, query: { reason } } }));
        await after();
      },
    });
  return (
    <Loaded query={query}>
      {(all) => {
        const q = all.find((x) => x.digest === release.digest);
        return (
          <Panel
            title="Quarantine"
            aside={
              <Button disabled={why !== undefined} why={why} onClick={() => why === undefined && (q ? lift() : put())}>
                {q ? "Lift" : "Quarantine"}
              </Button>
            }
          >
            {q ? (
              <>
                <p className={css.verdict}>
                  <Shape mark={severityMarks.critical} /> In quarantine: no rollout offers it.
                </p>
                <Facts facts={[["Why", q.reason], ["By", q.by], ["Since", <When at={q.at} />]]} />
              </>
            ) : (
              <Nothing>It is not in quarantine.</Nothing>
            )}
            <ReasonDialog action={action} onClose={() => setAction(undefined)} />
          </Panel>
        );
      }}
    </Loaded>
  );
}

/** From the data at the left over snapshot, run and release to the devices at the right. */
function LineageGraph({ version: v }: { version: Version }) {
  const navigate = useNavigate();
  const deep = useQuery(modelLineage(v.spec.release.name, v.spec.release.counter));
  const l = v.spec.lineage;
  const boxes: Box[] = [];
  const segments = deep.data?.segments ?? [];
  const { labels = 0, frames = 0, devices = [], children = [] } = deep.data ?? {};
  if (l.snapshot) {
    const made: string[] = [];
    const source = (id: string, title: string, line: string) => {
      made.push(id);
      boxes.push({ id, after: [], title, line });
    };
    if (l.segments !== undefined || segments.length > 0) source("segments", many(l.segments ?? segments.length, "segment"), l.devices === undefined ? "raw rows" : `of ${many(l.devices, "device")}`);
    if (labels > 0) source("labels", many(labels, "label"), "what people said");
    if (frames > 0) source("frames", many(frames, "frame"), "pictures");
    boxes.push({ id: "snapshot", after: made, title: "snapshot", line: short(l.snapshot) });
  }
  if (l.config || l.code) boxes.push({ id: "config", after: [], title: "code and config", line: l.code ?? (l.config && short(l.config)) });
  const open = (r: Schemas["ReleaseRef"]) => void navigate({ to: "/models/$name/$counter", params: { name: r.name, counter: String(r.counter) } });
  if (l.parent) {
    const p = l.parent;
    boxes.push({ id: "parent", after: [], title: p.id, line: "parent", onClick: () => open(p) });
  }
  if (l.run) {
    const run = l.run;
    boxes.push({ id: "run", after: ["snapshot", "config", "parent"], title: run, line: l.seed === undefined ? "training run" : `seed ${l.seed}`, mark: runMarks.released, onClick: () => void navigate({ to: "/training/$name", params: { name: run } }) });
  }
  boxes.push({ id: "version", after: l.run ? ["run"] : ["snapshot", "config", "parent"], title: v.spec.release.id, line: many(v.status.signatures.length, "signature"), selected: true });
  for (const r of v.status.rollouts ?? []) boxes.push({ id: `rollout ${r}`, after: ["version"], title: r, line: "rollout", onClick: () => void navigate({ to: "/rollouts/$name", params: { name: r } }) });
  for (const c of children) boxes.push({ id: `child ${c.id}`, after: ["version"], title: c.id, line: "learned to replace it", onClick: () => open(c) });
  const on = v.status.runsOn?.champion ?? devices.length;
  if (on > 0) boxes.push({ id: "devices", after: v.status.rollouts?.length ? v.status.rollouts.map((r) => `rollout ${r}`) : ["version"], title: many(on, "device"), line: "run it now", onClick: () => void navigate({ to: "/fleet", search: { selector: `release=${v.spec.release.id}` } }) });
  return (
    <>
      <Graph boxes={boxes} label="Lineage" />
      {deep.error && <Failure error={deep.error} />}
      {(l.from || l.devices !== undefined) && (
        <Facts
          wide
          facts={[
            ["Data from", l.from && absolute(l.from)],
            ["to", l.to && absolute(l.to)],
            ["Devices in it", count(l.devices)],
            ["Snapshot", <Digest of={l.snapshot} />],
            ["Configuration", <Digest of={l.config} />],
          ]}
        />
      )}
      {segments.length > 0 && (
        <details>
          <summary>Raw segments in the snapshot</summary>
          <Scroll label="Segments">
            <table className={table.table}>
              <thead>
                <tr>
                  <th scope="col">Segment</th>
                  <th scope="col">Device</th>
                  <th scope="col" data-num>
                    Rows
                  </th>
                  <th scope="col">From</th>
                  <th scope="col">To</th>
                </tr>
              </thead>
              <tbody>
                {segments.slice(0, 50).map((x) => (
                  <tr key={x.digest}>
                    <th scope="row">
                      <Digest of={x.digest} />
                    </th>
                    <td>{x.device ?? "–"}</td>
                    <td data-num>{count(x.rows)}</td>
                    <td data-nowrap>{x.from ? absolute(x.from) : "–"}</td>
                    <td data-nowrap>{x.to ? absolute(x.to) : "–"}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
          {segments.length > 50 && <Nothing>{count(segments.length - 50)} more: “swellctl model lineage {v.spec.release.id} -o wide”.</Nothing>}
        </details>
      )}
    </>
  );
}

function Metrics({ metrics }: { metrics: Schemas["Metric"][] }) {
  if (metrics.length === 0) return <Nothing>None were recorded.</Nothing>;
  return (
    <Scroll label="Metrics">
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">Metric</th>
            <th scope="col">On</th>
            <th scope="col" data-num>
              This version
            </th>
            <th scope="col" data-num>
              Parent
            </th>
            <th scope="col" data-num>
              Change
            </th>
            <th scope="col" data-num>
              n
            </th>
          </tr>
        </thead>
        <tbody>
          {metrics.map((m) => (
            <tr key={`${m.name} ${m.slice ?? ""}`}>
              <th scope="row">{m.name.replaceAll("_", " ")}</th>
              <td>{m.slice ?? "all"}</td>
              <td data-num>
                {num(m.value)} {m.unit ?? ""}
              </td>
              <td data-num>
                {num(m.champion)} {m.champion === undefined ? "" : (m.unit ?? "")}
              </td>
              <td data-num>{m.champion === undefined ? "–" : `${m.value >= m.champion ? "+" : "−"}${num(Math.abs(m.value - m.champion))}`}</td>
              <td data-num>{count(m.n)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Signatures({ version: v }: { version: Version }) {
  const path = { name: v.spec.release.name, counter: v.spec.release.counter };
  const verify = useMutation({ mutationFn: () => ask(client.POST("/models/{name}/versions/{counter}/actions/verify", { params: { path } })) });
  return (
    <Panel
      title="Signatures"
      aside={
        <Button busy={verify.isPending} onClick={() => verify.mutate()}>
          Verify now
        </Button>
      }
    >
      {v.status.signatures.length === 0 && <Nothing>It is not signed. No agent will load it.</Nothing>}
      <ul className={css.checks}>
        {v.status.signatures.map((s) => (
          <li key={`${s.form} ${s.keyId}`}>
            <Shape mark={severityMarks.info} />
            <span>{s.form}</span>
            <small>
              {s.signer ?? "key"} <Digest of={s.keyId} />
              {s.ledgerIndex !== undefined && (
                <>
                  {" · "}
                  <Link to="/audit/$index" params={{ index: String(s.ledgerIndex) }}>
                    ledger {count(s.ledgerIndex)}
                  </Link>
                </>
              )}
            </small>
          </li>
        ))}
      </ul>
      <div aria-live="polite">
        {verify.error && <Failure error={verify.error} />}
        {verify.data && (
          <>
            <p className={css.verdict}>
              <Shape mark={verify.data.ok ? verdictMarks.PASS : verdictMarks.FAIL} />
              {verify.data.ok ? "Every check held." : "A check failed. Agents refuse this version."}
            </p>
            <ul className={css.checks}>
              {verify.data.checks.map((c) => (
                <li key={c.name}>
                  <Shape mark={c.ok ? verdictMarks.PASS : verdictMarks.FAIL} />
                  <span>{c.name}</span>
                  <small>{c.message}</small>
                </li>
              ))}
            </ul>
            {verify.data.command && (
              <>
                <p className={css.note}>The same, outside the hub:</p>
                <pre className={css.terminal} tabIndex={0}>
                  {verify.data.command}
                </pre>
              </>
            )}
          </>
        )}
      </div>
    </Panel>
  );
}

function Files({ version: v }: { version: Version }) {
  return (
    <Panel title="Files" flush>
      <Scroll label="Files">
        <table className={table.table}>
          <thead>
            <tr>
              <th scope="col">Path</th>
              <th scope="col">Role</th>
              <th scope="col" data-num>
                Size
              </th>
              <th scope="col">Digest</th>
            </tr>
          </thead>
          <tbody>
            {v.spec.files.map((f) => (
              <tr key={f.path}>
                <th scope="row">{f.path}</th>
                <td>{f.role}</td>
                <td data-num>{bytes(f.size)}</td>
                <td>
                  <Digest of={f.digest} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Panel>
  );
}
