package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/firmware"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/firmware/slot"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// ErrRestart is what Run returns when another program is to take over: call
// Boot then.
var ErrRestart = errors.New("another program is to run")

// program is the agent's care for its own program: the same update machine as
// for models, with a restart where a model is swapped.
type program struct {
	*updater
	agent *Agent
	slots *firmware.Slots
	since time.Time
	end   context.CancelCauseFunc

	working atomic.Bool // as of the newest observation
	// before are the counters when it began to work without a break; only the
	// updater's loop uses it.
	before pipeline.Counters
	ending bool // another program is to run; only the updater's loop uses it
}

func (a *Agent) newProgram() (*program, error) {
	slots, err := firmware.Open(a.disk, slot.Name(a.config.Slot))
	if err != nil {
		return nil, err
	}
	journal, err := apply.LoadJournal(a.disk, firmware.JournalFile)
	if err != nil {
		return nil, err
	}
	if journal = journal.Adopt(slots.Fact(), a.config.Now().UnixMilli()); journal != nil {
		if err := saveJSON(a.disk, firmware.JournalFile, journal); err != nil {
			return nil, err
		}
	}
	// One boot more than the loader allows: it counts, and it alone gives up.
	machine, err := update.New(update.Config{MaxBoots: slot.MaxBoots + 1, QuarantineLate: true}, journal)
	if err != nil {
		return nil, err
	}
	client := a.identity.Client()
	p := &program{agent: a, slots: slots, since: a.config.Now().UTC()}
	p.updater = &updater{
		machine: machine, applier: a.installer(slots, client), close: client.CloseIdleConnections,
		observe: p.observe, settled: func(update.Status) bool { return true }, follow: p.follow,
		journal: firmware.JournalFile, disk: a.disk, now: a.config.Now, log: a.config.Log.With("of", "firmware"),
		events: make(chan update.Event, eventQueue), report: a.wantReport, alive: func() {}, resumed: make(chan struct{}),
	}
	return p, nil
}

func (a *Agent) installer(slots *firmware.Slots, client *http.Client) *firmware.Installer {
	c := firmware.InstallerConfig{StagerConfig: a.staging(artifact.Firmware, firmware.Releases, client), Slots: slots, Interlock: a.mayRestart}
	if d, ok := a.disk.(*disk.Dir); ok && len(a.config.CheckArguments) > 0 {
		c.Check = func(ctx context.Context, program string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, rehearseTimeout)
			defer cancel()
			out, err := exec.CommandContext(ctx, d.Path(program), a.config.CheckArguments...).CombinedOutput()
			said := strings.TrimSpace(string(out))
			if err != nil {
				return "", fmt.Errorf("%w: %.300s", err, said)
			}
			return said, nil
		}
	}
	return firmware.NewInstaller(c)
}

// updates is the updater of p, nil for a nil p.
func (p *program) updates() *updater {
	if p == nil {
		return nil
	}
	return p.updater
}

// firmwarePart is the document as the machine for firmware is to see it: a
// program cannot compute in another's shadow.
func firmwarePart(d twin.Desired) twin.Desired {
	d.Model, d.Lease = nil, d.FirmwareLease
	if d.Firmware != nil {
		a := *d.Firmware
		a.ShadowS = 0
		d.Model = &a
	}
	return d
}

// mayRestart says why the agent must not be restarted now: the operator's
// interlock, or a model that a restart would throw back.
func (a *Agent) mayRestart(ctx context.Context) error {
	if err := a.interlocks.Check(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	u := a.updater
	a.mu.Unlock()
	if u == nil {
		return nil
	}
	if s, _ := u.read(); s.Trial != nil && !s.Trial.Phase.Final() && s.Trial.Phase != twin.PhaseFetching && s.Trial.Phase != twin.PhaseReady {
		return fmt.Errorf("model %s-%d is %s: a restart would throw it back", s.Trial.Name, s.Trial.Counter, s.Trial.Phase)
	}
	return nil
}

// observe tells the machine what this program has done since it has everything
// it needs: the hub, its identity, its model. Windows count, or rows on a
// device that has no model yet.
func (p *program) observe() update.Event {
	s, _ := p.read()
	var o update.Observed
	if s.Champion != nil {
		o.Champion = s.Champion.Manifest
	}
	counters, latency, model, ok := p.agent.work()
	if !ok {
		p.working.Store(false)
		return o
	}
	if !p.working.Load() {
		p.before = counters
		p.working.Store(true)
	}
	o.LatencyP99Ms = latency
	o.Due, o.Windows = counters.WindowsDue-p.before.WindowsDue, counters.WindowsScored-p.before.WindowsScored
	if !model {
		o.Due = counters.Samples - p.before.Samples
		o.Windows = o.Due
	}
	return o
}

// work returns the counters of the pipeline, the 99th percentile of an inference
// and whether a model acts. ok is
// false while something is missing for the agent's work.
func (a *Agent) work() (c pipeline.Counters, latencyMs float64, model, ok bool) {
	if !a.uplink.Connected() {
		return c, 0, false, false
	}
	a.mu.Lock()
	p, u := a.pipeline, a.updater
	a.mu.Unlock()
	if p == nil || u == nil {
		return c, 0, false, false
	}
	if s, err := u.read(); err != nil {
		return c, 0, false, false
	} else if s.Champion != nil {
		model = true
		if r, acts := p.Acting(); !acts || r.Manifest != s.Champion.Manifest {
			return c, 0, model, false
		}
	}
	return p.Counters(), p.Watch().LatencyP99Ms, model, true
}

// follow lets the slots follow what the machine has saved.
func (p *program) follow(s update.Status) {
	restart, err := p.slots.Settle(firmware.ViewOf(s), p.working.Load())
	if err != nil {
		p.log.Warn("the firmware slots could not be saved", "error", err)
		return
	}
	if restart && !p.ending {
		p.ending = true
		p.log.Info("another program is to run: this one ends")
		p.end(ErrRestart)
	}
}

// tell adds the program's part to a report.
func (p *program) tell(r *twin.Reported) {
	s, _ := p.read()
	name, image := p.slots.Running()
	r.Agent.Slot, r.Agent.Firmware = string(name), string(image.Manifest)
	r.Firmware = &twin.Firmware{Trial: s.Trial}
	if image.Manifest != "" {
		r.Firmware.Running = &twin.Running{Name: image.Name, Counter: image.Counter, Manifest: image.Manifest, Model: image.File, Since: p.since}
	}
	if g := s.LastGood; g != nil {
		r.Firmware.LastGood = &twin.Running{Name: g.Name, Counter: g.Counter, Manifest: g.Manifest, Model: g.Model}
	}
	r.Quarantined = append(r.Quarantined, s.Quarantined...)
}
