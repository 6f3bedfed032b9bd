import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useMemo } from "react";
import { ApiError, type Schemas } from "../api/client";
import { auditEvent, auditProof } from "../api/queries";
import { absolute, count } from "../lib/format";
import { check, fromBase64 } from "../lib/merkle";
import { verdictMarks } from "../parts/marks";
import { Facts, Failure, Head, Loaded, Nothing, Panel } from "../parts/page";
import { Shape } from "../parts/StateMark";
import css from "./pages.module.css";
import { Subject } from "./Audit";

export function AuditEventPage() {
  const { index } = useParams({ from: "/audit/$index" });
  const event = useQuery(auditEvent(Number(index)));
  const proof = useQuery(auditProof(Number(index)));
  return (
    <Loaded query={event}>
      {(e) => (
        <>
          <Head title={`Entry ${count(e.index)}`} trail={<><Link to="/audit">Audit</Link> / </>} sentence={`${e.actor} did ${e.action} to ${e.subject}${e.reason ? `: “${e.reason}”` : "."}`} />
          <div className={css.columns} data-split="1-1">
            <div className={css.stack}>
              <Panel title="Entry">
                <Facts
                  facts={[
                    ["When", absolute(e.at)],
                    ["Who", e.actor],
                    ["Did", e.action],
                    ["To", <Subject subject={e.subject} />],
                    ["Outcome", e.outcome],
                    ["Reason", e.reason],
                    ["Message", e.message],
                    ...Object.entries(e.details ?? {}).map(([k, v]): [string, string] => [k, v]),
                  ]}
                />
              </Panel>
              {proof.data && (
                <>
                  <Panel title="Leaf" aside="the bytes that were hashed">
                    <pre className={css.terminal} tabIndex={0}>
                      {leafText(proof.data.leaf)}
                    </pre>
                  </Panel>
                  <Panel title="Checkpoint" aside={proof.data.witnesses?.length ? `cosigned by ${proof.data.witnesses.join(", ")}` : "no witness has cosigned it"}>
                    <pre className={css.terminal} tabIndex={0}>
                      {proof.data.checkpoint}
                    </pre>
                  </Panel>
                </>
              )}
            </div>
            <div className={css.stack}>
              <Panel title="Inclusion proof" aside="RFC 6962, computed in this browser">
                {proof.data ? (
                  <Proof proof={proof.data} />
                ) : proof.error ? (
                  proof.error instanceof ApiError && proof.error.status === 404 ? (
                    <Nothing>The entry is not in a checkpoint yet. That takes a few seconds.</Nothing>
                  ) : (
                    <Failure error={proof.error} retry={() => void proof.refetch()} />
                  )
                ) : (
                  <Nothing>Reading…</Nothing>
                )}
              </Panel>
            </div>
          </div>
        </>
      )}
    </Loaded>
  );
}

function Proof({ proof }: { proof: Schemas["InclusionProof"] }) {
  const result = useMemo(() => check(proof), [proof]);
  return (
    <>
      <p className={css.verdict}>
        <Shape mark={result.ok ? verdictMarks.PASS : verdictMarks.FAIL} size={14} />
        {result.message}
      </p>
      <ol className={css.path}>
        {result.steps.map((s, i) => (
          <li key={i}>
            <span>{i}</span>
            <span>{s.side}</span>
            <div>
              {s.sibling && <span>+ {s.sibling}</span>}
              <div>= {s.hash}</div>
            </div>
          </li>
        ))}
      </ol>
      <p className={css.note}>The last hash must be the root in the signed checkpoint. Nothing the hub says about the entry is believed without it.</p>
    </>
  );
}

function leafText(base64: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(fromBase64(base64));
  } catch {
    return base64;
  }
}
