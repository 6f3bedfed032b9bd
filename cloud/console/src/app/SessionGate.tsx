import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState, type ReactNode } from "react";
import { ApiError, ask, client, setCsrf } from "../api/client";
import { session } from "../api/queries";
import { Failure } from "../parts/page";
import { Button, PasswordField, TextField } from "../ui/controls";
import css from "./app.module.css";
import { SessionContext } from "./session";

/** Shows its children to who is logged in, and the login to everybody else. */
export function SessionGate({ children }: { children: ReactNode }) {
  const me = useQuery(session());
  const queries = useQueryClient();
  const out = me.error instanceof ApiError && me.error.status === 401;
  setCsrf(me.data?.csrfToken);

  // Any call may find that the session has ended.
  useEffect(
    () =>
      queries.getQueryCache().subscribe((e) => {
        if (e.type !== "updated" || e.action.type !== "error" || e.query.queryKey[0] === "Session") return;
        if (e.action.error instanceof ApiError && e.action.error.status === 401) void queries.invalidateQueries({ queryKey: ["Session"] });
      }),
    [queries],
  );

  if (me.data && !out) return <SessionContext value={me.data}>{children}</SessionContext>;
  if (out) return <Login onDone={() => void queries.resetQueries()} />;
  if (me.error)
    return (
      <main className={css.login}>
        <Failure error={me.error} retry={() => void me.refetch()} />
      </main>
    );
  return <main className={css.login} aria-busy="true" />;
}

function Login({ onDone }: { onDone: () => void }) {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  return (
    <main className={css.login}>
      <form
        className={css.loginCard}
        onSubmit={(e) => {
          e.preventDefault();
          setBusy(true);
          setError(undefined);
          ask(client.POST("/session", { body: { user, password } })).then(onDone, (err: unknown) => {
            setBusy(false);
            setPassword("");
            setError(err instanceof ApiError && err.status === 401 ? new Error("User or password is wrong.") : err);
          });
        }}
      >
        <h1>
          <Logo /> Swell
        </h1>
        <TextField label="User" value={user} onChange={setUser} autoComplete="username" autoFocus />
        <PasswordField label="Password" value={password} onChange={setPassword} />
        {error !== undefined && <Failure error={error} />}
        <Button type="submit" tone="main" busy={busy} disabled={user === "" || password === ""}>
          Log in
        </Button>
      </form>
    </main>
  );
}

export function Logo() {
  return (
    <svg viewBox="0 0 32 32" width="20" height="20" aria-hidden="true">
      <path d="M3 20c4.3 0 4.3-8 8.7-8s4.3 8 8.6 8 4.4-8 8.7-8" fill="none" stroke="currentColor" strokeWidth="3.4" strokeLinecap="round" />
    </svg>
  );
}
