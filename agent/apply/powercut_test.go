package apply_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// A device without clocks, sockets and goroutines of its own: the product's
// machine, journal and Stager on a disk in memory, one event after the other.
// Bytes, signatures and digests are real; sessions are a name each.

const journal = "update.json"

var errDark = errors.New("the power is gone")

// stage is what the hub wants for a while.
type stage struct {
	offer func(*twin.Desired)
	until func(update.Status) bool
}

// story is how a device gets from a state at rest to another.
type story struct {
	name string
	// before brings the device to where the story begins.
	before, stages []stage
	bad            artifact.Digest // yields NaN when it acts
	champions      []artifact.Digest
	end            artifact.Digest // acts in the end
	// serve is asked about every download, counted from 1 in each story; nil:
	// the release server answers.
	serve func(w http.ResponseWriter, r *http.Request, n int, content []byte) bool
}

// plant is what all stories share.
type plant struct {
	roots    trust.Roots
	releases map[artifact.Digest]agenttest.Release
}

// hub remembers how far a story is: it does not lose its power.
type hub struct {
	stages     []stage
	at         int
	try        int // of the offer of this stage
	generation uint64
	away       bool
	served     int
}

func (h *hub) done() bool { return h.at == len(h.stages) }

// wants is the stage whose offer stands: the last one when all are done.
func (h *hub) wants() stage { return h.stages[min(h.at, len(h.stages)-1)] }

// look moves on when the device is where the stage wants it, and offers once
// more what failed for reasons that are not the release's.
func (h *hub) look(s update.Status) {
	if t := s.Trial; t != nil && t.Phase.Final() && t.Try == h.try && t.Rollout == h.rollout() {
		switch t.Code {
		case twin.CodeFetch, twin.CodeDisk, twin.CodeMemory, twin.CodeExpired, twin.CodeWithdrawn:
			h.try++
			return
		}
	}
	if !h.done() && h.wants().until(s) {
		h.at++
		if !h.done() {
			h.try = 0
		}
	}
}

func (h *hub) rollout() string {
	var d twin.Desired
	h.wants().offer(&d)
	return d.Model.Rollout
}

// rig is one device with its power on.
type rig struct {
	t     *testing.T
	p     *plant
	s     *story
	hub   *hub
	disk  *disk.Mem
	dark  func() bool // the power is gone
	mono  time.Duration
	queue []update.Event

	machine  *update.Machine
	stager   *apply.Stager
	acting   artifact.Digest
	windows  uint64 // scored by it
	shadows  bool
	shadowed uint64
	resident map[artifact.Digest]bool
	unsaved  bool
}

// RoundTrip is the release server.
func (r *rig) RoundTrip(req *http.Request) (*http.Response, error) {
	if r.hub.away {
		return nil, errors.New("no route to the hub")
	}
	parts := strings.SplitN(strings.TrimPrefix(req.URL.Path, "/v1/releases/"), "/", 2)
	w := httptest.NewRecorder()
	var content []byte
	for d, rel := range r.p.releases {
		if d.Hex() == parts[0] {
			content = rel.Files[parts[1]]
		}
	}
	r.hub.served++
	if content == nil {
		http.NotFound(w, req)
	} else if r.s.serve == nil || !r.s.serve(w, req, r.hub.served, content) {
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
	}
	return w.Result(), nil
}

// powerOn starts the agent on what the disk holds.
func powerOn(t *testing.T, p *plant, s *story, h *hub, d *disk.Mem, dark func() bool) (*rig, error) {
	r := &rig{t: t, p: p, s: s, hub: h, disk: d, dark: dark, resident: map[artifact.Digest]bool{}}
	log := slog.New(slog.DiscardHandler)
	if err := d.MkdirAll("slots"); err != nil {
		return r, err
	}
	j, err := apply.LoadJournal(d, journal)
	if err != nil {
		return r, err
	}
	if r.machine, err = update.New(update.Config{}, j); err != nil {
		return r, err
	}
	r.stager = apply.NewStager(apply.StagerConfig{
		Disk: d, Roots: func() trust.Roots { return p.roots }, Kind: artifact.Model, Class: "pump", Arch: runtime.GOARCH, Folder: "slots",
		Log: log, Base: "http://hub", Client: &http.Client{Transport: r}, ByteBudget: 1 << 20,
	})
	r.step(update.Booted{})
	return r, r.advance()
}

var epoch = time.Date(2026, 3, 2, 6, 0, 0, 0, time.UTC)

func (r *rig) step(e update.Event) {
	r.machine.Step(update.Moment{Wall: epoch.Add(r.mono), Mono: r.mono, Draw: 0.5}, e)
}

// advance does what the machine asks for, as the agent's updater does.
func (r *rig) advance() error {
	for {
		ready := r.machine.Ready()
		if ready.Save == nil && len(ready.Do) == 0 && !ready.Report {
			return nil
		}
		if ready.Save != nil {
			b, err := json.Marshal(ready.Save)
			if err != nil {
				r.t.Fatal(err)
			}
			if err := disk.WriteAtomic(r.disk, journal, b); err != nil {
				if r.dark() {
					return errDark
				}
				r.unsaved = true
				return nil // the next observation tries again
			}
			r.unsaved = false
		}
		r.machine.Advance()
		for _, a := range ready.Do {
			if err := r.do(a); err != nil {
				return err
			}
		}
	}
}

// do performs one action and queues its answer.
func (r *rig) do(a update.Action) error {
	d := a.Release.Manifest
	switch a.Kind {
	case update.ActConfirm, update.ActCancel:
		return nil
	case update.ActDrop:
		r.shadows = false
		return nil
	case update.ActClean:
		r.stager.Clean(a.Keep)
		if r.dark() {
			return errDark
		}
		return nil
	}
	runner := apply.NewRunner(slog.New(slog.DiscardHandler))
	runner.Start(context.Background(), a, func(e update.Event) { r.queue = append(r.queue, e) }, func(ctx context.Context) (update.Release, error) {
		switch a.Kind {
		case update.ActFetch:
			return update.Release{}, r.stager.Fetch(ctx, d, func(int64, int64) {})
		case update.ActVerify:
			return r.stager.Verify(d, a.Held)
		case update.ActLoad:
			return r.load(d)
		case update.ActShadow:
			r.shadows, r.shadowed = true, 0
		case update.ActSwap:
			if !r.resident[d] {
				return update.Release{}, apply.Refuse(twin.CodeLoad, errors.New("it is not loaded"))
			}
			r.shadows = false
			r.act(d)
		case update.ActResume, update.ActRollback:
			if d == "" {
				r.act("")
				return update.Release{}, nil
			}
			var rel update.Release
			var err error
			if a.Kind == update.ActRollback && r.resident[d] {
				v := r.p.releases[d]
				rel = update.Release{Name: v.Name, Counter: v.Counter, Manifest: d, Model: v.Model}
			} else if rel, err = r.load(d); err != nil {
				return update.Release{}, err
			}
			if a.Standby != nil {
				_, _ = r.load(a.Standby.Manifest) // loaded when it is needed, or fails then
			}
			r.act(d)
			return rel, nil
		}
		return update.Release{}, nil
	})
	runner.Wait()
	if r.dark() {
		return errDark
	}
	return nil
}

func (r *rig) act(d artifact.Digest) {
	if r.acting != d {
		r.acting, r.windows = d, 0
	}
}

// load makes a session of verified bytes, as the applier does.
func (r *rig) load(d artifact.Digest) (update.Release, error) {
	m, v, err := r.stager.Verified(d)
	if err != nil {
		return update.Release{}, err
	}
	f, ok := v.File(artifact.RoleModel)
	if !ok {
		return update.Release{}, apply.Refuse(twin.CodeContent, errors.New("no model"))
	}
	in, err := r.stager.Open(d, f)
	if err != nil {
		return update.Release{}, err
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil {
		return update.Release{}, err
	}
	if artifact.Of(b) != r.p.releases[d].Model {
		r.t.Errorf("%s: loads bytes that are not those of the release", r.s.name)
	}
	r.resident[d] = true
	return update.Release{Name: m.Name, Counter: m.Counter, Manifest: d, Model: artifact.Of(b)}, nil
}

// live lets time pass until the story is done, the power goes (errDark), or
// for as long as limit.
func (r *rig) live(limit time.Duration, stop func() bool) error {
	told := [2]int{-1, -1} // the stage and the try the device was told of
	for end := r.mono + limit; r.mono < end; {
		if !r.hub.away {
			if len(r.queue) == 0 && !r.unsaved && told[0] >= 0 {
				r.hub.look(r.machine.Status())
			}
			if now := [2]int{min(r.hub.at, len(r.hub.stages)-1), r.hub.try}; told != now {
				told = now
				r.hub.generation++
				doc := twin.Desired{Schema: 1, Site: "hall-1", Node: "pump-03", Generation: r.hub.generation, IssuedAt: epoch, ExpiresAt: epoch.Add(1000 * time.Hour)}
				r.hub.wants().offer(&doc)
				doc.Model.Try = r.hub.try
				r.queue = append(r.queue, update.Offered{Doc: doc})
			}
		}
		if stop() {
			return nil
		}
		if len(r.queue) > 0 {
			e := r.queue[0]
			r.queue = r.queue[1:]
			r.step(e)
		} else {
			r.mono += 250 * time.Millisecond
			r.step(r.observed())
		}
		if err := r.advance(); err != nil {
			return err
		}
	}
	return fmt.Errorf("nothing came of it in %s: %+v, trial %+v", limit, r.machine.Status().Champion, r.machine.Status().Trial)
}

func (r *rig) observed() update.Observed {
	o := update.Observed{Champion: r.acting}
	if r.acting != "" {
		r.windows += 10
		o.Due, o.Windows = r.windows, r.windows
		if r.acting == r.s.bad {
			o.NonFinite = r.windows
		}
	}
	if r.shadows {
		r.shadowed += 10
		o.Shadow = &twin.Shadow{Items: r.shadowed}
	}
	return o
}

// What hubs say.
func trial(r agenttest.Release) stage {
	return stage{offer: assign(r, twin.ModeTrial), until: func(s update.Status) bool {
		return s.Trial != nil && s.Trial.Manifest == r.Manifest && s.Trial.Phase == twin.PhaseConfirmed && s.Champion != nil && s.Champion.Manifest == r.Manifest
	}}
}

// fails is a trial that does not end well: the device goes back by itself.
func fails(r agenttest.Release) stage {
	return stage{offer: assign(r, twin.ModeTrial), until: func(s update.Status) bool {
		return s.Trial != nil && s.Trial.Manifest == r.Manifest && s.Trial.Phase.Final() && s.Trial.Phase != twin.PhaseConfirmed && s.Champion != nil && s.Champion.Manifest != r.Manifest
	}}
}

// soaks is a trial as far as its soak.
func soaks(r agenttest.Release) stage {
	st := trial(r)
	acts := st.until
	st.until = func(s update.Status) bool {
		return acts(s) || s.Trial != nil && s.Trial.Manifest == r.Manifest && s.Trial.Phase == twin.PhaseSoaking
	}
	return st
}

// back is a hub's order to return.
func back(r agenttest.Release) stage {
	return stage{offer: assign(r, twin.ModeRollback), until: trial(r).until}
}

func assign(r agenttest.Release, mode twin.Mode) func(*twin.Desired) {
	return func(d *twin.Desired) {
		d.Model = &twin.Assignment{
			Rollout: fmt.Sprintf("r%d-%s", r.Counter, mode), Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: mode,
			Deadline: epoch.Add(20 * time.Hour), ShadowS: 1, SoakS: 2, MinWindows: 5,
		}
		d.Lease = &twin.Lease{ID: fmt.Sprintf("l%d", d.Generation), Manifest: r.Manifest, ExpiresAt: epoch.Add(20 * time.Hour)}
	}
}

// fault is one way in which the disk fails at its operation number at.
type fault struct {
	name string
	// install arms the disk; the power goes where it says so, by dark.
	install func(d *disk.Mem, at int, dark *bool)
	// lenient: the device may be without a model until the hub is back, since
	// the only good bytes are gone.
	lenient bool
}

// torn says how many of n unsynced bytes a power cut leaves.
var torn = []struct {
	name string
	keep func(n int) int
}{
	{"nothing", func(int) int { return 0 }},
	{"one byte", func(int) int { return 1 }},
	{"half", func(n int) int { return n / 2 }},
	{"all but one", func(n int) int { return n - 1 }},
	{"all", func(n int) int { return n }},
}

// cut ends the power at operation number at.
func cut(d *disk.Mem, at int, dark *bool) {
	n := 0
	d.Fault(func(disk.Op, string) error {
		if n++; n < at {
			return nil
		}
		*dark = true
		return disk.ErrPowerCut
	})
}

// lies is how many operations a drive without power to spare only says that it
// has done.
const lies = 12

// faults are the columns of the sweep.
func faults() []fault {
	var fs []fault
	for _, k := range torn {
		fs = append(fs, fault{name: "cut, " + k.name + " left", install: cut})
	}
	return append(fs,
		// From here on the drive only says that it has synced; all of it is gone
		// when the power fails, so many operations later.
		fault{name: "lost fsync", install: func(d *disk.Mem, at int, dark *bool) { cut(d, at+lies, dark) }},
		// No room for the next twenty operations that write, then there is.
		fault{name: "full disk", install: func(d *disk.Mem, at int, _ *bool) {
			n := 0
			d.Fault(func(op disk.Op, _ string) error {
				if n++; n >= at && n < at+20 && (op == disk.OpWrite || op == disk.OpCreate) {
					return disk.ErrFull
				}
				return nil
			})
		}},
		fault{name: "failed fsync", install: func(d *disk.Mem, at int, _ *bool) {
			n := 0
			d.Fault(func(op disk.Op, _ string) error {
				if n++; n >= at && n < at+3 && (op == disk.OpSync || op == disk.OpSyncDir) {
					return errors.New("input/output error")
				}
				return nil
			})
		}},
		fault{name: "bit rot and a cut", lenient: true, install: cut},
	)
}

// rot flips a bit of file number k below slots, in a copy of what was synced.
func rot(t *testing.T, d *disk.Mem, k int) {
	var files []string
	var walk func(string)
	walk = func(folder string) {
		names, err := d.List(folder)
		if err != nil {
			files = append(files, folder)
			return
		}
		for _, n := range names {
			walk(path.Join(folder, n))
		}
	}
	walk("slots")
	if len(files) == 0 {
		return
	}
	name := files[k%len(files)]
	b, err := disk.ReadFile(d, name, 1<<20)
	if err != nil || len(b) == 0 {
		return
	}
	b[(k*7919)%len(b)] ^= 1 << (k % 8)
	out, err := d.Create(name)
	if err == nil {
		_, err = out.Write(b)
		err = errors.Join(err, out.Sync(), out.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPowerCutAtEveryWriteOfEveryStoryLeavesAVerifiedModel plays each story
// once to count how often it changes the disk, and then once for each such
// change and each fault of the disk there. After the power is back the device
// has to run a release that the story allows, without the hub, its bytes
// verified at load; and with the hub it has to get where the story ends.
func TestPowerCutAtEveryWriteOfEveryStoryLeavesAVerifiedModel(t *testing.T) {
	press := agenttest.NewPress()
	model := bytes.Repeat([]byte("weights "), 40)
	release := func(n uint64) agenttest.Release {
		return press.Release(agenttest.Order{Counter: n, Bytes: append(bytes.Clone(model), byte(n)), Golden: []byte(`{"windows":[]}`)})
	}
	one, two, three := release(1), release(2), release(3)
	roots, err := trust.ParseRoots([]byte(press.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	p := &plant{roots: roots, releases: map[artifact.Digest]agenttest.Release{one.Manifest: one, two.Manifest: two, three.Manifest: three}}
	// Models come in half, what is missing with a wrong bit, then not at all.
	poor := func(w http.ResponseWriter, r *http.Request, n int, content []byte) bool {
		if !strings.HasSuffix(r.URL.Path, "model.onnx") {
			return false
		}
		switch {
		case n <= 3:
			_, _ = w.Write(content[:len(content)/2])
		case n <= 6 && r.Header.Get("Range") != "":
			wrong := bytes.Clone(content)
			wrong[len(wrong)/2] ^= 1
			_, _ = w.Write(wrong)
		case n <= 9:
			w.WriteHeader(http.StatusBadGateway)
		default:
			return false
		}
		return true
	}
	d := func(rs ...agenttest.Release) (ds []artifact.Digest) {
		for _, r := range rs {
			ds = append(ds, r.Manifest)
		}
		return ds
	}
	stories := []story{
		{name: "update", before: []stage{trial(one)}, stages: []stage{trial(two)}, champions: d(one, two), end: two.Manifest},
		{name: "rollback by the watchdog", before: []stage{trial(one)}, stages: []stage{fails(two)}, bad: two.Manifest, champions: d(one, two), end: one.Manifest},
		{name: "called back in the soak", before: []stage{trial(one)}, stages: []stage{soaks(two), back(one)}, champions: d(one, two), end: one.Manifest},
		{name: "called back after it was kept", before: []stage{trial(one)}, stages: []stage{trial(two), back(one)}, champions: d(one, two), end: one.Manifest},
		{name: "retry after bad downloads", before: []stage{trial(one)}, stages: []stage{trial(two)}, champions: d(one, two), end: two.Manifest, serve: poor},
		{name: "second update, last good kept", before: []stage{trial(one), trial(two)}, stages: []stage{fails(three)}, bad: three.Manifest, champions: d(two, three), end: two.Manifest},
	}
	cuts, exceptions, bare := 0, 0, 0
	var table strings.Builder
	columns, step := faults(), 1
	if testing.Short() {
		step = 5
	}
	fmt.Fprintf(&table, "%-32s %7s", "story", "writes")
	for _, c := range columns {
		fmt.Fprintf(&table, "  %s", c.name)
	}
	table.WriteByte('\n')
	for i := range stories {
		s := &stories[i]
		quiet := func() bool { return false }
		fresh := &disk.Mem{}
		calm := *s
		calm.serve, calm.bad = nil, ""
		h := &hub{stages: calm.before}
		r, err := powerOn(t, p, &calm, h, fresh, quiet)
		if err == nil {
			err = r.live(time.Hour, h.done)
		}
		if err != nil {
			t.Fatalf("%s: before it: %v", s.name, err)
		}
		// Generations go on rising from before the story.
		all := append(append([]stage{}, s.before...), s.stages...)
		begin := func() *hub { return &hub{stages: all, at: len(s.before), generation: h.generation} }
		base := fresh.Crash(nil)
		whole, h := base.Crash(nil), begin()
		if r, err = powerOn(t, p, s, h, whole, quiet); err == nil {
			err = r.live(time.Hour, h.done)
		}
		if err != nil || r.acting != s.end {
			t.Fatalf("%s: undisturbed: %v, %s acts", s.name, err, r.acting.Short())
		}
		total := whole.Ops()
		if total < 15 {
			t.Fatalf("%s changes the disk %d times: the sweep would prove nothing", s.name, total)
		}
		fmt.Fprintf(&table, "%-32s %7d", s.name, total)
		for c, column := range columns {
			bad := 0
			for at := 1; at <= total; at += step {
				cuts++
				without, err := s.disturb(t, p, base, begin(), column, c, at)
				if without {
					bare++
				}
				if err != nil {
					bad++
					if bad <= 3 {
						t.Errorf("%s, %s at write %d: %v", s.name, column.name, at, err)
					}
				}
			}
			exceptions += bad
			fmt.Fprintf(&table, "  %*s", len(column.name), fmt.Sprintf("%d/%d", bad, total))
		}
		table.WriteByte('\n')
	}
	t.Logf("exceptions/faults for each story and fault of the disk\n%s", table.String())
	t.Logf("after rot of the only good bytes %d devices had no model until the hub was back; they said so and ran nothing else", bare)
	fmt.Printf("{\"cuts\":%d,\"exceptions\":%d,\"rot_without_model_until_hub\":%d}\n", cuts, exceptions, bare)
}

// disturb plays a story with one fault and says what went wrong afterwards, and
// whether no model could run before the hub was back.
func (s *story) disturb(t *testing.T, p *plant, base *disk.Mem, h *hub, f fault, column, at int) (without bool, err error) {
	d := base.Crash(nil)
	var dark bool
	f.install(d, at, &dark)
	r, err := powerOn(t, p, s, h, d, func() bool { return dark })
	if err == nil {
		err = r.live(time.Hour, h.done)
	}
	if err != nil && !dark {
		return false, fmt.Errorf("with the power on: %w", err)
	}
	// The power is back, and the hub is not.
	left := d.Crash(func(_ string, n int) int {
		if column < len(torn) {
			return torn[column].keep(n)
		}
		return 0
	})
	switch f.name {
	case "lost fsync":
		if left, err = s.lied(t, p, base, h, at); err != nil {
			return false, err
		}
	case "bit rot and a cut":
		rot(t, left, at)
		// A hub calls devices back when a rollout has failed: that brings back
		// what has rotted meanwhile.
		repair := back(p.releases[s.end])
		order := repair.offer
		repair.offer = func(d *twin.Desired) { order(d); d.Model.Rollout = "repair" }
		h.stages = append(append([]stage{}, h.stages...), repair)
	}
	h.away = true
	r, err = powerOn(t, p, s, h, left, func() bool { return false })
	if err != nil {
		return false, fmt.Errorf("does not start: %w", err)
	}
	err = r.live(10*time.Minute, func() bool { return r.acting != "" && len(r.queue) == 0 })
	if err != nil && !f.lenient {
		return false, fmt.Errorf("without the hub: %w", err)
	}
	if allowed := f.lenient && (r.acting == "" || r.acting != s.bad) || slices.Contains(s.champions, r.acting); !allowed {
		return false, fmt.Errorf("runs %s without the hub", r.acting.Short())
	}
	without = r.acting == ""
	h.away = false
	there := func() bool { return h.done() && r.acting == s.end }
	if f.lenient {
		// A release whose bytes rot in its soak is rolled back and not tried
		// again here, as one that cannot be loaded: the device ends on what it has.
		there = func() bool {
			t := r.machine.Status().Trial
			return r.acting == s.end || r.acting != "" && r.acting != s.bad && t != nil && t.Phase == twin.PhaseRolledBack && t.Code == twin.CodeLoad
		}
	}
	if err := r.live(3*time.Hour, there); err != nil {
		return false, fmt.Errorf("with the hub: %w", err)
	}
	return without, nil
}

// lied returns the disk as it was durable at operation at: what a drive leaves
// that lied from there on. The hub stays where the longer run left it.
func (s *story) lied(t *testing.T, p *plant, base *disk.Mem, h *hub, at int) (*disk.Mem, error) {
	d := base.Crash(nil)
	dark := false
	cut(d, at, &dark)
	again := &hub{stages: h.stages, at: len(s.before), generation: uint64(len(s.before))}
	r, err := powerOn(t, p, s, again, d, func() bool { return dark })
	if err == nil {
		err = r.live(time.Hour, again.done)
	}
	if err != nil && !dark {
		return nil, err
	}
	return d.Crash(nil), nil
}
