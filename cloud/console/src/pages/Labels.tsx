import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import { forbidden, useSession } from "../app/session";
import { ask, client, type Schemas } from "../api/client";
import { frameQueue } from "../api/queries";
import { many, num, percent } from "../lib/format";
import { Facts, Failure, Head, Loaded, Nothing, Panel, When } from "../parts/page";
import { Button, TextField } from "../ui/controls";
import css from "./pages.module.css";

type Frame = Schemas["Frame"];

const why: Record<string, string> = { all: "the camera sends every picture", sample: "an even sample", uncertain: "the model was unsure", flagged: "the model flagged it" };
const imageOf = (f: Frame) => `/api/v1/frames/${encodeURIComponent(f.digest)}/image`;

/** The pictures that are most worth a person's look, one after the other, by keyboard. */
export function LabelsPage() {
  const query = useQuery(frameQueue());
  return <Loaded query={query}>{(q) => <Queue key={query.dataUpdatedAt} items={q.items} choices={q.choices} />}</Loaded>;
}

function Queue({ items, choices }: { items: Frame[]; choices: string[] }) {
  const queries = useQueryClient();
  const { role } = useSession();
  const denied = forbidden(role, "operator");
  const [said, setSaid] = useState<string[]>([]); // by position in items
  const [names, setNames] = useState(choices);
  const [other, setOther] = useState("");
  const [broken, setBroken] = useState<string>();
  const [error, setError] = useState<unknown>();
  const at = said.length;
  const frame = items[at];
  const next = items[at + 1];

  const say = (value: string) => {
    if (!frame || denied !== undefined || value === "") return;
    const here = at;
    setSaid([...said, value]);
    setError(undefined);
    setOther("");
    if (value !== "unsure" && !names.includes(value)) setNames([...names, value]);
    ask(client.POST("/labels", { body: { items: [{ frame: frame.digest, value }] } })).catch((e: unknown) => {
      setError(e);
      setSaid((s) => s.slice(0, here)); // back to the picture that has no label now
    });
  };
  const back = () => setSaid(said.slice(0, -1));
  const more = () => void queries.invalidateQueries({ queryKey: ["FrameQueue"] });

  useEffect(() => {
    const press = (e: KeyboardEvent) => {
      if (e.ctrlKey || e.metaKey || e.altKey || (e.target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName))) return;
      const name = /^[1-9]$/.test(e.key) ? names[Number(e.key) - 1] : undefined;
      if (name) say(name);
      else if (e.key === "u") say("unsure");
      else if (e.key === "z" && said.length > 0) back();
      else return;
      e.preventDefault();
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  });

  const left = items.length - at;
  const sentence = items.length === 0 ? "No picture waits for a label." : left === 0 ? `You went through ${many(items.length, "picture")}.` : `${many(left, "picture")} wait for a label, the one the model is least sure of first.`;
  return (
    <>
      <Head title="Labels" sentence={sentence}>
        {items.length > 0 && <Button onClick={more}>Read the queue again</Button>}
      </Head>
      {error !== undefined && <Failure error={error} />}
      {!frame ? (
        <Panel>
          {items.length === 0 ? (
            <Nothing>Cameras upload pictures that their model is unsure of, within their budget. None without a label is here now.</Nothing>
          ) : (
            <div className={css.tools}>
              <Button tone="main" onClick={more}>
                More pictures
              </Button>
              <Button onClick={back}>Back to the last one (z)</Button>
            </div>
          )}
        </Panel>
      ) : (
        <div className={css.columns} data-split="2-1">
          <Panel title={<>Picture {at + 1} of {items.length}</>} aside={<span>{frame.width} × {frame.height} pixels</span>}>
            <div className={css.picture}>
              {broken === frame.digest ? (
                <Nothing>The picture cannot be shown: the hub does not have its bytes, or they are no image. Press u to leave it.</Nothing>
              ) : (
                <img key={frame.digest} src={imageOf(frame)} alt={`Taken by ${frame.device}${frame.top ? `; the model thinks it is ${frame.top}` : ""}`} onError={() => setBroken(frame.digest)} />
              )}
            </div>
            {next && <link rel="prefetch" as="image" href={imageOf(next)} />}
          </Panel>
          <div className={css.stack}>
            <Panel title="What is it?" aside={denied}>
              <ol className={css.choices}>
                {names.slice(0, 9).map((n, i) => (
                  <li key={n}>
                    <button type="button" disabled={denied !== undefined} onClick={() => say(n)}>
                      <kbd>{i + 1}</kbd>
                      <span>{n}</span>
                      {frame.top === n && <small>the model says so{frame.topProbability !== undefined && `, ${percent(Math.round(frame.topProbability * 1000) / 1000)} sure`}</small>}
                    </button>
                  </li>
                ))}
                <li>
                  <button type="button" disabled={denied !== undefined} onClick={() => say("unsure")}>
                    <kbd>u</kbd>
                    <span>unsure</span>
                    <small>nothing is learned from it</small>
                  </button>
                </li>
                <li>
                  <button type="button" disabled={at === 0} onClick={back}>
                    <kbd>z</kbd>
                    <span>undo</span>
                    <small>{at > 0 ? `back to the last one, which you called ${said[at - 1]}; your next answer replaces it` : "nothing was said yet"}</small>
                  </button>
                </li>
              </ol>
              <form
                className={css.tools}
                data-below
                onSubmit={(e) => {
                  e.preventDefault();
                  say(other.trim());
                }}
              >
                <TextField label="Another name" hideLabel placeholder="another name" value={other} onChange={setOther} width={180} />
                <Button type="submit" disabled={other.trim() === "" || denied !== undefined}>
                  Say it
                </Button>
              </form>
            </Panel>
            <Panel title="Picture">
              <Facts
                facts={[
                  ["Taken", <When at={frame.at} />],
                  ["By", <DeviceLink name={frame.device} />],
                  ["Device class", frame.class],
                  ["Sent because", why[frame.why] ?? frame.why],
                  ["Model", frame.release],
                  ["Looks like", frame.top && `${frame.top} (${percent(frame.topProbability === undefined ? undefined : Math.round(frame.topProbability * 1000) / 1000)})`],
                  ["Score", frame.score === undefined ? undefined : `${num(frame.score)} (1 and more is an anomaly)`],
                ]}
              />
            </Panel>
          </div>
        </div>
      )}
    </>
  );
}

function DeviceLink({ name }: { name: string }) {
  const [site = "", node = ""] = name.split("/");
  return (
    <Link to="/fleet/$site/$node" params={{ site, node }}>
      {name}
    </Link>
  );
}
