package retrain

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

// A fit that takes long keeps how far it has come in object storage: one
// object a fit, named for its inputs like its entry in the cache, so that
// whoever begins the same fit again goes on from there.

const (
	checkpointEvery = 30 * time.Second
	maxCheckpoint   = maxModelBytes
)

// kept is what is kept of one fit at work.
type kept struct {
	ctx context.Context // of the fit
	s   *Service
	key string

	mu     sync.Mutex
	exists bool // something lies under key; guarded by mu
	told   bool // that something could not be kept; guarded by mu
}

// keptOf names what is kept of the fit whose inputs, as JSON, have a digest.
func (s *Service) keptOf(ctx context.Context, inputs artifact.Digest) *kept {
	return &kept{ctx: ctx, s: s, key: registry.CheckpointPrefix + inputs.Hex()}
}

func (k *kept) checkpoints() *zoo.Checkpoints {
	every := k.s.cfg.CheckpointEvery
	if every == 0 {
		every = checkpointEvery
	}
	return &zoo.Checkpoints{Every: every, Load: k.load, Save: k.save, Resumed: func(step, steps int) {
		engine.Progress(k.ctx, resumedLine, step, steps)
	}}
}

const resumedLine = "goes on after step %d of %d, where an earlier try was interrupted"

func (k *kept) load() []byte {
	b, err := k.s.get(k.ctx, k.key)
	if err != nil {
		if !errors.Is(err, objects.ErrNotFound) {
			engine.Progress(k.ctx, "begins anew: %v", err)
		}
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.exists = true
	return b
}

func (k *kept) save(state []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(state) > maxCheckpoint {
		k.tell("a checkpoint of %d MiB is not kept: the limit is %d MiB", len(state)>>20, maxCheckpoint>>20)
		return
	}
	if err := k.s.cfg.Objects.Put(k.ctx, k.key, bytes.NewReader(state), int64(len(state))); err != nil {
		k.tell("cannot keep a checkpoint: %v", err)
		return
	}
	k.exists = true
}

// tell says what went wrong, once a fit. Its caller holds mu.
func (k *kept) tell(format string, args ...any) {
	if !k.told {
		engine.Progress(k.ctx, format, args...)
	}
	k.told = true
}

// ended removes what was kept when nobody will go on from it: the fit ended
// well, or another try would end as badly. What stays otherwise and is never
// taken up is the registry's collection's to remove.
func (k *kept) ended(err error) {
	if err != nil && !errors.Is(err, zoo.ErrData) && !errors.Is(err, runner.ErrRefused) && !errors.Is(err, engine.ErrPermanent) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.exists {
		return
	}
	if err := k.s.cfg.Objects.Delete(k.ctx, k.key); err != nil {
		k.tell("cannot remove the checkpoint of an ended fit: %v", err)
	}
}

// A fit in a child of the hub keeps its state in a file, whose changes the hub
// carries to object storage: the child knows of no store.

const fitState = "fit.state"

// carry hands p what the child keeps in dir until ctx ends.
func carry(ctx context.Context, dir string, p *zoo.Checkpoints) {
	tick := time.NewTicker(max(min(p.Every, time.Second), 10*time.Millisecond))
	defer tick.Stop()
	name := filepath.Join(dir, fitState)
	var seen os.FileInfo
	if info, err := os.Stat(name); err == nil {
		seen = info // what the hub put there
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		info, err := os.Stat(name)
		if err != nil || seen != nil && os.SameFile(info, seen) {
			continue // every state is a new file
		}
		if state, err := os.ReadFile(name); err == nil {
			p.Save(state)
			seen = info
		}
	}
}

// inFolder keeps the states of a fit as files in dir.
func inFolder(dir string, every time.Duration, resumed func(step, steps int)) *zoo.Checkpoints {
	name := filepath.Join(dir, fitState)
	return &zoo.Checkpoints{
		Every: every,
		Load: func() []byte {
			b, _ := os.ReadFile(name) // none: the fit begins anew
			return b
		},
		Save: func(state []byte) {
			// A state that cannot be kept is no reason to end the fit.
			if os.WriteFile(name+".new", state, 0o600) == nil {
				_ = os.Rename(name+".new", name)
			}
		},
		Resumed: resumed,
	}
}
