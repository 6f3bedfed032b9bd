import { useQueries, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import type { Schemas } from "../api/client";
import { forbidden, useSession } from "../app/session";
import { modelVersions, models } from "../api/queries";
import { count, many, num } from "../lib/format";
import { Across } from "../parts/Across";
import { ImportDialog } from "../parts/ImportModel";
import { versionMarks } from "../parts/marks";
import { Digest, Head, Loaded, Nothing, Panel, Scroll, When } from "../parts/page";
import table from "../parts/parts.module.css";
import { StateMark } from "../parts/StateMark";
import { Button } from "../ui/controls";
import css from "./pages.module.css";

type Version = Schemas["ModelVersion"];

export function ModelsPage() {
  const query = useQuery(models());
  const versions = useQueries({ queries: (query.data ?? []).map((m) => modelVersions(m.metadata.name)) });
  return (
    <Loaded query={query}>
      {(families) => (
        <>
          <Head title="Models" sentence={sentence(families)}>
            <Bring />
          </Head>
          <div className={css.stack}>
            {families.every((m) => m.spec.kind === "garden") && (
              <Panel>
                <Nothing>No model has been released yet. The first night trains one.</Nothing>
              </Panel>
            )}
            {families.map((m, i) => m.spec.kind !== "garden" && (
              <Panel key={m.metadata.name} title={m.metadata.name} flush aside={
                  <>
                    <span>{[m.spec.description, m.spec.classes?.length ? `for ${m.spec.classes.join(", ")}` : undefined].filter(Boolean).join(" · ")}</span>
                    {(versions[i]?.data?.length ?? 0) > 1 && (
                      <Link to="/models/$name/compare" params={{ name: m.metadata.name }} search={{}}>
                        compare versions
                      </Link>
                    )}
                  </>
                }>
                {versions[i] && (
                  <Loaded query={versions[i]}>
                    {(list) => (
                      <>
                        <Across versions={list} />
                        <Versions list={list} />
                      </>
                    )}
                  </Loaded>
                )}
              </Panel>
            ))}
            <Garden models={families.filter((m) => m.spec.kind === "garden")} versions={versions.flatMap((v) => v.data?.[0] ?? [])} />
          </div>
        </>
      )}
    </Loaded>
  );
}

/** What people brought from outside, the newest version of each. */
function Garden({ models: list, versions }: { models: Schemas["Model"][]; versions: Version[] }) {
  if (list.length === 0) return null;
  return (
    <Panel title="From outside" aside="parts for nights to build on; no device gets them as they are" flush>
      <Scroll label="Models from outside">
        <table className={table.table}>
          <thead>
            <tr>
              <th scope="col">Model</th>
              <th scope="col">Kind</th>
              <th scope="col">Where it is from</th>
              <th scope="col" data-num>
                Versions
              </th>
              <th scope="col">Brought</th>
            </tr>
          </thead>
          <tbody>
            {list.map((m) => {
              const newest = versions.find((v) => v.spec.release.name === m.metadata.name);
              return (
                <tr key={m.metadata.name}>
                  <th scope="row">
                    <Link to="/models/$name/$counter" params={{ name: m.metadata.name, counter: String(m.status.latest?.counter ?? 1) }}>
                      {m.status.latest?.id ?? m.metadata.name}
                    </Link>
                  </th>
                  <td>{newest?.spec.detector ?? "–"}</td>
                  <td className={table.prose}>{m.spec.description ?? "nobody said"}</td>
                  <td data-num>{count(m.status.versions)}</td>
                  <td>
                    <When at={m.metadata.updatedAt} />
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </Panel>
  );
}

/** The way to bring a model from outside. */
function Bring() {
  const { role } = useSession();
  const why = forbidden(role, "admin");
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button disabled={why !== undefined} why={why} onClick={() => why === undefined && setOpen(true)}>
        Bring a model
      </Button>
      <ImportDialog open={open} onClose={() => setOpen(false)} />
    </>
  );
}

function sentence(all: Schemas["Model"][]): string {
  const families = all.filter((m) => m.spec.kind !== "garden");
  const promoted = families.flatMap((m) => (m.status.promoted ? [m.status.promoted.id] : []));
  if (families.length === 0) return "No model has been released yet.";
  if (promoted.length === 0) return `${many(families.length, "model family", "model families")}; none is promoted yet.`;
  return promoted.length <= 3 ? `Promoted: ${promoted.join(", ")}.` : `${count(promoted.length)} of ${count(families.length)} model families have a promoted version.`;
}

const headline = ["f1", "far", "mar", "faults_found", "flag_share"];
/** Of a class the first there is: most families have one. */
const whole = (m: Schemas["Metric"]) => !m.slice?.includes(",");

function Versions({ list }: { list: Version[] }) {
  if (list.length === 0) return <Nothing>No version yet.</Nothing>;
  const metric = (v: Version, name: string) => v.status.metrics.find((m) => m.name === name && whole(m));
  const shown = headline.filter((h) => list.some((v) => metric(v, h) !== undefined));
  return (
    <Scroll label="Versions">
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">Version</th>
            <th scope="col">State</th>
            <th scope="col">Detector</th>
            {shown.map((h) => (
              <th key={h} scope="col" data-num>
                {h.length <= 3 ? h.toUpperCase() : h.replaceAll("_", " ")}
              </th>
            ))}
            <th scope="col" data-num>
              Champion on
            </th>
            <th scope="col" data-num>
              On trial on
            </th>
            <th scope="col" data-num>
              Signatures
            </th>
            <th scope="col">Digest</th>
            <th scope="col">Released</th>
          </tr>
        </thead>
        <tbody>
          {list.map((v) => (
            <tr key={v.metadata.name}>
              <th scope="row">
                <Link to="/models/$name/$counter" params={{ name: v.spec.release.name, counter: String(v.spec.release.counter) }}>
                  {v.spec.release.id}
                </Link>
              </th>
              <td>
                <StateMark state={v.status.state} marks={versionMarks} />
              </td>
              <td>{v.spec.detector ?? "–"}</td>
              {shown.map((h) => (
                <td key={h} data-num>
                  {num(metric(v, h)?.value)} {metric(v, h)?.unit ?? ""}
                </td>
              ))}
              <td data-num>{count(v.status.runsOn?.champion)}</td>
              <td data-num>{count(v.status.runsOn?.challenger)}</td>
              <td data-num>{count(v.status.signatures.length)}</td>
              <td>
                <Digest of={v.spec.release.digest} />
              </td>
              <td>
                <When at={v.metadata.createdAt} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
