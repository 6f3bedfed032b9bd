import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { Schemas } from "../api/client";
import { freezes, rolloutPolicies } from "../api/queries";
import { count, many } from "../lib/format";
import { policySentence } from "../lib/policy";
import { Freezes } from "../parts/Freezes";
import { Head, Loaded, Nothing, Panel, Scroll, When } from "../parts/page";
import table from "../parts/parts.module.css";
import css from "./pages.module.css";

/** How releases may move, and what holds for all of them. */
export function PoliciesPage() {
  const query = useQuery(rolloutPolicies());
  const orders = useQuery(freezes());
  const active = (orders.data ?? []).filter((f) => f.active);
  return (
    <Loaded query={query}>
      {(all) => (
        <>
          <Head title="Policies" sentence={sentence(all, active)} alarm={active.length > 0 ? 1 : 0}>
            <Link to="/policies/new">New policy</Link>
          </Head>
          <div className={css.columns} data-split="2-1">
            <Panel title="Rollout policies" flush>
              {all.length === 0 ? <Nothing>None yet. “New policy” writes one, or “swellctl apply” does.</Nothing> : <List policies={all} />}
            </Panel>
            <Freezes />
          </div>
        </>
      )}
    </Loaded>
  );
}

/** Policies and freezes in one sentence. */
export function sentence(all: Schemas["RolloutPolicy"][], active: Schemas["Freeze"][]): string {
  const policies = all.length === 0 ? "No rollout policy yet" : many(all.length, "rollout policy", "rollout policies");
  if (active.length === 0) return `${policies}; nothing is frozen.`;
  return `${policies}; ${active.length === 1 ? `${active[0]!.name} freezes ${many(active[0]!.devices, "device")}` : `${active.length} freezes hold`}.`;
}

function List({ policies }: { policies: Schemas["RolloutPolicy"][] }) {
  return (
    <Scroll label="Rollout policies">
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">Policy</th>
            <th scope="col">What it says</th>
            <th scope="col" data-num>
              Devices
            </th>
            <th scope="col">Changed</th>
          </tr>
        </thead>
        <tbody>
          {policies.map((p) => (
            <tr key={p.metadata.name}>
              <th scope="row">
                <Link to="/policies/$name" params={{ name: p.metadata.name }}>
                  {p.metadata.name}
                </Link>
              </th>
              <td className={table.prose}>{policySentence(p.spec, undefined)}</td>
              <td data-num>{count(p.status?.devices)}</td>
              <td>
                <When at={p.metadata.updatedAt ?? p.metadata.createdAt} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
