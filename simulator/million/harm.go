package million

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Bad are releases that are bad on every device, by name.
var Bad = []struct {
	Name    string
	Release Nature
}{
	{"flags twice as often", Nature{Flags: 2}},
	{"crashes at load", Nature{CrashAtLoad: true}},
	{"NaN after 90 s", Nature{NonFinite: 90 * time.Second}},
	{"NaN after 4 min", Nature{NonFinite: 4 * time.Minute}},
	{"four times too slow", Nature{LatencyMs: 4 * latencyLimitMs}},
}

// Harm runs each of Bad on a fleet that is otherwise like c, and prints how
// far it came.
func Harm(c Config, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "bad release\toffered\tacted\tharmed\tshare\tstopped after\tin wave\tend\t\n")
	c.Bad, c.Watch, c.Progress = 0, 0, nil
	for _, b := range Bad {
		c.Release = b.Release
		r, err := Run(c)
		if err != nil {
			return fmt.Errorf("a release that %s: %w", b.Name, err)
		}
		if err := r.Check(); err != nil {
			return fmt.Errorf("a release that %s: %w", b.Name, err)
		}
		offered := 0
		for _, v := range r.Waves {
			offered += v.Devices
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%.2f %%\t%s\t%d of %d\t%s\t\n", b.Name, offered, r.Tried, r.Harmed, 100*float64(r.Harmed)/float64(r.Devices),
			r.Stopped.Round(time.Second), len(r.Waves), len(r.Rollout.Policy.Waves), r.Rollout.State)
	}
	return w.Flush()
}
