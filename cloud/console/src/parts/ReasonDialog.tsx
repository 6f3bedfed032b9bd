import { useEffect, useState } from "react";
import { Button, Dialog, TextArea } from "../ui/controls";
import { Failure } from "./page";
import css from "./parts.module.css";

/** What a person is about to do. */
export interface Action {
  title: string;
  /** What will happen, in a sentence. */
  effect: string;
  button: string;
  danger?: boolean;
  /** Asks the hub what would follow, without doing it; sentences. */
  follows?: () => Promise<string[]>;
  run: (reason: string) => Promise<unknown>;
}

/** Asks for a reason, then acts. The reason goes to the audit log. */
export function ReasonDialog({ action, onClose }: { action: Action | undefined; onClose: () => void }) {
  return (
    <Dialog title={action?.title ?? ""} open={action !== undefined} onClose={onClose}>
      {action && <Form key={action.title} action={action} onClose={onClose} />}
    </Dialog>
  );
}

function Form({ action, onClose }: { action: Action; onClose: () => void }) {
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const given = reason.trim() !== "";
  return (
    <form
      className={css.form}
      onSubmit={(e) => {
        e.preventDefault();
        if (!given || busy) return;
        setBusy(true);
        setError(undefined);
        action.run(reason.trim()).then(onClose, (err: unknown) => {
          setBusy(false);
          setError(err);
        });
      }}
    >
      <p>{action.effect}</p>
      {action.follows && <Follows ask={action.follows} />}
      <TextArea label="Reason, for the audit log" value={reason} onChange={setReason} maxLength={500} placeholder="What made you decide this?" />
      {error !== undefined && <Failure error={error} />}
      <div className={css.formActions}>
        <Button onClick={onClose}>Leave it</Button>
        <Button type="submit" tone={action.danger ? "danger" : "main"} busy={busy} disabled={!given}>
          {action.button}
        </Button>
      </div>
    </form>
  );
}

/** What the hub says would follow, from a trial run. */
function Follows({ ask }: { ask: () => Promise<string[]> }) {
  const [said, setSaid] = useState<string[]>();
  const [error, setError] = useState<unknown>();
  useEffect(() => {
    let gone = false;
    ask().then(
      (s) => gone || setSaid(s),
      (e: unknown) => gone || setError(e),
    );
    return () => void (gone = true);
  }, [ask]);
  return (
    <div className={css.follows} aria-live="polite">
      <b>What would follow</b>
      {error !== undefined ? <Failure error={error} /> : said ? <ul>{said.map((s) => <li key={s}>{s}</li>)}</ul> : <p>Asking the hub…</p>}
    </div>
  );
}
