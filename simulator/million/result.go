package million

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/twin"
)

// Result is what came of a run.
type Result struct {
	Rollout rollout.Rollout
	Counts  rollout.Counts              // as the hub counts
	States  map[rollout.DeviceState]int // as the devices are
	Waves   []Wave

	Devices, Decisions, Reports, Documents int
	PowerCuts                              int
	Tried                                  int           // devices on which the new release acted
	Harmed                                 int           // devices on which it acted and was unsound, or which it took down
	Stopped                                time.Duration // from the rollout's start until it turned back; 0: never
	Ended, Rest                            time.Duration // virtual; Rest when nothing changed any more
	Events                                 [kinds]uint64 // calls of the product's step function
	OverBudget                             int           // how often a line had more devices swapping or soaking than its budget
	Trace                                  uint64        // equal for equal runs
	Shards                                 int
	Watched                                int // events of the watched device that its Machine agreed with

	Seconds     float64       // wall time
	DeviceCPU   time.Duration // user and system time, of all threads: stepping devices and their wheel
	ExchangeCPU time.Duration // collecting who reports, and carrying documents to devices
	FactsCPU    time.Duration // making a rollout.Device of what a device is
	PlannerCPU  time.Duration // Roster.Put and Roster.Decide
	PeakMiB     float64       // VmHWM of the process
}

// Wave is one wave as it went.
type Wave struct {
	Name          string
	Devices       int
	Begun, Passed time.Duration // since the start; 0: not
}

// DeviceEvents is how many times the product's step function was called.
func (r Result) DeviceEvents() uint64 {
	var n uint64
	for _, k := range r.Events {
		n += k
	}
	return n
}

// EventsPerCPU is device-events for each second of processor time that devices,
// wheel and exchange took; the hub's own work is not in it.
func (r Result) EventsPerCPU() float64 {
	return float64(r.DeviceEvents()) / (r.DeviceCPU + r.ExchangeCPU).Seconds()
}

func (r *Result) decided(d rollout.Decision, at time.Duration) {
	if d.Changed {
		r.Decisions++
	}
	for n := len(r.Waves); n < len(d.Rollout.Waves); n++ {
		r.Waves = append(r.Waves, Wave{Name: d.Rollout.Policy.Waves[n].Name})
	}
	for n, w := range d.Rollout.Waves {
		v := &r.Waves[n]
		v.Devices = w.Size
		if v.Begun == 0 && !w.Started.IsZero() {
			v.Begun = at
		}
		if v.Passed == 0 && !w.Passed.IsZero() {
			v.Passed = at
		}
	}
	if r.Stopped == 0 && !d.Rollout.RollbackFrom.IsZero() {
		r.Stopped = d.Rollout.RollbackFrom.Sub(d.Rollout.Started)
	}
}

// finish looks at the devices themselves.
func (h *hub) finish() {
	r := &h.res
	r.Rollout, r.Counts, r.Devices, r.Shards = h.r, h.counts, h.Devices, h.Shards
	r.OverBudget = int(h.over.Load())
	r.States = map[rollout.DeviceState]int{}
	for _, s := range h.shards {
		r.Trace += s.trace
		r.PowerCuts += s.powers
		if s.twin != nil {
			r.Watched = s.twin.steps
		}
		for k, n := range s.events {
			r.Events[k] += n
		}
		for i := range s.devices {
			d := &s.devices[i]
			r.States[s.state(d)]++
			if d.tried {
				r.Tried++
			}
			if d.harmed {
				r.Harmed++
			}
			st := d.State
			r.Trace += mix(s.id(int32(i))<<32 ^ st.Generation<<24 ^ uint64(st.Phase)<<16 ^ uint64(st.Champion)<<8 ^ uint64(st.LastGood))
		}
	}
	r.PeakMiB = peakMiB()
}

// state says where a device stands, from its own state alone.
func (s *shard) state(d *device) rollout.DeviceState {
	b := s.table.Brief(&d.Packed)
	runs := s.runs(d, b)
	switch {
	case d.generation == 0:
		return rollout.DevicePending
	case !d.on || !d.online || b.Trial == nil:
		return rollout.DeviceUnreachable
	case b.Offer.Mode == twin.ModeRollback && b.Phase == twin.PhaseConfirmed, b.Code == twin.CodeWithdrawn:
		return rollout.DeviceReturned
	case b.Phase == twin.PhaseConfirmed && runs == &s.table.Releases[challenger-1]:
		return rollout.DeviceDone
	case b.Phase == twin.PhaseFailed:
		return rollout.DeviceFailed
	case b.Phase == twin.PhaseRolledBack:
		return rollout.DeviceRolledBack
	}
	return rollout.DeviceUpdating
}

// Check returns what is wrong with a run, seen from the devices: counters of
// the hub that are not the sum of the devices' own states, or a line with more
// devices on their way than its budget allows.
func (r Result) Check() error {
	s := r.States
	mine := rollout.Counts{
		Devices: r.Devices, Pending: s[rollout.DevicePending], Unreachable: s[rollout.DeviceUnreachable], InFlight: s[rollout.DeviceUpdating],
		Done: s[rollout.DeviceDone], Failed: s[rollout.DeviceFailed] + s[rollout.DeviceRolledBack], Returned: s[rollout.DeviceReturned],
	}
	switch {
	case mine != r.Counts:
		return fmt.Errorf("the hub counts %+v, the devices are %+v", r.Counts, mine)
	case r.OverBudget > 0:
		return fmt.Errorf("lines had more devices swapping or soaking than their budget %d times", r.OverBudget)
	}
	return nil
}

// Print writes the run as a table.
func (r Result) Print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...any) {
		for _, c := range cells {
			fmt.Fprintf(w, "%v\t", c)
		}
		fmt.Fprintln(w)
	}
	flush := func() { _ = w.Flush() } // a table nobody can read is no error of the run
	fmt.Fprintf(out, "%s devices, %d shards: %s\n\n", group(uint64(r.Devices)), r.Shards, r.Rollout.State)
	row("wave", "devices", "begun", "passed")
	for _, v := range r.Waves {
		row(v.Name, group(uint64(v.Devices)), v.Begun, v.Passed)
	}
	flush()
	fmt.Fprintln(out)
	row("end state", "devices")
	for _, s := range slices.Sorted(maps.Keys(r.States)) {
		row(s, group(uint64(r.States[s])))
	}
	flush()
	says := "The hub's counters are the sum of these, and no line had more devices on their way than its budget."
	if err := r.Check(); err != nil {
		says = "WRONG: " + err.Error() + "."
	}
	fmt.Fprintf(out, "\n%s\n", says)
	fmt.Fprintf(out, "%s decisions on %s reports sent %s documents; %s power cuts.\n", group(uint64(r.Decisions)), group(uint64(r.Reports)), group(uint64(r.Documents)), group(uint64(r.PowerCuts)))
	fmt.Fprintf(out, "It ended after %s and was at rest after %s of virtual time.\n", r.Ended, r.Rest)
	if r.Watched > 0 {
		fmt.Fprintf(out, "The watched device and the agent's own machine agreed on %s events.\n", group(uint64(r.Watched)))
	}
	fmt.Fprintf(out, "%s devices tried the release, %s were harmed (%.3g %%).\n\n", group(uint64(r.Tried)), group(uint64(r.Harmed)), 100*float64(r.Harmed)/float64(r.Devices))
	row("step function called by", "events")
	for k, name := range [kinds]string{"starts", "documents", "answers of actions", "observations", "ticks"} {
		row(name, group(r.Events[k]))
	}
	row("all", group(r.DeviceEvents()))
	flush()
	fmt.Fprintln(out)
	row("processor time", "s", "events/s")
	sum := time.Duration(0)
	for _, p := range []struct {
		name string
		took time.Duration
	}{{"devices and wheel", r.DeviceCPU}, {"+ exchange", r.ExchangeCPU}, {"+ facts for the hub", r.FactsCPU}, {"+ planner", r.PlannerCPU}} {
		sum += p.took
		row(p.name, fmt.Sprintf("%.1f", sum.Seconds()), group(uint64(float64(r.DeviceEvents())/sum.Seconds())))
	}
	flush()
	fmt.Fprintf(out, "\n%.1f s of wall time, %.0f MiB at most.\n", r.Seconds, r.PeakMiB)
}

// group writes a number with thin groups of three.
func group(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// cpu measures the processor time of all of the process's threads.
type cpu struct{ last time.Duration }

// lap returns the time since the lap before.
func (c *cpu) lap() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	now := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	d := now - c.last
	c.last = now
	return d
}

// peakMiB is the most memory the process has had; 0 where that is not known.
func peakMiB() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmHWM:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return kib / 1024
		}
	}
	return 0
}
