package update

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

var update = flag.Bool("update", false, "rewrite the conversations in testdata and the page in docs")

// TestConversations plays the files in testdata: a line that starts with "> "
// goes to the machine, the lines below it are what it answered.
func TestConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(b))
			if got == string(b) {
				return
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			g, w := strings.Split(got, "\n"), strings.Split(string(b), "\n")
			for i := range g {
				if i >= len(w) || g[i] != w[i] {
					t.Fatalf("line %d:\n got %q\nwant %q", i+1, g[i], strings.Join(w[min(i, len(w)):min(i+1, len(w))], ""))
				}
			}
			t.Fatalf("the file has %d lines too many", len(w)-len(g))
		})
	}
}

// talk is one side of a conversation: a device that keeps what it is told to.
type talk struct {
	t     *testing.T
	m     *Machine
	cfg   Config
	disk  *Journal
	start time.Time
	wall  time.Time
	mono  time.Duration
	open  []Action // starred actions not answered yet, oldest first
	out   strings.Builder
}

func play(t *testing.T, script string) string {
	start := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	k := &talk{t: t, start: start, wall: start}
	k.power()
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		cmd, ok := strings.CutPrefix(line, "> ")
		switch {
		case ok:
			fmt.Fprintln(&k.out, line)
			k.command(strings.Fields(cmd))
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&k.out, line)
		}
	}
	return k.out.String()
}

func (k *talk) power() {
	m, err := New(k.cfg, k.disk)
	if err != nil {
		k.t.Fatal(err)
	}
	k.m, k.open, k.mono = m, nil, 0
}

// release makes up "r7" as counter 7 of the family pump.
func release(name string) Release {
	n, err := strconv.ParseUint(strings.TrimPrefix(name, "r"), 10, 64)
	if err != nil {
		panic("release " + name)
	}
	return Release{
		Name: "pump", Counter: n, Manifest: artifact.Of([]byte(name)), Model: artifact.Of([]byte("model of " + name)),
		Limits: artifact.Limits{LatencyP99Ms: 50, MaxFlagShare: 0.2, MinWatchdogObs: 20},
	}
}

func nameOf(r Release) string {
	if r.Manifest == "" {
		return "nothing"
	}
	return fmt.Sprintf("r%d", r.Counter)
}

func (k *talk) command(f []string) {
	args := map[string]string{}
	var words []string
	for _, w := range f[1:] {
		if key, v, ok := strings.Cut(w, "="); ok {
			args[key] = v
		} else {
			words = append(words, w)
		}
	}
	num := func(key string) uint64 {
		n, _ := strconv.ParseUint(args[key], 10, 64)
		return n
	}
	float := func(key string) float64 { v, _ := strconv.ParseFloat(args[key], 64); return v }
	dur := func(key string) time.Duration { d, _ := time.ParseDuration(args[key]); return d }
	switch f[0] {
	case "config":
		k.cfg = Config{MaxAttempts: int(num("attempts")), MaxRetries: int(num("retries")), MaxBoots: int(num("boots")), StepLimit: dur("step"), TrialLimit: dur("trial")}
		k.power()
	case "boot":
		k.step(Booted{})
	case "cut": // power is lost: only what was saved is left
		k.power()
		k.step(Booted{})
	case "stop": // the agent is asked to end, and starts again
		k.step(Stopping{})
		k.power()
		k.step(Booted{})
	case "wait":
		d, err := time.ParseDuration(words[0])
		if err != nil {
			k.t.Fatal(err)
		}
		k.wall, k.mono = k.wall.Add(d), k.mono+d
		k.step(Tick{})
	case "clock": // the wall clock is set; running time goes on
		w, err := time.Parse(time.RFC3339, words[0])
		if err != nil {
			k.t.Fatal(err)
		}
		k.wall = w
		k.step(Tick{})
	case "offer":
		d := twin.Desired{Schema: 1, Site: "s", Node: "n", Generation: num("gen"), IssuedAt: k.start.Add(dur("issued")), ExpiresAt: k.start.Add(100 * time.Hour)}
		if args["issued"] == "" && k.wall.After(k.start) {
			d.IssuedAt = k.wall
		}
		if words[0] != "nothing" {
			r := release(words[0])
			a := twin.Assignment{Rollout: "ro-" + words[0], Name: r.Name, Counter: r.Counter, Manifest: r.Manifest, Mode: twin.ModeTrial,
				Try: int(num("try")), ShadowS: dur("shadow").Seconds(), SoakS: dur("soak").Seconds(), MinWindows: num("min")}
			if args["mode"] == "rollback" {
				a.Mode = twin.ModeRollback
			}
			if v := dur("deadline"); v != 0 {
				a.Deadline = d.IssuedAt.Add(v)
			}
			d.Model = &a
			if v := dur("lease"); v != 0 {
				d.Lease = &twin.Lease{ID: "lease-" + args["gen"], Manifest: r.Manifest, ExpiresAt: d.IssuedAt.Add(v)}
			}
		}
		if v := num("floor"); v != 0 {
			d.Floors = map[string]uint64{"pump": v}
		}
		k.step(Offered{d})
	case "ok":
		a := k.take()
		e := Done{Action: a.ID}
		switch a.Kind {
		case ActVerify, ActLoad, ActResume, ActRollback:
			if a.Release.Manifest != "" {
				e.Release = release(nameOf(a.Release))
			}
			if v := args["as"]; v != "" {
				e.Release = release(v)
			}
		}
		k.step(e)
	case "fail":
		a := k.take()
		k.step(Failed{Action: a.ID, Code: twin.Code(words[0]), Reason: strings.Join(words[1:], " "), Retryable: args["retry"] == "yes"})
	case "seen":
		e := Observed{Champion: k.m.j.release(k.m.j.State.Champion).Manifest, Due: num("due"), Windows: num("windows"), Flagged: num("flagged"), NonFinite: num("nonfinite"), LatencyP99Ms: float("p99")}
		if e.Due == 0 {
			e.Due = e.Windows
		}
		k.step(e)
	case "shadow":
		k.step(Observed{Champion: k.m.j.release(k.m.j.State.Champion).Manifest, Shadow: &twin.Shadow{
			Items: num("items"), OnlyChallenger: num("a"), OnlyChampion: num("b"), Both: num("both"), NonFinite: num("nonfinite"), LatencyP99Ms: float("p99")}})
	case "status":
		s := k.m.Status()
		fmt.Fprintf(&k.out, "  generation %d", s.Generation)
		if s.Trial != nil {
			fmt.Fprintf(&k.out, ", trial r%d %s try %d attempts %d", s.Trial.Counter, s.Trial.Phase, s.Trial.Try, s.Trial.Attempts)
			if s.Trial.Code != "" || s.Trial.Reason != "" {
				fmt.Fprintf(&k.out, " (%s: %s)", s.Trial.Code, s.Trial.Reason)
			}
		}
		fmt.Fprintf(&k.out, ", %d quarantined\n", len(s.Quarantined))
		for _, c := range s.Conditions {
			fmt.Fprintf(&k.out, "  %s: %s\n", c.Type, c.Message)
		}
	default:
		k.t.Fatalf("unknown command %q", f[0])
	}
}

func (k *talk) take() Action {
	if len(k.open) == 0 {
		k.t.Fatal("nothing to answer")
	}
	a := k.open[0]
	k.open = k.open[1:]
	return a
}

func (k *talk) step(e Event) {
	k.m.Step(Moment{Wall: k.wall, Mono: k.mono, Draw: 0.5}, e)
	r := k.m.Ready()
	if r.Save != nil {
		k.disk = r.Save
		s := r.Save.State
		fmt.Fprintf(&k.out, "  save %s champion=%s last-good=%s", orNone(string(s.Phase.twin())), nameOf(r.Save.release(s.Champion)), nameOf(r.Save.release(s.LastGood)))
		if r.Save.Code != "" {
			fmt.Fprintf(&k.out, " (%s: %s)", r.Save.Code, r.Save.Reason)
		}
		fmt.Fprintln(&k.out)
	}
	for _, a := range r.Do {
		fmt.Fprintf(&k.out, "  do %s", a.Kind)
		switch a.Kind {
		case ActClean:
			fmt.Fprintf(&k.out, ", keep %d", len(a.Keep))
		case ActCancel:
			for i, o := range k.open {
				if o.ID == a.Cancel {
					fmt.Fprintf(&k.out, " %s", o.Kind)
					k.open = append(k.open[:i:i], k.open[i+1:]...)
					break
				}
			}
		default:
			fmt.Fprintf(&k.out, " %s", nameOf(a.Release))
			if a.Standby != nil {
				fmt.Fprintf(&k.out, " beside %s", nameOf(*a.Standby))
			}
			if a.Kind != ActConfirm && a.Kind != ActDrop {
				k.open = append(k.open, a)
			}
		}
		fmt.Fprintln(&k.out)
	}
	if r.Report {
		fmt.Fprintln(&k.out, "  report")
	}
	if r.Wake != 0 {
		fmt.Fprintf(&k.out, "  wake in %s\n", (r.Wake - k.mono).Round(time.Millisecond))
	}
	k.m.Advance()
}

func orNone(s string) string {
	if s == "" {
		return "idle"
	}
	return s
}
