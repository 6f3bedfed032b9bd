// Package ledger keeps the hub's append-only record of what people and the hub
// itself decided: sign, approve, promote, roll back, revoke, enrol. It is a
// transparency log (Tessera on POSIX files) whose checkpoints are signed with
// the ledger's own Ed25519 key, so that a holder of an older checkpoint notices
// any later change to the past.
//
// The parties are the hub's services, which append an event before the decision
// takes effect; people, who read the events in the console; and agents and
// auditors, who check receipts with protocol/trust and the ledger's public key
// alone.
//
// What it promises: when Append returns without error the event is integrated
// in the tree, on disk and synced, covered by a published checkpoint, and the
// receipt verifies. This holds through kill -9 at any moment. An Append that
// fails or is cut off may still have appended: callers may repeat it, the log
// then holds the event twice. Several processes may use one folder; each sees
// the others' events.
//
// Two kinds of leaf share the log: audit events (JSON, this package's Event)
// and signatures (Rekor v2 "dsse" entries, which let the stock cosign command
// check a release's proof). It leaves authorisation and what is worth recording
// to its callers. Leaves can never be removed: put no personal data beyond user
// names into them.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/tlog"
	"k8s.io/klog/v2"

	"github.com/swellfleet/swell/protocol/trust"
)

// Limits on an event.
const (
	MaxDetailBytes = 16 << 10 // of Detail
	MaxFieldBytes  = 1 << 10  // of each text field
)

// Event is one decision.
type Event struct {
	Time   time.Time `json:"time"`             // UTC; zero on Append means now
	Actor  string    `json:"actor"`            // "user:NAME", "token:ID", "device:SITE/NODE" or "hub"; never empty
	Action string    `json:"action"`           // "release.sign", "rollout.abort", …; never empty
	Object string    `json:"object"`           // what it was done to, "Kind/name": "Model/pump-anomaly-7"
	Reason string    `json:"reason,omitempty"` // why, in the words of the actor
	// Outcome is "denied" or "failed" when the action did not take effect;
	// empty when it did.
	Outcome string          `json:"outcome,omitempty"`
	Detail  json.RawMessage `json:"detail,omitempty"` // more for machines; a JSON object, or nil
}

// Receipt proves that a leaf is in the log; see trust.VerifyReceipt.
type Receipt = trust.Receipt

// Entry is an event with its place in the log.
type Entry struct {
	Index uint64 `json:"index"`
	Event
}

// Config says where the log is and how patient it is.
type Config struct {
	// Dir holds the log and its key. Required; made when absent.
	Dir string
	// Origin names the log in its checkpoints when Dir has no key yet: a-z,
	// 0-9, '-' and '.'. Empty means "swell-ledger-" and eight random digits.
	Origin string
	// CheckpointInterval bounds how long a single Append waits for its
	// checkpoint. 0 means 100 ms, which is also the least allowed.
	CheckpointInterval time.Duration
	// BatchMaxAge is how long an event waits for others to share its sync. 0
	// means 5 ms.
	BatchMaxAge time.Duration
	// Logger gets one line at opening. The logger of the process's first Open
	// also gets what Tessera has to say, which it writes through a logger shared
	// by the whole process. nil discards.
	Logger *slog.Logger
}

// Log is an open ledger. Its methods may be called from many goroutines.
type Log struct {
	cfg    Config
	vkey   string
	add    tessera.AddFn
	reader tessera.LogReader
	ctx    context.Context // ends when Close begins to tear the log down
	cancel context.CancelFunc
	stop   func(context.Context) error

	closing  sync.Once
	closeErr error // set within closing

	cp    checkpoints
	index index
}

// closeTimeout bounds how long Close waits for the last checkpoint, openTimeout
// how long Open waits for the first one.
const (
	closeTimeout = 10 * time.Second
	openTimeout  = 10 * time.Second
)

// quiet takes klog, which Tessera uses, off standard error. klog can only be set
// once, before anything logs.
var quiet sync.Once

// Open opens the log in cfg.Dir, making it and its key at first start. It
// refuses a folder whose published checkpoint is not signed by its key or whose
// entries on disk are not those it vouches for; every entry is read once.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open ledger: no folder given")
	}
	if cfg.CheckpointInterval == 0 {
		cfg.CheckpointInterval = 100 * time.Millisecond
	}
	if cfg.BatchMaxAge == 0 {
		cfg.BatchMaxAge = 5 * time.Millisecond
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	quiet.Do(func() { klog.SetSlogLogger(cfg.Logger.With("from", "tessera")) })
	signer, vkey, err := openKey(cfg.Dir, cfg.Origin)
	if err != nil {
		return nil, fmt.Errorf("open ledger in %s: %w", cfg.Dir, err)
	}
	driver, err := posix.New(ctx, posix.Config{Path: treeDir(cfg.Dir)})
	if err != nil {
		return nil, fmt.Errorf("open ledger in %s: %w", cfg.Dir, err)
	}
	// Tessera's goroutines live until this context ends, which is not when the
	// caller's does: Close first lets waiting events finish.
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	appender, stop, reader, err := tessera.NewAppender(runCtx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithBatching(256, cfg.BatchMaxAge).
		WithCheckpointInterval(cfg.CheckpointInterval).
		WithCheckpointRepublishInterval(0).
		WithShutdownTimeout(closeTimeout))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open ledger in %s: %w", cfg.Dir, err)
	}
	l := &Log{cfg: cfg, vkey: vkey, add: appender.Add, reader: reader, ctx: runCtx, cancel: cancel, stop: stop}
	l.cp = checkpoints{vkey: vkey, read: reader.ReadCheckpoint, growth: l.growth}
	if err := l.selfCheck(ctx); err != nil {
		cancel()
		return nil, fmt.Errorf("open ledger in %s: %w", cfg.Dir, err)
	}
	cfg.Logger.Info("ledger open", "dir", cfg.Dir, "key", vkey, "events", l.index.len())
	return l, nil
}

// Close waits for events that are being appended and ends the log's
// background work. Appends after it fail. Closing twice is closing once.
func (l *Log) Close(ctx context.Context) error {
	l.closing.Do(func() {
		if err := l.stop(ctx); err != nil {
			l.closeErr = fmt.Errorf("close ledger in %s: %w", l.cfg.Dir, err)
		}
		l.cancel()
	})
	return l.closeErr
}

// VerifierKey returns the ledger's public key in the form that
// trust.VerifyReceipt and trust.Roots.WithLog take.
func (l *Log) VerifierKey() string { return l.vkey }

// Append adds e and returns once it is durable, integrated and covered by a
// published checkpoint. A context that ends first gives its error; whether e is
// in the log is then not known.
func (l *Log) Append(ctx context.Context, e Event) (Receipt, error) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	leaf, err := e.Leaf()
	if err != nil {
		return Receipt{}, fmt.Errorf("append %s to ledger: %w", e.Action, err)
	}
	r, err := l.append(ctx, leaf)
	if err != nil {
		return Receipt{}, fmt.Errorf("append %s to ledger: %w", e.Action, err)
	}
	return r, nil
}

// AppendSignature adds a signature leaf, made by trust.LogBody, in the same way
// as Append. Events does not list it.
func (l *Log) AppendSignature(ctx context.Context, body []byte) (Receipt, error) {
	r, err := l.append(ctx, body)
	if err != nil {
		return Receipt{}, fmt.Errorf("append signature to ledger: %w", err)
	}
	return r, nil
}

func (l *Log) append(ctx context.Context, leaf []byte) (Receipt, error) {
	future := l.add(ctx, tessera.NewEntry(leaf))
	type result struct {
		tessera.Index
		err error
	}
	done := make(chan result, 1)
	go func() { // ends when the batch is synced, or never after Close has failed
		idx, err := future()
		done <- result{idx, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return Receipt{}, r.err
		}
		return l.receipt(ctx, r.Index.Index)
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	case <-l.ctx.Done():
		return Receipt{}, errors.New("the ledger is closed")
	}
}

// Head returns the newest published checkpoint, as signed text, and the tree it
// names.
func (l *Log) Head(ctx context.Context) (string, tlog.Tree, error) {
	text, tree, err := l.cp.latest(ctx)
	if err != nil {
		return "", tlog.Tree{}, fmt.Errorf("read ledger head: %w", err)
	}
	return text, tree, nil
}

// Leaf returns the bytes of the leaf at index, as its receipt proves them, and
// the event in them; the event is zero for a signature leaf. A number the log
// has not reached gives ErrNoEntry.
func (l *Log) Leaf(ctx context.Context, index uint64) ([]byte, Event, error) {
	_, tree, err := l.cp.latest(ctx)
	if err != nil {
		return nil, Event{}, fmt.Errorf("read ledger entry %d: %w", index, err)
	}
	if index >= uint64(tree.N) {
		return nil, Event{}, fmt.Errorf("read ledger entry %d: %w", index, ErrNoEntry)
	}
	r := bundleReader{log: l, size: uint64(tree.N)}
	b, err := r.leaf(ctx, index)
	if err != nil {
		return nil, Event{}, err
	}
	e, _ := parseLeaf(b)
	return b, e, nil
}

// ErrNoEntry means the log has not reached an index.
var ErrNoEntry = errors.New("no such ledger entry")

// Proof returns a receipt for the leaf at index, on the newest checkpoint.
func (l *Log) Proof(ctx context.Context, index uint64) (Receipt, error) {
	text, tree, err := l.cp.latest(ctx)
	if err != nil {
		return Receipt{}, fmt.Errorf("prove ledger entry %d: %w", index, err)
	}
	if index >= uint64(tree.N) {
		return Receipt{}, fmt.Errorf("prove ledger entry %d: %w", index, ErrNoEntry)
	}
	return l.prove(ctx, index, text, tree)
}

// receipt waits for a checkpoint that covers index.
func (l *Log) receipt(ctx context.Context, index uint64) (Receipt, error) {
	text, tree, err := l.cp.covering(ctx, l.ctx, index)
	if err != nil {
		return Receipt{}, fmt.Errorf("wait for the checkpoint of entry %d: %w", index, err)
	}
	return l.prove(ctx, index, text, tree)
}

func (l *Log) prove(ctx context.Context, index uint64, text string, tree tlog.Tree) (Receipt, error) {
	pb, err := client.NewProofBuilder(ctx, uint64(tree.N), l.reader.ReadTile)
	if err != nil {
		return Receipt{}, fmt.Errorf("prove ledger entry %d: %w", index, err)
	}
	hashes, err := pb.InclusionProof(ctx, index)
	if err != nil {
		return Receipt{}, fmt.Errorf("prove ledger entry %d: %w", index, err)
	}
	return Receipt{Index: index, Proof: asHashes(hashes), Checkpoint: text}, nil
}

// Growth proves that the newest checkpoint's tree begins with the first older
// entries: what a holder of an older checkpoint gives to trust.CheckGrowth.
func (l *Log) Growth(ctx context.Context, older uint64) (checkpoint string, proof tlog.TreeProof, err error) {
	text, tree, err := l.cp.latest(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("prove ledger growth from %d: %w", older, err)
	}
	if older > uint64(tree.N) {
		return "", nil, fmt.Errorf("prove ledger growth from %d: the log has %d", older, tree.N)
	}
	proof, err = l.growth(ctx, older, uint64(tree.N))
	return text, proof, err
}

func (l *Log) growth(ctx context.Context, older, newer uint64) (tlog.TreeProof, error) {
	if older == 0 || older == newer {
		return nil, nil
	}
	pb, err := client.NewProofBuilder(ctx, newer, l.reader.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("prove ledger growth from %d to %d: %w", older, newer, err)
	}
	hashes, err := pb.ConsistencyProof(ctx, older, newer)
	if err != nil {
		return nil, fmt.Errorf("prove ledger growth from %d to %d: %w", older, newer, err)
	}
	return tlog.TreeProof(asHashes(hashes)), nil
}

func asHashes(raw [][]byte) []tlog.Hash {
	var hs []tlog.Hash
	for _, h := range raw {
		hs = append(hs, tlog.Hash(h))
	}
	return hs
}

// checkpoints reads the published checkpoint for all who wait for one, at most
// once per step.
type checkpoints struct {
	vkey   string
	read   func(context.Context) ([]byte, error)
	growth func(ctx context.Context, older, newer uint64) (tlog.TreeProof, error)

	mu     sync.Mutex
	text   string    // guarded by mu; the newest checkpoint read
	tree   tlog.Tree // guarded by mu; what text says
	readAt time.Time // guarded by mu
}

// pollStep is how often a waiting Append looks for a new checkpoint file.
const pollStep = 5 * time.Millisecond

// first waits for a checkpoint to exist at all: a crash in the log's first
// moment leaves a tree without one, which Tessera then publishes by itself.
func (c *checkpoints) first(ctx context.Context) (tlog.Tree, error) {
	for {
		_, tree, err := c.latest(ctx)
		if !errors.Is(err, fs.ErrNotExist) {
			return tree, err
		}
		select {
		case <-time.After(pollStep):
		case <-ctx.Done():
			return tlog.Tree{}, fmt.Errorf("%w: %w", err, ctx.Err())
		}
	}
}

func (c *checkpoints) latest(ctx context.Context) (string, tlog.Tree, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refresh(ctx)
}

func (c *checkpoints) refresh(ctx context.Context) (string, tlog.Tree, error) {
	raw, err := c.read(ctx)
	if err != nil {
		return "", tlog.Tree{}, fmt.Errorf("read checkpoint: %w", err)
	}
	c.readAt = time.Now()
	if string(raw) != c.text {
		tree, err := trust.OpenCheckpoint(c.vkey, string(raw))
		if err != nil {
			return "", tlog.Tree{}, err
		}
		// Files changed under a running hub show here at the next event.
		proof, err := c.growth(ctx, uint64(min(c.tree.N, tree.N)), uint64(tree.N))
		if err != nil {
			return "", tlog.Tree{}, err
		}
		if err := trust.CheckGrowth(c.tree, tree, proof); err != nil {
			return "", tlog.Tree{}, err
		}
		c.text, c.tree = string(raw), tree
	}
	return c.text, c.tree, nil
}

// covering waits until the published checkpoint includes index.
func (c *checkpoints) covering(ctx, closed context.Context, index uint64) (string, tlog.Tree, error) {
	for {
		c.mu.Lock()
		text, tree := c.text, c.tree
		var err error
		if uint64(tree.N) <= index && time.Since(c.readAt) >= pollStep {
			text, tree, err = c.refresh(ctx)
		}
		c.mu.Unlock()
		if err != nil {
			return "", tlog.Tree{}, err
		}
		if uint64(tree.N) > index {
			return text, tree, nil
		}
		select {
		case <-time.After(pollStep):
		case <-ctx.Done():
			return "", tlog.Tree{}, ctx.Err()
		case <-closed.Done():
			return "", tlog.Tree{}, errors.New("the ledger is closed")
		}
	}
}
