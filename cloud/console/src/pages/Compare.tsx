import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { modelComparison, modelVersions } from "../api/queries";
import { num, short } from "../lib/format";
import { Head, Loaded, Nothing, Panel, Scroll } from "../parts/page";
import table from "../parts/parts.module.css";
import { SelectField } from "../ui/controls";
import css from "./pages.module.css";

/** Two versions of a family side by side. */
export function ComparePage() {
  const { name } = useParams({ from: "/models/$name/compare" });
  const { a, b } = useSearch({ from: "/models/$name/compare" });
  const versions = useQuery(modelVersions(name));
  return (
    <Loaded query={versions}>
      {(list) => {
        const counters = list.map((v) => v.spec.release.counter);
        const left = a && counters.includes(a) ? a : counters[0];
        const right = b && counters.includes(b) ? b : (counters.find((c) => c !== left) ?? left);
        return left === undefined || right === undefined ? (
          <>
            <Head title="Compare" trail={<><Link to="/models">Models</Link> / {name} / </>} sentence="There is no version to compare." />
            <Nothing>The first night makes one.</Nothing>
          </>
        ) : (
          <Sides name={name} counters={counters} a={left} b={right} />
        );
      }}
    </Loaded>
  );
}

function Sides({ name, counters, a, b }: { name: string; counters: number[]; a: number; b: number }) {
  const navigate = useNavigate();
  const query = useQuery(modelComparison(name, a, b));
  const go = (x: number, y: number) => void navigate({ to: "/models/$name/compare", params: { name }, search: { a: x, b: y }, replace: true });
  const options = counters.map((c) => ({ value: String(c), label: `${name}-${c}` }));
  const better = (side: "this" | "other") => query.data?.metrics.filter((m) => m.better === side).length ?? 0;
  const comparable = better("this") + better("other");
  const sentence = !query.data ? "…" : a === b ? "That is one version twice." : comparable === 0 ? "No metric tells them apart." : `${name}-${a} is better by ${better("this")}, ${name}-${b} by ${better("other")} of the metrics that both have.`;
  return (
    <>
      <Head title="Compare" trail={<><Link to="/models">Models</Link> / {name} / </>} sentence={sentence} />
      <div className={css.tools}>
        <SelectField label="One version" hideLabel value={String(a)} onChange={(v) => go(Number(v), b)} options={options} width={200} />
        <span>against</span>
        <SelectField label="The other version" hideLabel value={String(b)} onChange={(v) => go(a, Number(v))} options={options} width={200} />
      </div>
      <Loaded query={query}>
        {(c) => (
          <div className={css.stack}>
            <Panel title="Metrics" aside="each version on the data of its own night" flush>
              {c.metrics.length === 0 ? (
                <Nothing>Neither version has metrics on record.</Nothing>
              ) : (
                <Scroll label="Metrics side by side">
                  <table className={table.table}>
                    <thead>
                      <tr>
                        <th scope="col">Metric</th>
                        <th scope="col">On</th>
                        <th scope="col" data-num>
                          {c.release.id}
                        </th>
                        <th scope="col" data-num>
                          {c.with.id}
                        </th>
                        <th scope="col">Better</th>
                      </tr>
                    </thead>
                    <tbody>
                      {c.metrics.map((m) => (
                        <tr key={`${m.name} ${m.slice ?? ""}`}>
                          <th scope="row">{m.name.replaceAll("_", " ")}</th>
                          <td>{m.slice ?? "all"}</td>
                          <td data-num>{m.better === "this" ? <b>{num(m.value)}</b> : num(m.value)}</td>
                          <td data-num>{m.better === "other" ? <b>{num(m.with)}</b> : num(m.with)}</td>
                          <td>{m.better === "this" ? c.release.id : m.better === "other" ? c.with.id : "–"}</td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </Scroll>
              )}
            </Panel>
            <Panel title="How they were made" flush>
              {c.differences.length === 0 ? (
                <Nothing>There is no difference.</Nothing>
              ) : (
                <Scroll label="How they were made">
                  <table className={table.table}>
                    <thead>
                      <tr>
                        <th scope="col">What</th>
                        <th scope="col">{c.release.id}</th>
                        <th scope="col">{c.with.id}</th>
                      </tr>
                    </thead>
                    <tbody>
                      {c.differences.map((d) => (
                        <tr key={d.name}>
                          <th scope="row">{d.name}</th>
                          <td title={d.value}>{readable(d.value)}</td>
                          <td title={d.with}>{readable(d.with)}</td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </Scroll>
              )}
            </Panel>
          </div>
        )}
      </Loaded>
    </>
  );
}

const readable = (v: string) => (v === "" ? "–" : v.startsWith("sha256:") ? short(v) : v);
