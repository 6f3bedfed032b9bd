import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { ask, client } from "../api/client";
import { many } from "../lib/format";
import { Button, Dialog, TextArea, TextField } from "../ui/controls";
import { Failure } from "./page";
import css from "./parts.module.css";

const DAY = 86_400_000;

/** The moments between which two days lie, both whole, as far as they are over; undefined where they make no sense. */
export function interval(from: string, to: string, now: number): { from: string; to: string } | undefined {
  const begin = new Date(`${from}T00:00`).getTime();
  const last = new Date(`${to}T00:00`);
  last.setDate(last.getDate() + 1);
  const end = Math.min(last.getTime(), now);
  if (!(begin < end)) return undefined;
  return { from: new Date(begin).toISOString(), to: new Date(end).toISOString() };
}

/** The local day of a moment, as a date field has it. */
export function day(at: number): string {
  const d = new Date(at);
  return [d.getFullYear(), d.getMonth() + 1, d.getDate()].map((n) => String(n).padStart(2, "0")).join("-");
}

/** Runs the nights of the past that a policy's schedule names. */
export function BackfillDialog({ policy, open, onClose }: { policy: string; open: boolean; onClose: () => void }) {
  return (
    <Dialog title={`Run past nights of ${policy}`} open={open} onClose={onClose}>
      {open && <Form policy={policy} onClose={onClose} />}
    </Dialog>
  );
}

function Form({ policy, onClose }: { policy: string; onClose: () => void }) {
  const queries = useQueryClient();
  const [opened] = useState(() => Date.now());
  const [from, setFrom] = useState(day(opened - 7 * DAY));
  const [to, setTo] = useState(day(opened));
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const body = interval(from, to, opened);
  const path = { name: policy };
  const would = useQuery({
    queryKey: ["Backfill", policy, body],
    queryFn: () => ask(client.POST("/retrain-policies/{name}/actions/backfill", { params: { path, query: { dryRun: true } }, body: body! })),
    enabled: body !== undefined,
    retry: false,
  });
  const runs = would.data?.runs;
  const ready = body !== undefined && (runs?.length ?? 0) > 0 && reason.trim() !== "";
  return (
    <form
      className={css.form}
      onSubmit={(e) => {
        e.preventDefault();
        if (!ready || busy) return;
        setBusy(true);
        setError(undefined);
        ask(client.POST("/retrain-policies/{name}/actions/backfill", { params: { path, query: { reason: reason.trim() } }, body })).then(
          () => {
            void queries.invalidateQueries({ queryKey: ["TrainingRun"] });
            onClose();
          },
          (err: unknown) => {
            setBusy(false);
            setError(err);
          },
        );
      }}
    >
      <p>Each night learns from the data up to its own time. What it blesses is released and rolled out as on any night; the newest comes last.</p>
      <div className={css.pair}>
        <TextField type="date" label="From the day" value={from} onChange={setFrom} />
        <TextField type="date" label="to the day" value={to} onChange={setTo} />
      </div>
      <div className={css.follows} aria-live="polite">
        <b>What would run</b>
        {body === undefined ? (
          <p>Nothing: the first day has to be over, and not after the last.</p>
        ) : would.error ? (
          <Failure error={would.error} />
        ) : runs === undefined ? (
          <p>Asking the hub…</p>
        ) : runs.length === 0 ? (
          <p>Nothing: every night of the schedule in these days has run, or there was none.</p>
        ) : (
          <>
            <p>{many(runs.length, "night")}, one after the other:</p>
            <ul>
              {runs.slice(0, 6).map((r) => (
                <li key={r}>{r}</li>
              ))}
              {runs.length > 6 && <li>and {runs.length - 6} more</li>}
            </ul>
          </>
        )}
      </div>
      <TextArea label="Reason, for the audit log" value={reason} onChange={setReason} maxLength={500} placeholder="What did these nights miss?" />
      {error !== undefined && <Failure error={error} />}
      <div className={css.formActions}>
        <Button onClick={onClose}>Leave it</Button>
        <Button type="submit" tone="main" busy={busy} disabled={!ready}>
          {runs?.length ? `Run ${many(runs.length, "night")}` : "Run them"}
        </Button>
      </div>
    </form>
  );
}
