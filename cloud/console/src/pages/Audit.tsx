import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import type { Schemas } from "../api/client";
import { auditEvents } from "../api/queries";
import { absolute, count } from "../lib/format";
import { severityMarks } from "../parts/marks";
import { Head, Loaded, Nothing, Panel } from "../parts/page";
import { Shape } from "../parts/StateMark";
import { VirtualTable, type Column } from "../parts/VirtualTable";
import { Button, TextField } from "../ui/controls";
import css from "./pages.module.css";
import { ToObject } from "./Now";

type Event = Schemas["AuditEvent"];

const columns: Column<Event>[] = [
  { title: "Entry", width: "54px", cell: (e) => <Link to="/audit/$index" params={{ index: String(e.index) }}>{count(e.index)}</Link> },
  { title: "When", width: "146px", cell: (e) => absolute(e.at) },
  { title: "Who", width: "minmax(150px, 1fr)", cell: (e) => e.actor },
  { title: "Did", width: "minmax(120px, 1fr)", cell: (e) => e.action },
  { title: "To", width: "minmax(140px, 1.3fr)", cell: (e) => <Subject subject={e.subject} /> },
  {
    title: "Outcome",
    width: "84px",
    cell: (e) =>
      e.outcome === "ok" ? (
        "ok"
      ) : (
        <>
          <Shape mark={severityMarks.warning} /> {e.outcome}
        </>
      ),
  },
  { title: "Reason", width: "minmax(160px, 3fr)", cell: (e) => <span title={e.reason ?? e.message}>{e.reason ?? e.message ?? "–"}</span> },
];

export function Subject({ subject }: { subject: string }) {
  const cut = subject.indexOf("/");
  return cut < 0 ? <>{subject}</> : <><small>{subject.slice(0, cut)}</small> <ToObject kind={subject.slice(0, cut)} name={subject.slice(cut + 1)} /></>;
}

export function AuditPage() {
  const filter = useSearch({ from: "/audit" });
  // Cursors of the pages before this one; the last is this page's own.
  const [cursors, setCursors] = useState<string[]>([]);
  const query = useQuery(auditEvents(filter, cursors.at(-1)));
  const filtered = filter.actor || filter.action || filter.subject;
  return (
    <>
      <Head
        title="Audit"
        sentence={query.data === undefined ? "Reading the log…" : query.data.treeSize === undefined ? "What was done, by whom and why." : `${count(query.data.treeSize)} entries in an append-only log; each can be proved.`}
      />
      <div className={css.tools}>
        <Filters onChange={() => setCursors([])} />
        <span data-end>
          {cursors.length > 0 && <Button onClick={() => setCursors(cursors.slice(0, -1))}>Newer</Button>}{" "}
          {query.data?.nextCursor && <Button onClick={() => setCursors([...cursors, query.data!.nextCursor!])}>Older</Button>}
        </span>
      </div>
      <Panel flush>
        <Loaded query={query}>{({ items }) => (items.length === 0 ? <Nothing>{filtered ? "No entry matches." : "The log is empty."}</Nothing> : <VirtualTable label="Audit log" rows={items} columns={columns} rowKey={(e) => String(e.index)} />)}</Loaded>
      </Panel>
    </>
  );
}

function Filters({ onChange }: { onChange: () => void }) {
  const filter = useSearch({ from: "/audit" });
  const navigate = useNavigate({ from: "/audit" });
  const [text, setText] = useState({ actor: filter.actor ?? "", action: filter.action ?? "", subject: filter.subject ?? "" });
  useEffect(() => {
    const next = { actor: text.actor || undefined, action: text.action || undefined, subject: text.subject || undefined };
    if (next.actor === filter.actor && next.action === filter.action && next.subject === filter.subject) return;
    const t = setTimeout(() => {
      onChange();
      void navigate({ search: next, replace: true });
    }, 400);
    return () => clearTimeout(t);
  }, [text, filter, navigate, onChange]);
  return (
    <>
      <TextField label="Who" hideLabel placeholder="Who, e.g. user:ana" value={text.actor} onChange={(actor) => setText({ ...text, actor })} width={180} />
      <TextField label="Action" hideLabel placeholder="Action, e.g. rollout." value={text.action} onChange={(action) => setText({ ...text, action })} width={180} />
      <TextField label="Subject" hideLabel placeholder="Subject, e.g. Rollout/r-12" value={text.subject} onChange={(subject) => setText({ ...text, subject })} width={220} />
    </>
  );
}
