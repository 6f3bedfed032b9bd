// What every page is made of: a head with its sentence of state, panels, facts,
// times, digests, and how waiting and failing look.

import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { ApiError } from "../api/client";
import { ABSENT, absolute, relative, short } from "../lib/format";
import { useNow } from "../ui/useNow";
import { severityMarks } from "./marks";
import css from "./parts.module.css";
import { Shape } from "./StateMark";

/** A sentence longer than this, in characters, is set smaller. */
const LONG = 130;

/** The head of a page: its name, one sentence that says how things stand, and what can be done. */
export function Head({ title, sentence, alarm = 0, trail, children }: { title: string; sentence: ReactNode; alarm?: 0 | 1 | 2; trail?: ReactNode; children?: ReactNode }) {
  return (
    <header className={css.head}>
      <div className={css.headText}>
        <h1>
          {trail}
          {title}
        </h1>
        <p data-alarm={alarm} data-long={(typeof sentence === "string" && sentence.length > LONG) || undefined}>
          {alarm > 0 && <Shape mark={alarm === 2 ? severityMarks.critical : severityMarks.warning} size={14} />}
          {sentence}
        </p>
      </div>
      {children && <div className={css.headActions}>{children}</div>}
    </header>
  );
}

/** A titled part of a page. */
export function Panel({ title, aside, children, flush }: { title?: ReactNode; aside?: ReactNode; children: ReactNode; flush?: boolean }) {
  return (
    <section className={css.panel} data-flush={flush || undefined}>
      {(title || aside) && (
        <div className={css.panelHead}>
          {title && <h2>{title}</h2>}
          {aside && <div className={css.panelAside}>{aside}</div>}
        </div>
      )}
      {children}
    </section>
  );
}

/** Named values, aligned. Leave a value undefined to show that it is not known. */
export function Facts({ facts, wide }: { facts: [name: string, value: ReactNode][]; wide?: boolean }) {
  return (
    <dl className={css.facts} data-wide={wide || undefined}>
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value === "" ? ABSENT : (value ?? ABSENT)}</dd>
        </div>
      ))}
    </dl>
  );
}

/** A time relative to now; the exact one when pointed at. */
export function When({ at }: { at: string | undefined }) {
  const now = useNow();
  return at ? (
    <time dateTime={at} title={absolute(at)} className={css.when}>
      {relative(at, now)}
    </time>
  ) : (
    <>{ABSENT}</>
  );
}

/** The first digits of a digest; all of it when pointed at. */
export function Digest({ of }: { of: string | undefined }) {
  return of ? (
    <code className={css.digest} title={of}>
      {short(of)}
    </code>
  ) : (
    <>{ABSENT}</>
  );
}

/** Holds what may be wider than the page; label names it for who scrolls it by keyboard. */
export function Scroll({ label, children }: { label: string; children: ReactNode }) {
  return (
    <div className={css.scroll} role="region" aria-label={label} tabIndex={0}>
      {children}
    </div>
  );
}

/** Says what failed. */
export function Failure({ error, retry }: { error: unknown; retry?: () => void }) {
  return (
    <div className={css.failure} role="alert">
      <Shape mark={severityMarks.warning} size={14} />
      <span>
        {error instanceof Error ? error.message : String(error)}
        {error instanceof ApiError && error.fields.length > 0 && <> {error.fields.map((f) => `${f.field}: ${f.message}`).join("; ")}</>}
      </span>
      {retry && (
        <button type="button" className={css.linkButton} onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

/** Said in place of rows when there are none. */
export function Nothing({ children }: { children: ReactNode }) {
  return <p className={css.nothing}>{children}</p>;
}

/** Shows a query's data; while there is none, that it is being read or why not. */
export function Loaded<T>({ query, children }: { query: UseQueryResult<T>; children: (data: T) => ReactNode }) {
  if (query.data !== undefined) return <>{children(query.data)}</>;
  if (query.error) return <Failure error={query.error} retry={() => void query.refetch()} />;
  return (
    <p className={css.nothing} role="status">
      Reading…
    </p>
  );
}
