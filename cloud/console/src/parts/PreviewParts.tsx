import type { Schemas } from "../api/client";
import { absolute, count, many, seconds } from "../lib/format";
import { severityMarks, verdictMarks } from "./marks";
import { Nothing, Scroll } from "./page";
import css from "./parts.module.css";
import { Shape } from "./StateMark";

/** Who would be in which wave, with devices per line. */
export function PreviewWaves({ waves }: { waves: Schemas["PreviewWave"][] }) {
  if (waves.length === 0) return <Nothing>No wave can be drawn.</Nothing>;
  const lines = [...new Set(waves.flatMap((w) => w.lines.map((l) => l.line)))].sort();
  // A factory has tens of lines; more than fit are summed up in words.
  const columns = lines.length <= 8 ? lines : [];
  return (
    <Scroll label="Waves">
      <table className={css.table}>
        <caption className={css.hidden}>Waves with devices per line</caption>
        <thead>
          <tr>
            <th scope="col">Wave</th>
            <th scope="col" data-num>
              Devices
            </th>
            {columns.map((l) => (
              <th key={l} scope="col" data-num>
                {l || "no line"}
              </th>
            ))}
            {columns.length === 0 && <th scope="col">Lines</th>}
            <th scope="col" data-num>
              Soak
            </th>
            <th scope="col">Waits for</th>
            <th scope="col">Not before</th>
            <th scope="col">First devices</th>
          </tr>
        </thead>
        <tbody>
          {waves.map((w, i) => (
            <tr key={w.name}>
              <th scope="row">
                {i + 1} {w.name}
              </th>
              <td data-num>{count(w.devices)}</td>
              {columns.map((l) => (
                <td key={l} data-num>
                  {count(w.lines.find((x) => x.line === l)?.devices ?? 0)}
                </td>
              ))}
              {columns.length === 0 && <td>{many(w.lines.length, "line")}</td>}
              <td data-num>{seconds(w.soakSeconds)}</td>
              <td data-nowrap>{w.approvals ? `${many(w.approvals, "approval")}${w.approvers?.length ? ` of ${w.approvers.join(", ")}` : ""}` : "its gates"}</td>
              <td data-nowrap>{w.startAt ? absolute(w.startAt).slice(0, 16) : "–"}</td>
              <td className={css.prose} title={w.names.join(", ")}>
                {w.names.slice(0, 2).join(", ")}
                {w.devices > 2 && ` and ${count(w.devices - 2)} more`}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

/** What each group may lose, and has lost now. */
export function BudgetTable({ groups, narrow }: { groups: Schemas["PreviewBudget"][]; narrow?: boolean }) {
  if (groups.length === 0) return <Nothing>No budget: all devices of a line may be away at once.</Nothing>;
  return (
    <Scroll label="Disruption budget">
      <table className={css.table}>
        <caption className={css.hidden}>Disruption budget per group</caption>
        <thead>
          <tr>
            <th scope="col">Group</th>
            {!narrow && (
              <th scope="col" data-num>
                Devices
              </th>
            )}
            <th scope="col" data-num>
              Away
            </th>
            <th scope="col" data-num>
              May be
            </th>
            <th scope="col">Room</th>
          </tr>
        </thead>
        <tbody>
          {groups.map((g) => {
            const room = Math.max(0, g.limit - g.unavailable);
            return (
              <tr key={`${g.groupBy} ${g.group}`}>
                <th scope="row">
                  {g.groupBy} {g.group || "none"}
                </th>
                {!narrow && <td data-num>{count(g.devices)}</td>}
                <td data-num>{count(g.unavailable)}</td>
                <td data-num>{count(g.limit)}</td>
                <td data-nowrap>
                  {room > 0 ? (
                    `${count(room)} now`
                  ) : (
                    <span className={css.state} data-alarm={g.unavailable > g.limit ? 1 : 0}>
                      {g.unavailable > g.limit && <Shape mark={severityMarks.warning} size={11} />} none now
                    </span>
                  )}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </Scroll>
  );
}

/** Which devices may activate when. */
export function WindowList({ windows }: { windows: Schemas["PreviewWindow"][] }) {
  return (
    <ul className={css.windows}>
      {windows.map((w) => (
        <li key={`${w.names.join()} ${w.zone}`}>
          <Shape mark={w.open ? verdictMarks.PASS : w.changeAt ? verdictMarks.INCONCLUSIVE : severityMarks.warning} />
          <span>
            <b>{w.names.join(", ") || "no window"}</b>, {many(w.devices, "device")}: {windowState(w)}
            {w.zone && <small> {w.zone}</small>}
          </span>
        </li>
      ))}
    </ul>
  );
}

/** Whether the devices of a window may activate, and until when. */
export function windowState(w: Schemas["PreviewWindow"]): string {
  if (w.names.length === 0) return "no window is for them, so they never activate";
  const change = w.changeAt && absolute(w.changeAt).slice(0, 16);
  if (w.open) return change ? `open, shuts ${change}` : "open";
  return change ? `shut, opens ${change}` : "shut, and does not open within a year";
}

/** Why the hub would not start it. */
export function Refusals({ refusals }: { refusals: string[] }) {
  if (refusals.length === 0) return null;
  return (
    <ul className={css.refusals} role="alert">
      {refusals.map((r) => (
        <li key={r}>
          <Shape mark={severityMarks.critical} /> {r}
        </li>
      ))}
    </ul>
  );
}
