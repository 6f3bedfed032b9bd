import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet } from "@tanstack/react-router";
import { Suspense, useEffect, useState } from "react";
import { ask, client } from "../api/client";
import { freezes, overview, stale, version } from "../api/queries";
import { openStream } from "../api/stream";
import { absolute, count, many, seconds } from "../lib/format";
import { severityMarks } from "../parts/marks";
import { Shape } from "../parts/StateMark";
import { IconButton } from "../ui/controls";
import { useScheme } from "../ui/Provider";
import css from "./app.module.css";
import { useSession } from "./session";
import { Logo } from "./SessionGate";

const pages = [
  { to: "/", label: "Now" },
  { to: "/fleet", label: "Fleet" },
  { to: "/rollouts", label: "Rollouts" },
  { to: "/policies", label: "Policies" },
  { to: "/models", label: "Models" },
  { to: "/training", label: "Training" },
  { to: "/labels", label: "Labels" },
  { to: "/audit", label: "Audit" },
] as const;

/** What surrounds every page: the way to the others, and what must always be in view. */
export function Shell() {
  const me = useSession();
  const queries = useQueryClient();
  const hub = useQuery(version());
  const live = useLiveData();
  const { scheme, toggle } = useScheme();
  return (
    <div className={css.shell}>
      <a className={css.skip} href="#content">
        To the content
      </a>
      <aside className={css.rail}>
        <div className={css.brand}>
          <Logo /> Swell
        </div>
        <nav aria-label="Pages">
          {pages.map((p) => (
            <Link key={p.to} to={p.to} activeOptions={{ exact: p.to === "/" }} className={css.navLink}>
              {p.label}
            </Link>
          ))}
        </nav>
        <div className={css.railFoot}>
          <div>
            <b>{me.user}</b>
            <span>{me.role}</span>
          </div>
          <div className={css.railButtons}>
            <IconButton label={scheme === "dark" ? "Light colours" : "Dark colours"} onClick={toggle}>
              <svg viewBox="0 0 16 16" width="15" height="15" aria-hidden="true">
                <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" strokeWidth="1.5" />
                <path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor" />
              </svg>
            </IconButton>
            <IconButton label="Log out" onClick={() => void ask(client.DELETE("/session")).finally(() => void queries.resetQueries())}>
              <svg viewBox="0 0 16 16" width="15" height="15" aria-hidden="true">
                <path d="M6 2.5H3v11h3M7 8h6.5M10.8 5.2 13.6 8l-2.8 2.8" fill="none" stroke="currentColor" strokeWidth="1.5" />
              </svg>
            </IconButton>
          </div>
          {hub.data && <small>hub {hub.data.version}</small>}
        </div>
      </aside>
      <div className={css.body}>
        <Strip live={live} />
        <Frozen />
        <main id="content" className={css.content} tabIndex={-1}>
          <Suspense>
            <Outlet />
          </Suspense>
        </main>
      </div>
    </div>
  );
}

/** The figures that must not move: what the fleet's work cost production. */
function Strip({ live }: { live: boolean }) {
  const { data } = useQuery(overview());
  const c = data?.counters;
  const needs = data?.needsMe.length ?? 0;
  return (
    <section className={css.strip} aria-label="At a glance">
      <dl>
        <Figure name="Production stopped" value={seconds(c?.productionStoppedSeconds)} alarm={(c?.productionStoppedSeconds ?? 0) > 0} />
        <Figure name="Windows lost" value={count(c?.windowsLost)} alarm={(c?.windowsLost ?? 0) > 0} />
        <Figure name="Windows scored" value={count(c?.windowsScored)} />
        <Figure name="Connected" value={c ? `${count(c.connected)} / ${count(c.devices)}` : "–"} />
        <Figure name="Attested" value={c ? `${count(c.attested)} / ${count(c.devices)}` : "–"} />
      </dl>
      {needs > 0 && (
        <Link to="/" className={css.needs}>
          <Shape mark={data!.needsMe.some((n) => n.severity === "critical") ? severityMarks.critical : severityMarks.warning} />
          {needs === 1 ? "1 thing needs you" : `${needs} things need you`}
        </Link>
      )}
      <span className={css.live} role="status">
        {live ? (
          "live"
        ) : (
          <>
            <Shape mark={severityMarks.warning} /> not live: reconnecting
          </>
        )}
      </span>
    </section>
  );
}

/** Over every page while a freeze holds: nothing will move, and that is somebody's wish. */
function Frozen() {
  const { data } = useQuery(freezes());
  const active = (data ?? []).filter((f) => f.active);
  if (active.length === 0) return null;
  return (
    <section className={css.frozen} aria-label="Freezes">
      <Shape mark={severityMarks.warning} size={14} />
      <ul>
        {active.map((f) => (
          <li key={f.name}>
            <b>Frozen: {f.name}</b> – {f.selector || "every device"} ({many(f.devices, "device")}), {f.until ? `until ${absolute(f.until).slice(0, 16)}` : "until it is lifted"}: {f.reason} ({f.by})
          </li>
        ))}
      </ul>
      <Link to="/policies">Freezes</Link>
    </section>
  );
}

function Figure({ name, value, alarm }: { name: string; value: string; alarm?: boolean }) {
  return (
    <div data-alarm={alarm || undefined}>
      <dt>
        {alarm && <Shape mark={severityMarks.critical} size={10} />} {name}
      </dt>
      <dd>{value}</dd>
    </div>
  );
}

// Lists longer than this are read again at most every so often, however much changes in them.
const LONG = 1000;
const LONG_EVERY_MS = 5000;

/** Keeps what is shown fresh by the event stream; says whether the stream is up. */
function useLiveData(): boolean {
  const queries = useQueryClient();
  const [live, setLive] = useState(true);
  useEffect(() => {
    const later = new Map<string, ReturnType<typeof setTimeout>>();
    const refresh = (queryKey: readonly unknown[]) =>
      // What is being read is not begun again with every event.
      void queries.invalidateQueries({ queryKey, exact: true }, { cancelRefetch: false });
    const close = openStream("/api/v1/events", {
      live: setLive,
      changed: (changes) => {
        for (const q of queries.getQueryCache().getAll()) {
          if (changes !== "all" && !changes.some((c) => stale(q.queryKey, c))) continue;
          const wait = Array.isArray(q.state.data) && q.state.data.length > LONG ? q.state.dataUpdatedAt + LONG_EVERY_MS - Date.now() : 0;
          if (wait <= 0) refresh(q.queryKey);
          else if (!later.has(q.queryHash))
            later.set(
              q.queryHash,
              setTimeout(() => (later.delete(q.queryHash), refresh(q.queryKey)), wait),
            );
        }
      },
    });
    return () => {
      close();
      later.forEach(clearTimeout);
    };
  }, [queries]);
  return live;
}
