package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// lease says that a process is alive: a PostgreSQL advisory lock on its
// executor id, which the server holds as long as the process's session lasts
// and gives up when the process or its machine is gone. No clock is compared.
// What a process that lost its session still does cannot be recorded once
// another has taken over: DBOS fences every write by the taking-up.
type lease struct {
	id   string
	db   *sql.DB
	conn *sql.Conn // holds the lock; nil after the session was lost
}

// tryLock takes the lock of an executor id. The first number keeps it apart
// from other locks in the database.
const tryLock = "SELECT pg_try_advisory_lock(7440, hashtext($1))"

// leaseWait is how long a process that starts waits for the session of the
// one before it to end.
const leaseWait = 20 * time.Second

func newLease(ctx context.Context, url, id string) (*lease, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("open workflow record: %w", err) // pgx leaves the password out of it
	}
	// A machine that vanished must not keep its lock for the two hours of the
	// kernel's default.
	cfg.RuntimeParams["tcp_keepalives_idle"] = "5"
	cfg.RuntimeParams["tcp_keepalives_interval"] = "2"
	cfg.RuntimeParams["tcp_keepalives_count"] = "3"
	l := &lease{id: id, db: stdlib.OpenDB(*cfg)}
	l.db.SetMaxOpenConns(2)
	ctx, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	for {
		ok, err := l.hold(ctx)
		if ok {
			return l, nil
		}
		select {
		case <-ctx.Done():
			l.close()
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				err = errors.New("another process works under that name: give every hub and worker a name of its own")
			}
			return nil, fmt.Errorf("take the workflow executor id %s: %w", id, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// schemaLock is held by the process that makes the schema, or looks whether it
// is made: processes that are started together get in each other's way at that.
// It is asked for again and again, as a session that waits for a lock is itself
// what the making of an index waits for.
const (
	schemaLock   = "SELECT pg_try_advisory_lock(7441, 0)"
	schemaUnlock = "SELECT pg_advisory_unlock(7441, 0)"
	schemaWait   = 2 * time.Minute
)

// alone calls do while no other process that shares the database is in its
// alone. Without a lease nobody shares it.
func (l *lease) alone(ctx context.Context, do func() error) (err error) {
	if l == nil {
		return do()
	}
	wait, cancel := context.WithTimeout(ctx, schemaWait)
	defer cancel()
	conn, err := l.db.Conn(wait)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for ok := false; ; {
		if err := conn.QueryRowContext(wait, schemaLock).Scan(&ok); err != nil {
			return fmt.Errorf("wait for the process that makes the schema: %w", err)
		}
		if ok {
			break
		}
		select {
		case <-wait.Done():
			return fmt.Errorf("wait for the process that makes the schema: %w", wait.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), schemaUnlock) }() // ends with the session at the latest
	return do()
}

// hold makes sure that the lock is held; a lost session is replaced.
func (l *lease) hold(ctx context.Context) (bool, error) {
	if l.conn != nil {
		if l.conn.PingContext(ctx) == nil {
			return true, nil
		}
		_ = l.conn.Close()
		l.conn = nil
	}
	conn, err := l.db.Conn(ctx)
	if err != nil {
		return false, err
	}
	var ok bool
	if err = conn.QueryRowContext(ctx, tryLock, l.id).Scan(&ok); err != nil || !ok {
		_ = conn.Close()
		return false, err
	}
	l.conn = conn
	return true, nil
}

// gone says whether nobody holds the lock of another executor. When it is so,
// the lock is held here until release is called, so that nobody else takes
// over at the same time and the executor itself cannot start meanwhile.
func (l *lease) gone(ctx context.Context, id string) (ok bool, release func(), err error) {
	err = l.conn.QueryRowContext(ctx, tryLock, id).Scan(&ok)
	return ok, func() {
		_, _ = l.conn.ExecContext(ctx, "SELECT pg_advisory_unlock(7440, hashtext($1))", id) // ends with the session at the latest
	}, err
}

func (l *lease) close() {
	if l.conn != nil {
		_ = l.conn.Close()
	}
	_ = l.db.Close()
}

// takeOver queues again what processes that are gone were at.
func (e *Engine) takeOver(ctx context.Context) {
	missing := map[string]time.Time{} // executor → since when nobody has held its lock
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(e.cfg.TakeOverAfter / 4):
		}
		if err := e.takeOverOnce(ctx, missing, time.Now()); err != nil && ctx.Err() == nil {
			e.cfg.Logger.Warn("cannot look after the runs of other processes", "err", err)
		}
	}
}

func (e *Engine) takeOverOnce(ctx context.Context, missing map[string]time.Time, now time.Time) error {
	if ok, err := e.lease.hold(ctx); !ok {
		return errors.Join(errors.New("the session with the database was lost"), err)
	}
	at, err := dbos.ListWorkflows(e.ctx, dbos.WithFilterStatus(dbos.WorkflowStatusPending), dbos.WithFilterAppVersion(e.cfg.Version))
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, w := range at {
		id := w.ExecutorID
		if id == e.cfg.ExecutorID || seen[id] {
			continue
		}
		seen[id] = true
		if err := e.takeOverFrom(ctx, id, missing, now); err != nil {
			return fmt.Errorf("executor %s: %w", id, err)
		}
	}
	for id := range missing {
		if !seen[id] {
			delete(missing, id)
		}
	}
	return nil
}

func (e *Engine) takeOverFrom(ctx context.Context, id string, missing map[string]time.Time, now time.Time) error {
	gone, release, err := e.lease.gone(ctx, id)
	if err != nil {
		return err
	}
	if !gone {
		delete(missing, id)
		return nil
	}
	defer release()
	since, known := missing[id]
	if !known {
		missing[id] = now
		return nil
	}
	if now.Sub(since) < e.cfg.TakeOverAfter {
		return nil
	}
	// Read again under the lock: only now is it sure that nobody else moves them.
	left, err := dbos.ListWorkflows(e.ctx, dbos.WithFilterStatus(dbos.WorkflowStatusPending), dbos.WithFilterExecutorIDs(id), dbos.WithFilterAppVersion(e.cfg.Version))
	if err != nil {
		return err
	}
	for _, w := range left {
		run, task := taskOf(w.ID)
		times, _ := w.Attributes[takenOver].(float64)
		if times >= maxAttempts {
			e.cfg.Logger.Error("given up: every process that took it up died", "run", run, "task", task)
			if err := dbos.CancelWorkflow(e.ctx, w.ID); err != nil {
				return err
			}
			continue
		}
		e.cfg.Logger.Warn("taken over from a process that is gone", "run", run, "task", task, "executor", id)
		if err := dbos.SetWorkflowAttributes(e.ctx, w.ID, map[string]any{takenOver: times + 1}, dbos.WithMergeAttributes()); err != nil {
			return err
		}
		if _, err := dbos.ResumeWorkflow[string](e.ctx, w.ID, dbos.WithResumeQueue(w.QueueName)); err != nil {
			return err
		}
	}
	delete(missing, id)
	return nil
}

// takenOver is the attribute that counts how often a workflow was taken over.
const takenOver = "taken_over"
