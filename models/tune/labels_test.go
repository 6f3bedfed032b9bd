package tune

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/zoo"
)

// labelled are recordings of the machine. Each has a fault in its last third:
// channel b stands still, or, in those named by shifted, lies too high.
func labelled(n, rows int, shifted ...int) (zoo.Dataset, [][]bool) {
	d := machine(rows, 0)
	one := d.Series[0]
	d.Series = nil
	var labels [][]bool
	for i := range n {
		s := zoo.Series{Device: string(rune('p' + i)), Values: slices.Clone(one.Values)}
		s.Values[1] = slices.Clone(s.Values[1])
		bad := make([]bool, rows)
		for row := rows * 2 / 3; row < rows; row++ {
			if bad[row] = true; slices.Contains(shifted, i) {
				s.Values[1][row] += 3
			} else {
				s.Values[1][row] = 0
			}
		}
		d.Series, labels = append(d.Series, s), append(labels, bad)
	}
	return d, labels
}

func TestAChoiceByLabelsIsJudgedWhereItHadNoSay(t *testing.T) {
	needRuntime(t)
	d, labels := labelled(4, 600, 3)
	// One sees a row by itself, the other a pattern of three.
	o := Options{TrainRows: 300, Candidates: few[:3], Margins: []float64{0.5, 1, 1.5, 2, 3, 6}}
	r, err := ChooseByLabels(t.Context(), d, labels, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Folds) != 4 || len(r.Thresholds) != len(o.Margins) || len(r.Best) != 2 {
		t.Fatalf("%d folds, %d thresholds, %d kinds", len(r.Folds), len(r.Thresholds), len(r.Best))
	}
	for _, f := range r.Folds {
		if f.Normal != 100 || f.Faulty != 200 {
			t.Errorf("%s: %d normal and %d faulty rows, want 100 and 200", f.Recording, f.Normal, f.Faulty)
		}
	}
	if h := r.HeldOut(); h.Normal != 400 || h.Faulty != 800 || h.F1() < 0.8 {
		t.Errorf("held out %+v, F1 %.2f", h, h.F1())
	}
	// More is flagged, and less missed, the lower the threshold is.
	if !slices.IsSortedFunc(r.Thresholds, func(a, b Threshold) int { return b.Alarmed - a.Alarmed + a.Missed - b.Missed }) {
		t.Errorf("thresholds %+v", r.Thresholds)
	}
	best := r.Thresholds[slices.IndexFunc(r.Thresholds, func(th Threshold) bool { return th.Margin == r.Best[0].Fit.Margin })]
	if best.FalseAlarms() != r.Best[0].FalseAlarms || best.MissedShare() != r.Best[0].Missed || best.F1() != r.Best[0].F1 {
		t.Errorf("the best %+v is %+v among its thresholds", r.Best[0], best)
	}
	// With its labels turned round a recording has another say in all choices but its own.
	turned := slices.Clone(labels)
	turned[2] = make([]bool, 600)
	for row := range turned[2] {
		turned[2][row] = !labels[2][row]
	}
	again, err := ChooseByLabels(t.Context(), d, turned, o)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r.Folds[2].Chosen, again.Folds[2].Chosen) {
		t.Errorf("its own labels changed the choice for %s: %+v, then %+v", r.Folds[2].Recording, r.Folds[2].Chosen, again.Folds[2].Chosen)
	}
	if reflect.DeepEqual(r.Folds[0].Chosen, again.Folds[0].Chosen) {
		t.Errorf("the labels of another recording did not matter: %+v", r.Folds[0].Chosen)
	}
	if got, want := again.Folds[2].Alarmed, r.Folds[2].Faulty-r.Folds[2].Missed; got != want {
		t.Errorf("%d alarmed with labels turned round, want the %d found before", got, want)
	}
}

func TestWhatIsAimedAtIsLargest(t *testing.T) {
	needRuntime(t)
	d, labels := labelled(2, 600)
	for i := range labels { // few normal rows are left: flagging all has a high F1, and an index of none
		for row := 320; row < 600; row++ {
			labels[i][row] = true
		}
	}
	o := Options{TrainRows: 300, Candidates: few[1:2], Margins: []float64{1e-6, 1, 3}}
	index, err := ChooseByLabels(t.Context(), d, labels, o)
	if err != nil {
		t.Fatal(err)
	}
	o.Aim = F1
	f1, err := ChooseByLabels(t.Context(), d, labels, o)
	if err != nil {
		t.Fatal(err)
	}
	a, b := index.Best[0], f1.Best[0]
	if b.Fit.Margin != 1e-6 || a.Fit.Margin == 1e-6 || b.F1 <= a.F1 || b.Youden() >= a.Youden() {
		t.Errorf("by the index %+v, by F1 %+v", a, b)
	}
}

func TestLabelsThatCannotBeChosenByAreExplained(t *testing.T) {
	d, labels := labelled(2, 400)
	none := [][]bool{make([]bool, 400), make([]bool, 400)}
	one := d
	one.Series = d.Series[:1]
	o := Options{TrainRows: 200}
	for name, c := range map[string]struct {
		d      zoo.Dataset
		labels [][]bool
		o      Options
		want   string
	}{
		"nothing to learn from":   {d, labels, Options{}, "how many rows"},
		"a recording without any": {d, labels[:1], o, "labels for 1 recordings of 2"},
		"a single recording":      {one, labels[:1], o, "give two or more"},
		"too few labels":          {d, [][]bool{labels[0], labels[1][:399]}, o, "recording q has 399 labels for 400 rows"},
		"nothing to judge":        {d, labels, Options{TrainRows: 400}, "recording p has 400 rows: nothing is left to judge"},
		"no faulty row":           {d, none, o, "0 are labelled as faulty and 400 as normal"},
	} {
		if _, err := ChooseByLabels(t.Context(), c.d, c.labels, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
