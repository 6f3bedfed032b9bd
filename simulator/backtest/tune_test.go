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
	if !strings.Contains(said.String(), "rows of m in which a channel has no number are left out: 1") {
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
		"an unknown aim":          {func(o *TuneOptions) { o.Aim = "recall" }, `--aim "recall": want index or f1`},
		"no labels":               {func(o *TuneOptions) { o.ByLabels = true }, "--by-labels: m has no column of labels"},
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

func TestAChoiceByLabelsTellsWhatToExpect(t *testing.T) {
	if testing.Short() {
		t.Skip("fits many models")
	}
	files := map[string]string{}
	for _, name := range []string{"m", "n", "o"} {
		rng := rand.New(rand.NewPCG(7, uint64(name[0])))
		var b strings.Builder
		b.WriteString("time,a,b,anomaly\n")
		for i := range 500 {
			x, label := math.Sin(float64(i)/9), 0
			y := 3*x + 0.1*rng.NormFloat64()
			if i >= 400 {
				y, label = 0.1*rng.NormFloat64(), 1
			}
			cell := fmt.Sprintf("%.4f", x+0.1*rng.NormFloat64())
			if i >= 300 && i < 310 {
				cell = "" // rows that are left out take their labels with them
			}
			fmt.Fprintf(&b, "%d,%s,%.4f,%d\n", 1_700_000_000+i, cell, y, label)
		}
		files[name+".csv"] = b.String()
	}
	var out, said strings.Builder
	o := TuneOptions{Options: Options{TrainRows: 200, Kinds: []string{zoo.Forest}, Progress: io.MultiWriter(&said, t.Output())}, ByLabels: true, Aim: "f1"}
	o.Data = []string{put(t, files)}
	choice, err := Tune(t.Context(), o, io.MultiWriter(&out, t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	h := choice.HeldOut
	if h == nil || h.F1 < 0.7 || h.FalseAlarms > 0.3 || h.Missed > 0.4 || choice.Pieces != 3 {
		t.Fatalf("chose %+v, held out %+v", choice, h)
	}
	n := 0
	for _, c := range h.Choices {
		n += len(c.Recordings)
	}
	if n != 3 {
		t.Errorf("choices for %d of 3 recordings: %+v", n, h.Choices)
	}
	if want := "rows of n in which a channel has no number are left out: 10"; !strings.Contains(said.String(), want) {
		t.Errorf("%q is not in\n%s", want, said.String())
	}
	if strings.Contains(said.String(), "labelled as anomalies") { // those to learn from are not
		t.Errorf("it said\n%s", said.String())
	}
	for _, want := range []string{"by the labels of all 3 recordings", "forest at other thresholds", "on a recording it has not seen: F1 0."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
