// Package loopback plays text scenarios on their second level: the real hub and
// whole agents in this process, with real models, signatures, MQTT and HTTPS on
// loopback. The first level, simulator/scenario, plays the same files on virtual
// time with many more devices and faults.
//
// Time is compressed: an hour of the scenario takes an hour divided by the pace.
// Devices have disks in memory and a cable of their own to the hub, so that
// their power can be cut for good and their connection for a while. What the
// second level cannot play is refused by name.
//
// Only simulator/cli imports it.
package loopback

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/source/synthetic"
	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
	"github.com/swellfleet/swell/simulator/scenario"
)

// MaxDevices is how many devices the second level plays.
const MaxDevices = 8

// Options change how a scenario is played. The zero value works.
type Options struct {
	// Pace is how many seconds of the scenario pass in one. 0 means 60.
	Pace  float64
	Trace func(at time.Duration, what string) // nil: none; at is the scenario's time
	Log   *slog.Logger                        // of hub and agents; nil: none
}

// plant is a hub and its devices while a scenario is played.
type plant struct {
	s       scenario.Scenario
	o       Options
	cfg     hub.Config
	hub     *local.Hub
	devices []*device
	began   time.Time
	tried   int      // the counter of the scenario's release; 0: not published yet
	names   []string // of rollouts, in the order they were proposed
	created []string // people that have an account
	pass    string

	acted  map[string]bool // devices on which the release ever acted
	repair []func()        // what ends a fault, when it is due
	due    []time.Time
}

// device is one agent with its disk and its cables.
type device struct {
	scenario.Member
	seed   uint64
	plant  *plant
	mqtt   *cable
	https  *cable
	token  string
	disk   *disk.Mem
	agent  *agent.Agent
	cancel context.CancelFunc // nil: no power
	ended  chan struct{}
}

// Play plays a scenario to its end. Result has what this level can see: where
// rollouts stand, where the release acts, and which expectations did not hold.
func Play(ctx context.Context, s scenario.Scenario, o Options) (scenario.Result, error) {
	if o.Pace == 0 {
		o.Pace = 60
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := playable(s); err != nil {
		return scenario.Result{}, err
	}
	dir, err := os.MkdirTemp("", "swell-loopback-")
	if err != nil {
		return scenario.Result{}, err
	}
	defer os.RemoveAll(dir)
	p := &plant{s: s, o: o, acted: map[string]bool{}, pass: rand.Text()}
	p.cfg = hub.Config{DataDir: dir, Log: o.Log, Rollouts: hub.Rollouts{Policies: []api.RolloutPolicy{{Policy: p.policy()}}}}
	p.cfg.Rollouts.Policies = append(p.cfg.Rollouts.Policies, local.AtOnce("at-once")...)
	addresses, err := free(4) // so that the hub can come back where it was
	if err != nil {
		return scenario.Result{}, err
	}
	p.cfg.HTTP.Listen, p.cfg.Devices.Listen, p.cfg.Broker.Listen, p.cfg.Objects.Listen = addresses[0], addresses[1], addresses[2], addresses[3]
	if p.hub, err = local.Start(ctx, p.cfg, ""); err != nil {
		return scenario.Result{}, err
	}
	defer func() { _ = p.hub.Close() }() // the folder goes with it
	defer p.powerOff()
	if err := p.build(ctx); err != nil {
		return scenario.Result{}, fmt.Errorf("cannot play %s on loopback: %w", s.Name, err)
	}
	if err := p.play(ctx); err != nil {
		return scenario.Result{}, fmt.Errorf("cannot play %s on loopback: %w", s.Name, err)
	}
	return p.result(ctx)
}

// playable refuses by name what this level does not have.
func playable(s scenario.Scenario) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("the second level cannot play %s: %s; play it without --loopback", s.Name, fmt.Sprintf(format, args...))
	}
	if n := s.Devices(); n > MaxDevices {
		return refuse("it has %d devices, at most %d are whole agents here", n, MaxDevices)
	}
	if len(s.Faults) > 0 {
		return refuse("faults by chance (fault … every …) are for virtual time")
	}
	if len(s.Network) > 0 && slices.ContainsFunc(s.Network, func(l scenario.Link) bool { return l.Drop+l.Duplicate > 0 || l.BitsPerS > 0 }) {
		return refuse("its network drops, doubles or slows down, and loopback does not")
	}
	if s.Select != "" || len(s.Policy.Windows) > 0 {
		return refuse("rollouts of a part of the fleet and maintenance windows are for virtual time")
	}
	if _, err := model(s.Release, ""); err != nil {
		return refuse("%v", err)
	}
	for _, st := range s.Steps {
		switch st.Verb {
		case "partition", "offline", "power", "dead", "pause", "resume", "abort", "promote", "approve":
		case "hub":
			if st.Who != "crash" {
				return refuse("the step hub %s", st.Who)
			}
		default:
			return refuse("the step %q", st.Verb)
		}
	}
	return nil
}

// short is a time of the scenario as it is here, at least least.
func (p *plant) short(seconds, least float64) float64 {
	if seconds == 0 {
		return 0
	}
	return max(seconds/p.o.Pace, least)
}

// policy is the scenario's, compressed. What bounds an agent's reports keeps a
// length that real agents can meet.
func (p *plant) policy() rollout.Policy {
	q := p.s.Policy
	q.Name = "story"
	q.Waves = slices.Clone(q.Waves)
	for i := range q.Waves {
		q.Waves[i].DeadlineS = p.short(q.Waves[i].DeadlineS, 20)
	}
	or := func(v, def float64) float64 {
		if v == 0 {
			return def
		}
		return v
	}
	q.ShadowS = p.short(q.ShadowS, 1)
	q.ShadowWindowS = p.short(or(q.ShadowWindowS, 60), 0.2)
	q.SoakS = p.short(q.SoakS, 0.5)
	q.LeaseS, q.GraceS, q.StaleS = p.short(or(q.LeaseS, 600), 10), 5, 5
	q.RetryS = p.short(or(q.RetryS, 60), 0.5)
	q.RollbackS = p.short(or(q.RollbackS, 86400), 20)
	q.MaxPauseS = p.short(or(q.MaxPauseS, 604800), 20)
	return q
}

func free(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out, nil
}

// build makes the devices and, unless they are to be empty, brings release 1 to
// all of them.
func (p *plant) build(ctx context.Context) error {
	at := p.hub.Addrs()
	for i, m := range p.s.Members() {
		d := &device{Member: m, seed: uint64(i) + 1, plant: p, disk: &disk.Mem{}}
		p.devices = append(p.devices, d)
		var err error
		if d.mqtt, err = newCable(at.MQTT); err != nil {
			return err
		}
		if d.https, err = newCable(at.Devices); err != nil {
			return err
		}
		if d.token, err = local.EnrolmentToken(ctx, p.hub.API, fleet.Device{ID: m.ID, Class: m.Class, Labels: m.Labels}); err != nil {
			return err
		}
		if err := d.power(ctx); err != nil {
			return err
		}
	}
	for _, d := range p.devices {
		if err := local.Until(ctx, d.ID.String()+" to report", func() (bool, error) {
			resp, err := p.hub.API.GetDeviceWithResponse(ctx, d.ID.Site, d.ID.Node)
			return err == nil && resp.JSON200 != nil && resp.JSON200.Status.Reported != nil, err
		}); err != nil {
			return err
		}
	}
	if p.s.First {
		return nil
	}
	name, err := p.propose(ctx, scenario.Nature{}, "at-once")
	if err != nil {
		return err
	}
	return p.hub.Promoted(ctx, name, func(string) {})
}

// power starts a device's agent on what its disk holds.
func (d *device) power(ctx context.Context) error {
	h := d.plant.hub.Fleet()
	a, err := agent.New(agent.Config{
		Site: d.ID.Site, Node: d.ID.Node, Class: d.Class, Labels: d.Labels, Disk: d.disk,
		Hub:        agent.Hub{URL: "https://" + d.https.address(), MQTT: "tls://" + d.mqtt.address(), CAPEM: h.CAPEM, Token: d.token, ReconnectMinS: 0.05, ReconnectMaxS: 0.5},
		Trust:      agent.Trust{KeysPEM: h.KeysPEM, LedgerKey: h.LedgerKey},
		Custom:     synthetic.New(synthetic.Config{Seed: d.seed, RateHz: 100, Channels: []string{"signal-1", "signal-2"}}),
		Telemetry:  agent.Telemetry{BlockRows: 100, BlockS: 1, LiveS: -1},
		HeartbeatS: 0.3, Status: "off", Log: d.plant.o.Log.With("device", d.ID.String()),
	})
	if err != nil {
		return err
	}
	run, cancel := context.WithCancel(ctx)
	d.agent, d.cancel, d.ended = a, cancel, make(chan struct{})
	go func(ended chan struct{}) {
		defer close(ended)
		if err := a.Run(run); err != nil && run.Err() == nil {
			d.plant.trace("%s: the agent ended: %v", d.ID, err)
		}
	}(d.ended)
	return nil
}

// fail cuts the power: nothing reaches the disk from here on, and what was not
// synced is gone.
func (d *device) fail() {
	if d.cancel == nil {
		return
	}
	d.disk.Fault(func(disk.Op, string) error { return disk.ErrPowerCut })
	d.cancel()
	<-d.ended
	d.disk, d.cancel = d.disk.Crash(nil), nil
}

// connect mends a device's cables, or cuts them.
func (d *device) connect(on bool) {
	d.mqtt.plug(on)
	d.https.plug(on)
}

func (p *plant) powerOff() {
	for _, d := range p.devices {
		d.fail()
		for _, c := range []*cable{d.mqtt, d.https} {
			if c != nil {
				c.close()
			}
		}
	}
}

func (p *plant) trace(format string, args ...any) {
	if p.o.Trace != nil {
		p.o.Trace(p.elapsed(), fmt.Sprintf(format, args...))
	}
}

// elapsed is the scenario's time.
func (p *plant) elapsed() time.Duration {
	if p.began.IsZero() {
		return 0
	}
	return time.Duration(float64(time.Since(p.began)) * p.o.Pace)
}

// look is how often devices are looked at.
const look = 50 * time.Millisecond

// play lets happen what the scenario says, until all rollouts have ended and
// nothing more is to come, or its time is over.
func (p *plant) play(ctx context.Context) error {
	steps := slices.Clone(p.s.Steps)
	steps = append(steps, scenario.Step{At: time.Minute, Verb: "release", Nature: &p.s.Release})
	slices.SortStableFunc(steps, func(a, b scenario.Step) int { return int(a.At - b.At) })
	p.began = time.Now()
	t := time.NewTicker(look)
	defer t.Stop()
	proposed := ""
	rest := time.Time{} // since when all is at rest
	for p.elapsed() < p.s.For {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
		p.observe()
		p.mend()
		for len(steps) > 0 && steps[0].At <= p.elapsed() {
			st := steps[0]
			steps = steps[1:]
			if st.Nature != nil {
				name, err := p.propose(ctx, *st.Nature, "story")
				if err != nil {
					return err
				}
				proposed = name
				p.trace("%s is proposed", name)
				continue
			}
			if err := p.step(ctx, st, proposed); err != nil {
				return err
			}
		}
		if len(steps) > 0 || proposed == "" || len(p.repair) > 0 {
			continue
		}
		r, err := p.hub.Rollout(ctx, proposed)
		if err != nil {
			return err
		}
		if r.Status.EndedAt == nil {
			rest = time.Time{}
			continue
		}
		if rest.IsZero() {
			rest = time.Now()
		}
		if time.Since(rest) > 2*time.Second {
			return nil
		}
	}
	return nil
}

// observe notes where the release acts.
func (p *plant) observe() {
	for _, d := range p.devices {
		if d.cancel == nil || p.tried == 0 {
			continue
		}
		if c := d.agent.Reported().Champion; c != nil && int(c.Counter) == p.tried {
			p.acted[d.ID.String()] = true
		}
	}
}

// after does f when t of the scenario has passed.
func (p *plant) after(t time.Duration, f func()) {
	p.repair = append(p.repair, f)
	p.due = append(p.due, time.Now().Add(time.Duration(float64(t)/p.o.Pace)))
}

func (p *plant) mend() {
	for i := 0; i < len(p.due); {
		if time.Now().Before(p.due[i]) {
			i++
			continue
		}
		f := p.repair[i]
		p.repair, p.due = slices.Delete(p.repair, i, i+1), slices.Delete(p.due, i, i+1)
		f()
	}
}

func (p *plant) step(ctx context.Context, st scenario.Step, name string) error {
	p.trace("%s %s %s", st.Verb, st.Who, st.Arg)
	var chosen []*device
	for _, d := range p.devices {
		if d.Matches(st.Who) {
			chosen = append(chosen, d)
		}
	}
	switch st.Verb {
	case "partition", "offline":
		for _, d := range chosen {
			d.connect(false)
			p.after(st.For, func() { d.connect(true) })
		}
	case "power", "dead":
		for _, d := range chosen {
			d.fail()
			if st.Verb == "dead" {
				continue
			}
			p.after(st.For, func() {
				if err := d.power(ctx); err != nil {
					p.trace("%s does not start: %v", d.ID, err)
				}
			})
		}
	case "hub":
		if err := p.hub.Close(); err != nil {
			p.trace("the hub ends: %v", err)
		}
		again, err := local.Start(ctx, p.cfg, p.hub.Password)
		if err != nil {
			return fmt.Errorf("start the hub again: %w", err)
		}
		p.hub = again
	default:
		return p.ask(ctx, st, name)
	}
	return nil
}

// result says what came of it, in the scenario's time.
func (p *plant) result(ctx context.Context) (scenario.Result, error) {
	r := scenario.Result{
		Scenario: p.s.Name + ", loopback", Seed: p.s.Seed, Devices: len(p.devices), Virtual: p.elapsed(),
		Rollouts: map[string]rollout.Rollout{}, Refused: map[string]string{},
	}
	for i, name := range p.names {
		got, err := p.hub.Rollout(ctx, name)
		if err != nil {
			return r, err
		}
		ro := p.told(got)
		n := i + 1
		if p.s.First {
			n++
		}
		r.Rollouts[fmt.Sprintf("r-%d", n)] = ro
	}
	r.Rollout = r.Rollouts["r-2"]
	decisions, err := p.hub.API.ListRolloutDecisionsWithResponse(ctx, r.Rollout.Name, nil)
	if err != nil {
		return r, err
	}
	if decisions.JSON200 != nil {
		r.Decisions = len(decisions.JSON200.Items)
	}
	for _, d := range p.devices {
		if d.cancel == nil {
			continue
		}
		if c := d.agent.Reported().Champion; c != nil && int(c.Counter) == p.tried {
			r.Running++
		}
	}
	r.Tried = len(p.acted)
	if unsound(p.s.Release) {
		r.Harmed = r.Tried
	}
	r.Unmet = p.s.Judge(r)
	return r, nil
}

// told is a rollout as the hub tells of it, its times those of the scenario.
func (p *plant) told(a apimodel.Rollout) rollout.Rollout {
	ro := rollout.Rollout{Name: a.Metadata.Name, Policy: p.s.Policy, State: rollout.State(a.Status.State), Reason: a.Status.Message, Wave: len(a.Status.Waves)}
	if w := a.Status.CurrentWave; w != nil {
		ro.Wave = *w
	}
	for i, w := range a.Status.Waves {
		if ro.State.Final() && w.State != apimodel.WaveStatePassed && i < ro.Wave {
			ro.Wave = i
		}
	}
	if at := a.Status.StartedAt; at != nil {
		ro.Started = *at
		if end := a.Status.EndedAt; end != nil {
			ro.Ended = at.Add(time.Duration(float64(end.Sub(*at)) * p.o.Pace))
			if ro.State == rollout.Failed || ro.State == rollout.Aborted {
				ro.RollbackFrom = ro.Ended
			}
		}
	}
	return ro
}
