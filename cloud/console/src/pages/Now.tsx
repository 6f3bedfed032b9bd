import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { Schemas } from "../api/client";
import { overview } from "../api/queries";
import { count, many, num, seconds } from "../lib/format";
import { deviceMarks, rolloutMarks, runMarks, severityMarks, strange } from "../parts/marks";
import { Facts, Head, Loaded, Nothing, Panel, When } from "../parts/page";
import { ProgressBar } from "../parts/Bar";
import { Shape, StateMark } from "../parts/StateMark";
import css from "./pages.module.css";

const alarmOf = { calm: 0, attention: 1, urgent: 2 } as const;

export function NowPage() {
  const query = useQuery(overview());
  return (
    <Loaded query={query}>
      {(o) => (
        <>
          <Head title="Now" sentence={o.sentence} alarm={alarmOf[o.state] ?? 0} />
          <div className={css.columns} data-split="2-1">
            <div className={css.stack}>
              <Panel title="Needs me">
                <Inbox items={o.needsMe} />
              </Panel>
              <Panel title="Rollouts under way">
                {o.rollouts?.length ? o.rollouts.map((r) => <Going key={r.metadata.name} rollout={r} />) : <Nothing>None.</Nothing>}
              </Panel>
              <Panel title="Sites">
                {o.sites.length === 0 && <Nothing>No device has been enrolled. An operator makes a token with “swellctl enroll token”.</Nothing>}
                <div className={css.tiles}>
                  {o.sites.map((s) => (
                    <SiteTile key={s.site} site={s} />
                  ))}
                </div>
              </Panel>
            </div>
            <div className={css.stack}>
              <Panel title="Production">
                <Facts
                  facts={[
                    ["Stopped by Swell", seconds(o.counters.productionStoppedSeconds)],
                    ["Windows scored", count(o.counters.windowsScored)],
                    ["Windows lost", count(o.counters.windowsLost)],
                    ["Anomalies, last hour", count(o.counters.anomaliesLastHour)],
                    ["Values received", o.counters.ingestValuesPerSecond === undefined ? undefined : `${num(o.counters.ingestValuesPerSecond)} / s`],
                    ["Blocks dropped by full spools", count(o.counters.spoolDropped)],
                  ]}
                />
              </Panel>
              <Panel title="Last night">
                {o.lastRun ? (
                  <>
                    <Facts
                      facts={[
                        ["Run", <Link to="/training/$name" params={{ name: o.lastRun.metadata.name }}>{o.lastRun.metadata.name}</Link>],
                        ["Outcome", <StateMark state={o.lastRun.status.state} marks={runMarks} />],
                        ["Release", o.lastRun.status.release?.id],
                        ["Ended", <When at={o.lastRun.status.endedAt} />],
                        ["Next", <When at={o.nextRunAt} />],
                      ]}
                    />
                    {o.lastRun.status.summary && <p className={css.why}>{o.lastRun.status.summary}</p>}
                  </>
                ) : (
                  <Facts facts={[["Run", "none yet"], ["Next", <When at={o.nextRunAt} />]]} />
                )}
              </Panel>
            </div>
          </div>
        </>
      )}
    </Loaded>
  );
}

function Inbox({ items }: { items: Schemas["NeedsMe"][] }) {
  if (items.length === 0) return <Nothing>Nothing.</Nothing>;
  return (
    <ul className={css.inbox}>
      {items.map((i) => (
        <li key={`${i.kind} ${i.name} ${i.message}`}>
          <Shape mark={severityMarks[i.severity] ?? strange(i.severity)} />
          <span>{i.message}</span>
          <small>
            <When at={i.since} />
          </small>
          <ToObject kind={i.kind} name={i.name}>
            {i.action ?? "look"}
          </ToObject>
        </li>
      ))}
    </ul>
  );
}

/** A link to the page of an object, or its name when it has none. */
export function ToObject({ kind, name, children }: { kind: string; name: string; children?: string }) {
  const text = children ?? name;
  const label = children ? `${children} ${name}` : undefined;
  const [site, node] = name.split("/");
  if (kind === "Rollout") return <Link to="/rollouts/$name" params={{ name }} aria-label={label}>{text}</Link>;
  if (kind === "TrainingRun") return <Link to="/training/$name" params={{ name }} aria-label={label}>{text}</Link>;
  if (kind === "Device" && site && node) return <Link to="/fleet/$site/$node" params={{ site, node }} aria-label={label}>{text}</Link>;
  // A release is named by its family and counter: "pump-anomaly-7".
  const version = /^(.+)-(\d+)$/.exec(name);
  if ((kind === "ModelVersion" || kind === "Release" || kind === "Model") && version) return <Link to="/models/$name/$counter" params={{ name: version[1]!, counter: version[2]! }} aria-label={label}>{text}</Link>;
  if (kind === "Model") return <Link to="/models" aria-label={label}>{text}</Link>;
  return <span>{name}</span>;
}

function Going({ rollout: r }: { rollout: Schemas["Rollout"] }) {
  return (
    <div className={css.going}>
      <div className={css.goingHead}>
        <Link to="/rollouts/$name" params={{ name: r.metadata.name }}>
          {r.spec.release.id}
        </Link>
        <StateMark state={r.status.state} marks={rolloutMarks} />
      </div>
      <ProgressBar counts={r.status.counts} />
      <p>{r.status.message}</p>
    </div>
  );
}

function SiteTile({ site: s }: { site: Schemas["SiteTile"] }) {
  const states = Object.keys(deviceMarks) as Schemas["DeviceState"][];
  return (
    <Link to="/fleet" search={{ selector: `site=${s.site}` }} className={css.tile}>
      <b>{s.site}</b>
      <div>
        {count(s.connected)} of {many(s.devices, "device")} connected{s.lines !== undefined && `, ${many(s.lines, "line")}`}
      </div>
      <ul>
        {states
          .filter((x) => (s.byState[x] ?? 0) > 0)
          .map((x) => (
            <li key={x}>
              <Shape mark={deviceMarks[x]} size={10} /> {count(s.byState[x])} {deviceMarks[x].label}
            </li>
          ))}
      </ul>
    </Link>
  );
}
