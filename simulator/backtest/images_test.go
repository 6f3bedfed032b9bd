package backtest

import (
	"encoding/csv"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/models/zoo"
)

// lines reads a table of results.
func lines(t *testing.T, name string) [][]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// play runs a back-test of images, small and short.
func play(t *testing.T, o ImageOptions) (ImageResult, [][]string, string) {
	t.Helper()
	var said strings.Builder
	o.Out, o.TrainShare = filepath.Join(t.TempDir(), "results.csv"), 0.5
	o.Fit = zoo.ImageConfig{Height: 24, Width: 24, Channels: 8, Epochs: 15, BatchSize: 8, Upright: true, Seed: 1}
	o.Progress = io.MultiWriter(&said, t.Output())
	began := time.Now()
	r, err := RunImages(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("took %s", time.Since(began).Round(time.Millisecond))
	return r, lines(t, o.Out), said.String()
}

func TestImagesGoThroughTheWholeProductAndAreTold(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a hub and four devices")
	}
	dir := put(t, with(some(40, "belt/up", "belt/across", "press/up", "press/across")))
	r, out, said := play(t, ImageOptions{Images: []string{filepath.Join(dir, "belt"), filepath.Join(dir, "press")}})
	if r.Images != 160 || len(r.Splits) != 2 || r.Splits[0].Class != "belt" || r.Splits[1].Class != "press" || r.Splits[0].Train != 40 || r.Splits[0].Test != 40 {
		t.Fatalf("result %+v", r)
	}
	if r.Accuracy == nil || *r.Accuracy < 0.9 || r.CPUMinutes <= 0 {
		t.Errorf("accuracy %v after %g CPU-minutes: want stripes to be told apart", r.Accuracy, r.CPUMinutes)
	}
	if got := strings.Join(out[0], ","); got != "file,split,label,predicted,probability,score,anomaly" {
		t.Errorf("the table begins with %s", got)
	}
	right := 0
	for _, l := range out[1:] {
		if !strings.HasPrefix(l[0], "belt/") && !strings.HasPrefix(l[0], "press/") || l[1] != "share" || l[4] == "" || l[5] == "" {
			t.Fatalf("line %v", l)
		}
		if l[2] == l[3] {
			right++
		}
	}
	if len(out) != 81 || right < 72 {
		t.Errorf("%d lines, %d of them right", len(out)-1, right)
	}
	for _, want := range []string{"split share, belt: ", "is \\ called", "mean accuracy over 2 splits", "CPU-minutes of training"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	}
}

func TestGoodPartsAloneTeachWhatIsUnlikeThem(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a hub and two devices")
	}
	dir := put(t, with(some(60, "parts/train/good"), "parts/ReadMe.txt", "no image"))
	for name, content := range some(20, "good", "scratched") {
		label := strings.Split(name, "/")[0]
		path := filepath.Join(dir, "parts/test", label, "t"+filepath.Base(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if label == "good" {
			content = string(stripes(true, 9000+uint64(len(path))+uint64(name[5])*17))
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, out, _ := play(t, ImageOptions{Images: []string{filepath.Join(dir, "parts")}, Kinds: []string{zoo.Mahalanobis}})
	s := r.Splits[0]
	if r.Accuracy != nil || s.AUROC == nil || *s.AUROC < 0.9 || s.Test != 40 || s.Split != "folders" {
		t.Errorf("result %+v: want stripes the other way found", s)
	}
	if len(out) != 41 || out[1][3] != "" || out[1][4] != "" {
		t.Errorf("%d lines, the first %v: want neither a class nor a probability", len(out)-1, out[1])
	}
}

func TestPoorFiguresOfAKnownCauseComeWithAdvice(t *testing.T) {
	share := func(v float64) *float64 { return &v }
	for name, tc := range map[string]struct {
		split   SplitResult
		upright bool
		want    string
	}{
		"many named wrong":                   {SplitResult{Accuracy: share(0.6)}, false, "add --upright"},
		"many named wrong, upright":          {SplitResult{Accuracy: share(0.6)}, true, ""},
		"named right":                        {SplitResult{Accuracy: share(0.95)}, false, ""},
		"told apart by a threshold too high": {SplitResult{Train: 40, AUROC: share(0.99), Found: share(0)}, false, "40 good parts show little"},
		"found":                              {SplitResult{AUROC: share(0.99), Found: share(0.9)}, false, ""},
		"not told apart":                     {SplitResult{AUROC: share(0.6), Found: share(0)}, false, ""},
	} {
		if got := tc.split.advice(tc.upright); !strings.Contains(got, tc.want) || tc.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
