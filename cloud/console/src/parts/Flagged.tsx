import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { deviceSignals, labels, series } from "../api/queries";
import { absolute, num, seconds } from "../lib/format";
import { Button } from "../ui/controls";
import css from "../pages/pages.module.css";
import { severityMarks } from "./marks";
import { Failure, Loaded, Nothing, Panel } from "./page";
import { Shape } from "./StateMark";

const SPAN_MS = 6 * 3_600_000;
/** Buckets of three seconds: how finely a stretch is told. */
const POINTS = 7200;
const MOST = 8;

/** What can be said of a stretch, and how it is shown once it was said. */
const answers = [
  { value: "anomaly", button: "Confirm", said: "confirmed" },
  { value: "normal", button: "False alarm", said: "a false alarm" },
  { value: "unsure", button: "Unsure", said: "unsure" },
] as const;

/**
 * The newest word on a stretch. Its ends move a little with the buckets it is
 * read in, so a label counts that covers most of both.
 */
export function wordOn(span: { from: number; to: number }, all: Schemas["Label"][]): Schemas["Label"] | undefined {
  const most = (l: Schemas["Label"]) => {
    const from = Date.parse(l.from ?? "");
    const to = Date.parse(l.to ?? "");
    return Math.min(to, span.to) - Math.max(from, span.from) > 0.6 * Math.max(to - from, span.to - span.from);
  };
  return all.filter((l) => !l.frame && most(l)).sort((a, b) => Date.parse(b.at) - Date.parse(a.at))[0];
}

/** What the device flagged in the last hours it sent, for a person to confirm or deny: the next night learns from it. */
export function Flagged({ site, node }: { site: string; node: string }) {
  const name = `${site}/${node}`;
  const signals = useQuery(deviceSignals(site, node)).data?.items ?? [];
  const to = Math.max(0, ...signals.map((s) => (s.lastAt ? Date.parse(s.lastAt) : 0)));
  const minute = Math.ceil(to / 60_000) * 60_000; // the question stays the same for a while
  const query = useQuery({ ...series(name, "score", minute - SPAN_MS, minute, POINTS), enabled: to > 0 && signals.some((s) => s.name === "score") });
  const said = useQuery(labels(name));
  const queries = useQueryClient();
  const { role } = useSession();
  const why = forbidden(role, "operator");
  const [busy, setBusy] = useState<string>();
  const [error, setError] = useState<unknown>();
  if (!query.data && !query.error) return null; // no model has scored anything here
  const say = async (span: Schemas["AnomalySpan"], word: Schemas["Label"] | undefined, value: string) => {
    setBusy(`${span.from} ${value}`);
    setError(undefined);
    try {
      await ask(client.POST("/labels", { body: { items: [{ device: name, from: word?.from ?? new Date(span.from).toISOString(), to: word?.to ?? new Date(span.to).toISOString(), value }] } }));
      await queries.invalidateQueries({ queryKey: ["Label"] });
    } catch (e) {
      setError(e);
    }
    setBusy(undefined);
  };
  return (
    <Panel title="Flagged stretches" aside="last 6 h it sent · what you say enters the next night">
      {error !== undefined && <Failure error={error} />}
      {said.error && <Failure error={said.error} retry={() => void said.refetch()} />}
      <Loaded query={query}>
        {({ anomalies }) =>
          anomalies.length === 0 ? (
            <Nothing>The device flagged nothing.</Nothing>
          ) : (
            <>
              <ul className={css.flagged}>
                {anomalies
                  .slice(-MOST)
                  .reverse()
                  .map((a) => {
                    const word = wordOn(a, said.data?.items ?? []);
                    return (
                      <li key={`${a.from} ${a.to}`}>
                        <Shape mark={severityMarks.info} />
                        <span>
                          {absolute(a.from)} <small>for {seconds((a.to - a.from) / 1000)}, score up to {num(a.peakScore)}{a.threshold !== undefined && ` (limit ${num(a.threshold)})`}</small>
                        </span>
                        <span className={css.answers} role="group" aria-label={`What was it at ${absolute(a.from)}?`}>
                          {word && <small>{answers.find((x) => x.value === word.value)?.said ?? word.value}, said {word.by.replace("user:", "")}</small>}
                          {answers.map((x) => (
                            <Button key={x.value} disabled={why !== undefined || word?.value === x.value} why={why} busy={busy === `${a.from} ${x.value}`} onClick={() => why === undefined && void say(a, word, x.value)}>
                              {x.button}
                            </Button>
                          ))}
                        </span>
                      </li>
                    );
                  })}
              </ul>
              {anomalies.length > MOST && <Nothing>{anomalies.length - MOST} earlier ones are in the charts.</Nothing>}
            </>
          )
        }
      </Loaded>
    </Panel>
  );
}
