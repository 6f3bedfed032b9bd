import { useQueries, useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import type { Schemas } from "../api/client";
import { device, deviceSignals, deviceTimeline, series } from "../api/queries";
import { absolute, bytes, count, num, seconds } from "../lib/format";
import { Chart } from "../parts/Chart";
import { Flagged } from "../parts/Flagged";
import { deviceMarks, severityMarks, stepMarks, strange } from "../parts/marks";
import { Digest, Facts, Head, Loaded, Nothing, Panel, Scroll, When } from "../parts/page";
import table from "../parts/parts.module.css";
import { Shape, StateMark } from "../parts/StateMark";
import { Segmented } from "../ui/controls";
import css from "./pages.module.css";

type Device = Schemas["Device"];

export function DevicePage() {
  const { site, node } = useParams({ from: "/fleet/$site/$node" });
  const query = useQuery(device(site, node));
  return (
    <Loaded query={query}>
      {(d) => (
        <>
          <Head title={d.metadata.name} trail={<><Link to="/fleet">Fleet</Link> / </>} sentence={sentence(d)} alarm={deviceMarks[d.status.state]?.alarm ?? 0} />
          <div className={css.columns} data-split="2-1">
            <div className={css.stack}>
              <Digests device={d} />
              <Flagged site={site} node={node} />
              <Signals site={site} node={node} />
            </div>
            <div className={css.stack}>
              <Panel title="State" aside={<StateMark state={d.status.state} marks={deviceMarks} />}>
                <Facts
                  facts={[
                    ["Class", d.spec.class],
                    ["Line", d.spec.line],
                    ["Runs", d.status.release ? <Link to="/models/$name/$counter" params={{ name: d.status.release.name, counter: String(d.status.release.counter) }}>{d.status.release.id}</Link> : undefined],
                    ["Rollout", d.status.rollout ? <Link to="/rollouts/$name" params={{ name: d.status.rollout }}>{d.status.rollout}</Link> : undefined],
                    ["Last seen", <When at={d.status.lastSeenAt} />],
                    ["Agent", d.status.agentVersion],
                    ["Windows scored", count(d.status.windowsScored)],
                    ["Windows lost", count(d.status.windowsLost)],
                    ["Production stopped", seconds(d.status.productionStoppedSeconds)],
                    ["Spool", d.status.spoolBytes === undefined ? undefined : `${bytes(d.status.spoolBytes)}, ${count(d.status.spoolDropped ?? 0)} dropped`],
                    ["Certificate ends", <When at={d.status.certificateExpiresAt} />],
                  ]}
                />
                <Conditions conditions={d.status.conditions} />
              </Panel>
              <Panel title="Slots" flush>
                <Slots slots={d.status.slots ?? []} />
              </Panel>
              <Timeline site={site} node={node} />
              <Panel title="Documents">
                <Document title={`Desired, generation ${d.spec.desiredGeneration ?? "–"}`} value={d.spec.desired} />
                <Document title={`Reported, generation ${d.status.reportedGeneration ?? "–"}`} value={d.status.reported} />
              </Panel>
            </div>
          </div>
        </>
      )}
    </Loaded>
  );
}

/** What the device does, in one sentence. */
export function sentence(d: Device): string {
  const s = d.status;
  const runs = s.release?.id ?? "no model";
  if (s.retiredAt) return `Retired ${absolute(s.retiredAt)}.`;
  if (s.state === "unknown") return "Enrolled, never heard of.";
  if (!s.connected) return `Offline; last known to run ${runs}.`;
  const bad = s.conditions.find((c) => c.status === "True" && c.severity && c.severity !== "info");
  if (bad && (s.state === "failed" || s.state === "degraded")) return bad.message;
  if (s.phase) return `Runs ${runs}; its trial is at “${s.phase.replaceAll("_", " ")}”.`;
  if (!s.release) return "Connected; no model acts yet.";
  if (s.desiredDigest && s.reportedDigest !== s.desiredDigest) return `Runs ${runs}, which is not what is desired.`;
  return s.attested === undefined ? `Runs ${runs}.` : s.attested ? `Runs ${runs}, attested.` : `Runs ${runs}; not attested.`;
}

/** What the attestation comes to. */
export function attestation(s: Device["status"]): string {
  if (s.attestedDigest === undefined) return "nothing attested yet";
  if (s.desiredDigest !== undefined && s.reportedDigest !== s.desiredDigest) return "on its way to the desired release";
  return s.attested === undefined ? "" : s.attested ? "the loaded bytes are those of the release" : "the loaded bytes are not those of the release";
}

function Digests({ device: { status: s, spec } }: { device: Device }) {
  const rows: [string, string | undefined, string][] = [
    ["Desired release", s.desiredDigest, `generation ${spec.desiredGeneration ?? "–"}`],
    ["Reported release", s.reportedDigest, `has acted on generation ${s.reportedGeneration ?? "–"}`],
    ["Attested bytes", s.attestedDigest, "hashed when the session was loaded"],
  ];
  return (
    <Panel title="Model" aside={attestation(s)}>
      <dl className={css.digests}>
        {rows.map(([name, digest, note]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              <Digest of={digest} />
              <p>{note}</p>
            </dd>
          </div>
        ))}
      </dl>
      {s.phases && s.phases.length > 0 && (
        <ol className={css.phases} aria-label="Phases of the trial">
          {s.phases.map((p) => (
            <li key={p.name} data-state={p.state} title={[p.detail, p.at && absolute(p.at)].filter(Boolean).join(" · ")}>
              <Shape mark={stepMarks[p.state] ?? strange(p.state)} size={11} />
              {p.name.replaceAll("_", " ")}
            </li>
          ))}
        </ol>
      )}
    </Panel>
  );
}

function Conditions({ conditions }: { conditions: Schemas["Condition"][] }) {
  const bad = conditions.filter((c) => c.severity && c.severity !== "info" && c.status === "True");
  if (bad.length === 0) return null;
  return (
    <ul className={css.inbox}>
      {bad.map((c) => (
        <li key={c.type}>
          <Shape mark={severityMarks[c.severity!]} />
          <span>{c.message}</span>
          <small>
            <When at={c.lastTransitionTime} />
          </small>
        </li>
      ))}
    </ul>
  );
}

function Slots({ slots }: { slots: Schemas["Slot"][] }) {
  if (slots.length === 0) return <Nothing>None filled.</Nothing>;
  return (
    <Scroll label="Slots">
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">Slot</th>
            <th scope="col">Release</th>
            <th scope="col">Loaded</th>
            <th scope="col">Since</th>
          </tr>
        </thead>
        <tbody>
          {slots.map((s) => (
            <tr key={s.role}>
              <th scope="row">{s.role}</th>
              <td data-nowrap>{s.release?.id ?? <Digest of={s.digest} />}</td>
              <td>{s.loadedDigest ? <Digest of={s.loadedDigest} /> : "no"}</td>
              <td>
                <When at={s.since} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Document({ title, value }: { title: string; value: unknown }) {
  return (
    <details>
      <summary>{title}</summary>
      {value === undefined ? (
        <Nothing>None yet.</Nothing>
      ) : (
        <pre className={css.evidence} tabIndex={0}>
          {JSON.stringify(value, null, 2)}
        </pre>
      )}
    </details>
  );
}

function Timeline({ site, node }: { site: string; node: string }) {
  const query = useQuery(deviceTimeline(site, node));
  return (
    <Panel title="Timeline">
      <Loaded query={query}>
        {({ items }) =>
          items.length === 0 ? (
            <Nothing>Nothing happened yet.</Nothing>
          ) : (
            <ol className={css.timeline}>
              {items.map((e, i) => (
                <li key={`${e.at} ${i}`}>
                  <Shape mark={severityMarks[e.severity ?? "info"] ?? severityMarks.info} />
                  <When at={e.at} />
                  <span>
                    {e.message}
                    {e.auditIndex !== undefined && (
                      <>
                        {" "}
                        <Link to="/audit/$index" params={{ index: String(e.auditIndex) }}>
                          proof
                        </Link>
                      </>
                    )}
                  </span>
                </li>
              ))}
            </ol>
          )
        }
      </Loaded>
    </Panel>
  );
}

const spans = { "1m": 60, "5m": 300, "1h": 3600, "24h": 86_400, "7d": 604_800 } as const;
const MOST_CHARTS = 12;

/** Live charts that end at the newest value: a device may replay the past, so its clock counts and not ours. */
function Signals({ site, node }: { site: string; node: string }) {
  const name = `${site}/${node}`;
  const [span, setSpan] = useState<keyof typeof spans>("5m");
  const query = useQuery(deviceSignals(site, node));
  const all = useMemo(() => {
    const order = { score: 0, measured: 1, feature: 2, state: 3 };
    return [...(query.data?.items ?? [])].sort((a, b) => order[a.kind] - order[b.kind] || Number(b.name === "score") - Number(a.name === "score") || (a.name < b.name ? -1 : 1));
  }, [query.data]);
  const shown = all.filter((s) => s.name !== "threshold" && s.name !== "flag" && s.name !== "release").slice(0, MOST_CHARTS);
  const to = Math.max(0, ...all.map((s) => (s.lastAt ? Date.parse(s.lastAt) : 0)));
  const from = to - spans[span] * 1000;
  const limit = useQuery({ ...series(name, "threshold", from, to, 1), enabled: to > 0 && all.some((s) => s.name === "threshold") }).data?.mean.at(-1);
  const results = useQueries({ queries: shown.map((s) => ({ ...series(name, s.name, from, to, 800), enabled: to > 0 })) });
  return (
    <Panel
      title="Signals"
      aside={
        <>
          {to > 0 && <span>until {absolute(to)}</span>}
          <Segmented label="Span" value={span} onChange={setSpan} options={Object.keys(spans).map((s) => ({ value: s as keyof typeof spans, label: s.replace(/(\d+)/, "$1 ") }))} />
        </>
      }
    >
      <Loaded query={query}>
        {() => (
          <>
            {shown.length === 0 && <Nothing>The device has sent nothing yet.</Nothing>}
            {shown.map((s, i) => {
              const got = results[i]?.data;
              const threshold = s.kind === "score" ? (limit ?? got?.anomalies.findLast((a) => a.threshold !== undefined)?.threshold) : undefined;
              return (
                <section key={s.name} className={css.signal}>
                  <div className={css.signalHead}>
                    <h3>
                      {s.name} <small>{[s.unit, s.kind === "measured" ? "" : s.kind].filter(Boolean).join(" · ")}</small>
                    </h3>
                    <span>
                      {got && got.anomalies.length > 0 && (
                        <small>
                          {count(got.anomalies.length)} flagged {got.anomalies.length === 1 ? "span" : "spans"} ·{" "}
                        </small>
                      )}
                      <output>
                        {num(s.lastValue ?? got?.mean.at(-1))} {s.unit ?? ""}
                      </output>
                    </span>
                  </div>
                  {got ? <Chart series={got} from={from} to={to} threshold={threshold} sync={name} /> : results[i]?.error ? <Nothing>{results[i]?.error?.message}</Nothing> : <div className={table.chart} />}
                </section>
              );
            })}
            {all.length > MOST_CHARTS && <Nothing>{count(all.length - MOST_CHARTS)} more signals are not drawn here.</Nothing>}
          </>
        )}
      </Loaded>
    </Panel>
  );
}
