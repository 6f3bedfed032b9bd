import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useMemo, useState } from "react";
import type { Schemas } from "../api/client";
import { devices } from "../api/queries";
import { count, many } from "../lib/format";
import { suggest, vocabularyOf } from "../lib/selector";
import { HeatGrid } from "../parts/HeatGrid";
import { deviceMarks } from "../parts/marks";
import { Digest, Failure, Head, Loaded, Nothing, Panel, When } from "../parts/page";
import { StateMark } from "../parts/StateMark";
import { VirtualTable, type Column } from "../parts/VirtualTable";
import { Segmented, SuggestField } from "../ui/controls";
import css from "./pages.module.css";

type Device = Schemas["Device"];

const columns: Column<Device>[] = [
  { title: "Device", width: "minmax(140px, 1.4fr)", cell: (d) => <Link to="/fleet/$site/$node" params={{ site: d.spec.site, node: d.spec.node }}>{d.metadata.name}</Link> },
  { title: "State", width: "110px", cell: (d) => <StateMark state={d.status.state} marks={deviceMarks} /> },
  { title: "Line", width: "90px", cell: (d) => d.spec.line ?? "–" },
  { title: "Class", width: "100px", cell: (d) => d.spec.class },
  { title: "Runs", width: "minmax(120px, 1fr)", cell: (d) => d.status.release?.id ?? "–" },
  { title: "Attested", width: "120px", cell: (d) => <Digest of={d.status.attestedDigest} /> },
  { title: "Phase", width: "100px", cell: (d) => d.status.phase || "–" },
  { title: "Windows lost", width: "96px", number: true, cell: (d) => count(d.status.windowsLost) },
  { title: "Last seen", width: "90px", number: true, cell: (d) => <When at={d.status.lastSeenAt} /> },
];

const problems: Schemas["DeviceState"][] = ["failed", "degraded", "offline"];

export function FleetPage() {
  const { selector = "", view = "grid" } = useSearch({ from: "/fleet" });
  const navigate = useNavigate({ from: "/fleet" });
  const [text, setText] = useState(selector);
  useEffect(() => setText(selector), [selector]);
  // What is typed is asked for once the typing pauses.
  useEffect(() => {
    if (text === selector) return;
    const t = setTimeout(() => void navigate({ search: (s) => ({ ...s, selector: text || undefined }), replace: true }), 400);
    return () => clearTimeout(t);
  }, [text, selector, navigate]);

  const query = useQuery(devices(selector));
  const list = query.data;
  const vocabulary = useMemo(
    () => vocabularyOf((list ?? []).map((d) => ({ ...d.metadata.labels, site: d.spec.site, line: d.spec.line, class: d.spec.class, state: d.status.state, release: d.status.release?.id, ...(d.status.retiredAt ? { retired: "true" } : {}) }))),
    [list],
  );
  const items = useMemo(
    () =>
      (list ?? []).map((d) => ({
        id: d.metadata.name,
        group: d.spec.line ? `${d.spec.site} ${d.spec.line}` : d.spec.site,
        state: d.status.state,
        title: `${deviceMarks[d.status.state]?.label ?? d.status.state} · ${d.status.release?.id ?? "no release"}${d.status.phase ? ` · ${d.status.phase}` : ""}`,
      })),
    [list],
  );
  const bad = problems.map((s) => [s, (list ?? []).filter((d) => d.status.state === s).length] as const).filter(([, n]) => n > 0);

  return (
    <>
      <Head title="Fleet" sentence={list ? sentence(list, bad, selector) : "Reading the fleet…"} alarm={bad.some(([s]) => s === "failed") ? 2 : bad.length > 0 ? 1 : 0} />
      <div className={css.tools}>
        <SuggestField label="Selector" placeholder="site=hall-1,!retired" value={text} onChange={setText} suggestions={suggest(text, vocabulary)} width={420} />
        <Segmented label="View" value={view} onChange={(v) => void navigate({ search: (s) => ({ ...s, view: v === "table" ? "table" : undefined }), replace: true })} options={[{ value: "grid", label: "Grid" }, { value: "table", label: "Table" }]} />
        <span data-end>{list && many(list.length, "device")}</span>
      </div>
      {query.error && list && <Failure error={query.error} />}
      <Loaded query={query}>
        {(all) =>
          all.length === 0 ? (
            <Panel>
              <Nothing>{selector ? "No device matches this selector." : "No device has been enrolled yet."}</Nothing>
            </Panel>
          ) : (
            <div className={css.stack}>
            <Panel flush={view === "table"}>
              {view === "table" ? (
                <VirtualTable label="Devices" rows={all} columns={columns} rowKey={(d) => d.metadata.name} />
              ) : (
                <HeatGrid
                  items={items}
                  marks={deviceMarks}
                  onOpen={(id) => {
                    const [site, node] = id.split("/") as [string, string];
                    void navigate({ to: "/fleet/$site/$node", params: { site, node } });
                  }}
                />
              )}
            </Panel>
            <Worst devices={all} />
            </div>
          )
        }
      </Loaded>
    </>
  );
}

const MOST_WORST = 50;

/** The devices somebody has to look at, with what they say. */
function Worst({ devices: all }: { devices: Device[] }) {
  const worst = problems.flatMap((s) => all.filter((d) => d.status.state === s));
  if (worst.length === 0) return null;
  return (
    <Panel title="To look at">
      <ul className={css.inbox}>
        {worst.slice(0, MOST_WORST).map((d) => {
          const says = d.status.conditions.find((c) => c.status === "True" && c.severity && c.severity !== "info");
          return (
            <li key={d.metadata.name} data-wide>
              <StateMark state={d.status.state} marks={deviceMarks} />
              <Link to="/fleet/$site/$node" params={{ site: d.spec.site, node: d.spec.node }}>
                {d.metadata.name}
              </Link>
              <span>{d.status.state === "offline" && !says ? "Silent past its time." : (says?.message ?? "It gives no reason.")}</span>
              <small>
                <When at={says?.lastTransitionTime ?? d.status.lastSeenAt} />
              </small>
            </li>
          );
        })}
      </ul>
      {worst.length > MOST_WORST && <Nothing>{count(worst.length - MOST_WORST)} more: select state!=ok.</Nothing>}
    </Panel>
  );
}

function sentence(list: Device[], bad: (readonly [Schemas["DeviceState"], number])[], selector: string): string {
  const which = selector ? "selected devices" : "devices";
  if (list.length === 0) return selector ? "No device matches." : "There are no devices yet.";
  const connected = list.filter((d) => d.status.connected).length;
  const head = `${count(connected)} of ${count(list.length)} ${which} connected`;
  return bad.length === 0 ? `${head}; none needs you.` : `${head}; ${bad.map(([s, n]) => `${count(n)} ${deviceMarks[s].label}`).join(", ")}.`;
}
