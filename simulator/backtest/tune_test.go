package backtest

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/zoo"
)

func TestAChoiceFromRecordingsServesABacktest(t *testing.T) {
	if testing.Short() {
		t.Skip("fits many models")
	}
	rng := rand.New(rand.NewPCG(5, 6))
	var b strings.Builder
	b.WriteString("time,a,b,note\n")
	for i := range 700 {
		x := math.Sin(float64(i) / 9)
		fmt.Fprintf(&b, "%d,%.4f,%.4f,ok\n", 1_700_000_000+i, x+0.1*rng.NormFloat64(), 3*x+0.1*rng.NormFloat64())
	}
	text := strings.Replace(b.String(), fmt.Sprintf("%d,", 1_700_000_005), fmt.Sprintf("%d,,1,ok\n%d,", 1_700_000_005, 1_700_000_005), 1)
	var said, out strings.Builder
	o := TuneOptions{
		Options: Options{TrainRows: 200, Kinds: []string{zoo.PCA}, Progress: io.MultiWriter(&said, t.Output())},
	}
	o.Data = []string{put(t, map[string]string{"m.csv": text})}
	choice, err := Tune(t.Context(), o, &out)
	if err != nil {
		t.Fatal(err)
	}
	if len(choice.Kinds) != 1 || choice.Kinds[0] != zoo.PCA || choice.Pieces != 1 || choice.Fit["margin"] == nil || choice.Fit["seed"] != nil {
		t.Errorf("chose %+v", choice)
	}
	if choice.FalseAlarms > 0.3 || choice.Missed > 0.6 {
		t.Errorf("%.2f flagged, %.2f missed", choice.FalseAlarms, choice.Missed)
	}
	if !strings.Contains(said.String(), "1 rows of m are left out: a channel has no number there") {
		t.Errorf("it said\n%s", said.String())
	}
	if !strings.Contains(out.String(), "best of each kind over 1 pieces") || !strings.Contains(out.String(), "\npca ") {
		t.Errorf("it printed\n%s", out.String())
	}

	for name, c := range map[string]struct {
		change func(*TuneOptions)
		want   string
	}{
		"another machine's file": {func(o *TuneOptions) {
			o.Data = []string{put(t, map[string]string{"m.csv": text, "n.csv": "time,a,z\n1,2,3\n2,3,4\n"})}
		}, "n has other columns than m"},
		"a kind without settings": {func(o *TuneOptions) { o.Kinds = []string{"pca", "seasonal"} }, "--kinds seasonal: there are no settings to choose from; there are for"},
		"too many false alarms":   {func(o *TuneOptions) { o.MaxFalseAlarms = 1 }, "want a share of normal rows"},
		"too short":               {func(o *TuneOptions) { o.Rows = 100 }, "no recording has 600 rows"},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			c.change(&o)
			if _, err := Tune(t.Context(), o, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
