import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { freezes } from "../api/queries";
import { absolute, many } from "../lib/format";
import { Button, Dialog, TextArea, TextField } from "../ui/controls";
import { severityMarks, waveMarks } from "./marks";
import { Failure, Loaded, Nothing, Panel } from "./page";
import css from "./parts.module.css";
import { ReasonDialog, type Action } from "./ReasonDialog";
import { Shape } from "./StateMark";

type Freeze = Schemas["Freeze"];

/** What a freeze covers and for how long. */
export function freezeWords(f: Freeze): string {
  const who = `${f.selector || "every device"} (${many(f.devices, "device")})`;
  if (!f.active && f.from) return `${who} from ${absolute(f.from).slice(0, 16)}${f.until ? ` until ${absolute(f.until).slice(0, 16)}` : ""}`;
  return `${who} ${f.until ? `until ${absolute(f.until).slice(0, 16)}` : "until it is lifted"}`;
}

/** All freezes, and the way to make and lift one. */
export function Freezes() {
  const query = useQuery(freezes());
  const queries = useQueryClient();
  const { role } = useSession();
  const why = forbidden(role, "operator");
  const [making, setMaking] = useState(false);
  const [action, setAction] = useState<Action>();
  const lift = (f: Freeze) =>
    setAction({
      title: `Lift ${f.name}`,
      effect: "Rollouts go on with these devices at once, as far as their waves, windows and budgets allow.",
      button: "Lift freeze",
      run: async (reason) => {
        await ask(client.DELETE("/freezes/{name}", { params: { path: { name: f.name }, query: { reason } } }));
        await queries.invalidateQueries({ queryKey: ["Freeze"] });
      },
    });
  return (
    <Panel
      title="Freezes"
      aside={
        <Button disabled={why !== undefined} why={why} onClick={() => why === undefined && setMaking(true)}>
          Freeze
        </Button>
      }
    >
      <Loaded query={query}>
        {(all) =>
          all.length === 0 ? (
            <Nothing>None. Rollouts may touch devices as their policies allow.</Nothing>
          ) : (
            <ul className={css.orders}>
              {all.map((f) => (
                <li key={f.name}>
                  <Shape mark={f.active ? severityMarks.warning : waveMarks.waiting} />
                  <span>
                    <b>{f.name}</b>: {freezeWords(f)}
                    <small>
                      {f.reason} – {f.by}
                    </small>
                  </span>
                  <Button disabled={why !== undefined} why={why} onClick={() => why === undefined && lift(f)}>
                    Lift
                  </Button>
                </li>
              ))}
            </ul>
          )
        }
      </Loaded>
      <Dialog title="Freeze devices" open={making} onClose={() => setMaking(false)}>
        {making && <Form onClose={() => setMaking(false)} />}
      </Dialog>
      <ReasonDialog action={action} onClose={() => setAction(undefined)} />
    </Panel>
  );
}

function Form({ onClose }: { onClose: () => void }) {
  const queries = useQueryClient();
  const [name, setName] = useState("");
  const [selector, setSelector] = useState("");
  const [until, setUntil] = useState("");
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const ready = name.trim() !== "" && reason.trim() !== "";
  return (
    <form
      className={css.form}
      onSubmit={(e) => {
        e.preventDefault();
        if (!ready || busy) return;
        setBusy(true);
        setError(undefined);
        const body = { name: name.trim(), selector: selector.trim() || undefined, until: until ? new Date(until).toISOString() : undefined };
        ask(client.POST("/freezes", { params: { query: { reason: reason.trim() } }, body }))
          .then(() => queries.invalidateQueries({ queryKey: ["Freeze"] }))
          .then(onClose, (err: unknown) => {
            setBusy(false);
            setError(err);
          });
      }}
    >
      <p>Nothing new is offered to these devices and none of them may activate. What must go back still may.</p>
      <TextField label="Name" value={name} onChange={setName} placeholder="stocktaking" autoFocus />
      <TextField label="Devices, by a selector" value={selector} onChange={setSelector} placeholder="line=l1 (empty: every device)" />
      <TextField label="Until (empty: until it is lifted)" type="datetime-local" value={until} onChange={setUntil} />
      <TextArea label="Reason, for the audit log" value={reason} onChange={setReason} maxLength={500} rows={2} />
      {error !== undefined && <Failure error={error} />}
      <div className={css.formActions}>
        <Button onClick={onClose}>Leave it</Button>
        <Button type="submit" tone="main" busy={busy} disabled={!ready}>
          Freeze devices
        </Button>
      </div>
    </form>
  );
}
