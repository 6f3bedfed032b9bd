// Package frames chooses which pictures of a camera the hub is to have, and
// keeps them on disk until it does.
//
// The parties are the pipeline, which offers every picture with what the model
// said of it; the operator, whose Config says what is wanted and how many bytes
// a day it may cost; the delivery loop, which reads the spool; and the people
// who label pictures, for whom the unclear ones are chosen. What to send is
// decided by values in and values out, in virtual time.
//
// It promises that no more is sent than the budget allows, over restarts too;
// that a picture which was chosen stays on disk until the hub has it or the
// spool is full, when the oldest go first; and that what the budget refused and
// what was lost is counted.
package frames

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/spool"
	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/twin"
)

// Device is what a Keeper needs of its device.
type Device struct {
	Disk  disk.FS
	Class artifact.Class
	Log   *slog.Logger
	// Patient makes a picture wait for a disk that stands, rather than be lost.
	Patient bool
}

// Picture is one row's picture.
type Picture struct {
	Row           uint64 // of the raw stream
	At            int64  // ns since 1970 UTC
	Encoded       []byte // JPEG or PNG; not kept
	Width, Height int
	Finding       Finding
}

// Keeper chooses and keeps pictures. Make it with Open. Offer is called from
// one goroutine, everything else from any.
type Keeper struct {
	config Config
	device Device
	spool  *spool.Spool
	queue  chan telemetry.Frame
	ended  chan struct{}

	// putting is held, before mu, while a picture is put into the spool, and
	// while state and spool are saved: nothing may be sent that is not paid for.
	putting sync.Mutex

	mu      sync.Mutex
	state   state
	lost    uint64 // pictures that never reached the spool
	saved   state  // as on the disk; zero: not known
	savedAt time.Time
}

// state is what is remembered over restarts.
type state struct {
	Schema  int    `json:"schema"` // 1
	Budget  budget `json:"budget"`
	Paid    uint64 `json:"paid"` // what the spool holds below this number is in Budget
	Chosen  uint64 `json:"chosen"`
	Refused uint64 `json:"refused"`
	Sent    uint64 `json:"sent"`
	Dropped uint64 `json:"dropped"`
}

// Names on the disk.
const (
	folder    = "frames"
	stateFile = folder + "/state.json"
)

const (
	maxStateBytes = 4 << 10
	saveEvery     = 10 * time.Second // between saves of counters alone
	queued        = 8                // pictures between pipeline and spool
	queueWait     = 2 * time.Second  // how long the pipeline waits for room there
)

// Open finds what an earlier run left. c must be valid.
func Open(c Config, d Device) (*Keeper, error) {
	k := &Keeper{config: c.withDefaults(), device: d, queue: make(chan telemetry.Frame, queued), ended: make(chan struct{})}
	var err error
	if k.spool, err = spool.Open(d.Disk, spool.Config{Dir: folder, MaxBytes: int64(k.config.SpoolMiB) << 20}); err != nil {
		return nil, fmt.Errorf("pictures for the hub: %w", err)
	}
	b, err := disk.ReadFile(d.Disk, stateFile, maxStateBytes)
	if err == nil {
		err = json.Unmarshal(b, &k.state)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		// Nobody knows what was sent: the day begins with nothing left.
		k.state = state{Budget: budget{Spent: k.perDay()}}
		d.Log.Warn("the budget of pictures begins anew, and empty", "error", err)
	}
	k.state.Schema = 1
	k.settle()
	go k.keep()
	return k, nil
}

// settle pays for pictures that a killed run had put into the spool, and not
// into its books.
func (k *Keeper) settle() {
	after := max(k.state.Paid, 1) - 1
	if next := k.spool.Stats().NextSeq; next <= after {
		after = 0 // the spool began anew
	}
	for {
		seq, payload, ok, err := k.spool.Read(after)
		if err != nil {
			k.device.Log.Warn("a picture for the hub is lost", "error", err)
			continue // the spool has given it up
		}
		if !ok {
			return
		}
		after = seq
		if f, err := telemetry.DecodeFrame(payload); err == nil {
			k.state.Chosen++
			k.state.Budget.Spent += float64(len(f.Encoded))
		}
	}
}

func (k *Keeper) perDay() float64 { return max(k.config.BudgetMiBPerDay*(1<<20), 0) }

// Spool is what waits for the hub.
func (k *Keeper) Spool() *spool.Spool { return k.spool }

// NextRow is the row after the last one whose picture was kept.
func (k *Keeper) NextRow() uint64 { return k.spool.NextRow() }

// Offer decides on a picture and hands it to the disk if it is to be sent. It
// waits for a bounded time when the disk stands, unless the device is patient.
func (k *Keeper) Offer(p Picture, now time.Time) {
	k.mu.Lock()
	c := k.state.Budget.choose(k.config, p.Finding, min(len(p.Encoded), k.config.MaxBytes), now)
	if c.why != "" {
		k.state.Chosen++
	}
	if c.refused {
		k.state.Refused++
	}
	k.mu.Unlock()
	if c.why == "" || c.refused {
		return
	}
	if s := p.Finding.Score; math.IsNaN(s) || math.IsInf(s, 0) {
		p.Finding.Score = 0 // the verdicts carry it as it is; people need none
	}
	f := telemetry.Frame{
		Row: p.Row, At: p.At, Device: string(k.device.Class), Width: p.Width, Height: p.Height, Format: frame.Format(p.Encoded), Why: c.why,
		Release: p.Finding.Release, Score: p.Finding.Score, Class: p.Finding.Class, Probability: p.Finding.Probability,
		Encoded: append([]byte(nil), p.Encoded...),
	}
	select {
	case k.queue <- f:
		return
	default:
	}
	if k.device.Patient {
		k.queue <- f
		return
	}
	t := time.NewTimer(queueWait)
	defer t.Stop()
	select {
	case k.queue <- f:
	case <-t.C:
		k.lose(f, errors.New("the disk stands"))
	}
}

func (k *Keeper) lose(f telemetry.Frame, err error) {
	k.device.Log.Warn("a picture for the hub is lost", "row", f.Row, "error", err)
	k.mu.Lock()
	k.lost++
	k.mu.Unlock()
}

// keep writes pictures to the spool until there are no more.
func (k *Keeper) keep() {
	defer close(k.ended)
	for f := range k.queue {
		if err := shrink(&f, k.config.MaxBytes); err != nil {
			k.lose(f, err)
			continue
		}
		// The spool counts what it cannot write.
		k.putting.Lock()
		err := k.spool.Put(func(dst []byte, boot, _ uint64) ([]byte, error) {
			f.Boot = boot
			return f.Append(dst)
		}, f.Row+1)
		k.putting.Unlock()
		if err != nil {
			k.device.Log.Warn("a picture for the hub is lost", "row", f.Row, "error", err)
		}
	}
}

// Sent says that the hub has one picture more.
func (k *Keeper) Sent() {
	k.mu.Lock()
	k.state.Sent++
	k.mu.Unlock()
}

// Sync makes pictures durable, which lets them be sent, after what they cost
// has been written down.
func (k *Keeper) Sync() error { return k.sync(saveEvery) }

// sync saves counters that are older than every.
func (k *Keeper) sync(every time.Duration) error {
	k.putting.Lock()
	defer k.putting.Unlock()
	k.mu.Lock()
	now := k.total()
	spent := now.Chosen-now.Refused != k.saved.Chosen-k.saved.Refused
	changed := spent || now != k.saved && time.Since(k.savedAt) >= every
	k.mu.Unlock()
	if changed {
		b, err := json.Marshal(now)
		if err == nil {
			err = disk.WriteAtomic(k.device.Disk, stateFile, b)
		}
		if err != nil {
			return fmt.Errorf("save the budget of pictures: %w", err)
		}
		k.mu.Lock()
		k.saved, k.savedAt = now, time.Now()
		k.mu.Unlock()
	}
	return k.spool.Sync()
}

// total is the state with what this run lost. mu is held.
func (k *Keeper) total() state {
	s := k.state
	held := k.spool.Stats()
	s.Dropped += k.lost + held.Dropped
	s.Paid = held.NextSeq
	return s
}

// Report is what the device tells of its pictures, but for those that could
// not be read.
func (k *Keeper) Report(now time.Time) twin.Frames {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, held := k.total(), k.spool.Stats()
	r := twin.Frames{Chosen: s.Chosen, Refused: s.Refused, Sent: s.Sent, Dropped: s.Dropped, SpoolFrames: held.Blocks, SpoolBytes: held.Bytes}
	if k.config.BudgetMiBPerDay >= 0 {
		s.Budget.refill(k.perDay(), now)
		left := int64(max(k.perDay()-s.Budget.Spent, 0))
		r.BudgetBytes = &left
	}
	return r
}

// Close writes what waits and closes the spool. Offer is not called any more.
func (k *Keeper) Close() error {
	close(k.queue)
	<-k.ended
	return errors.Join(k.sync(0), k.spool.Close())
}
