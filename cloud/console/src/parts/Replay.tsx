import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { ask, client, type Schemas } from "../api/client";
import { rolloutPolicies } from "../api/queries";
import { absolute, count } from "../lib/format";
import { Button, SelectField } from "../ui/controls";
import { GateTable } from "./GateTable";
import { rolloutMarks, severityMarks, verdictMarks } from "./marks";
import { Failure, Panel, Scroll } from "./page";
import css from "./parts.module.css";
import { Shape, StateMark } from "./StateMark";

/** What another policy would have decided on the evidence of a rollout that has ended. */
export function Replay({ name, policy }: { name: string; policy: string }) {
  const policies = useQuery(rolloutPolicies());
  const names = (policies.data ?? []).map((p) => p.metadata.name);
  const [picked, setPicked] = useState<string>();
  const chosen = picked ?? names.find((n) => n !== policy) ?? names[0] ?? "";
  const replay = useMutation({ mutationFn: () => ask(client.POST("/rollouts/{name}/replay", { params: { path: { name } }, body: { policy: chosen } })) });
  if (names.length === 0) return null;
  return (
    <Panel
      title="With another policy"
      aside={
        <>
          <SelectField label="Policy to replay with" hideLabel width={180} value={chosen} onChange={setPicked} options={names.map((n) => ({ value: n, label: n }))} />
          <Button busy={replay.isPending} onClick={() => replay.mutate()}>
            Replay
          </Button>
        </>
      }
    >
      <div aria-live="polite">
        {replay.error && <Failure error={replay.error} />}
        {replay.data ? <Outcome replay={replay.data} /> : !replay.error && <p className={css.nothing}>Decides again on the stored evidence and says what would have been different.</p>}
      </div>
    </Panel>
  );
}

function Outcome({ replay: r }: { replay: Schemas["RolloutReplay"] }) {
  return (
    <>
      <p className={css.outcome}>
        <Shape mark={r.diverged ? severityMarks.warning : verdictMarks.PASS} size={14} /> {sentence(r)}
      </p>
      {r.diverged && r.diverged.gates.length > 0 && <GateTable gates={r.diverged.gates} caption={`Gates under the other policy at ${absolute(r.diverged.at)}`} />}
      <details className={css.steps}>
        <summary>
          {count(r.same)} of {count(r.steps.length)} decisions alike
        </summary>
        <Scroll label="Decisions replayed">
          <table className={css.table}>
            <thead>
              <tr>
                <th scope="col">At</th>
                <th scope="col">Was</th>
                <th scope="col">Would be</th>
                <th scope="col" data-num>
                  Offered
                </th>
                <th scope="col">Why</th>
              </tr>
            </thead>
            <tbody>
              {r.steps.map((s) => (
                <tr key={s.id}>
                  <th scope="row">{absolute(s.at)}</th>
                  <td>
                    <StateMark state={s.recorded} marks={rolloutMarks} />
                  </td>
                  <td>
                    <StateMark state={s.replayed} marks={rolloutMarks} />
                  </td>
                  <td data-num>{count(s.offered)}</td>
                  <td className={css.prose}>{s.summary}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      </details>
    </>
  );
}

/** The verdict as a sentence: "It would have stopped on …". */
export function sentence(r: Schemas["RolloutReplay"]): string {
  const verdict = r.verdict.replace(/\.$/, "");
  const under = `Under ${r.policy ?? "the other policy"}`;
  return /^(would|decides|tells) /.test(verdict) ? `${under} it ${verdict}.` : `${under}: ${verdict}.`;
}
