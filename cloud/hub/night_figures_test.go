package hub

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/store/storetest"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// plan says what a process of TestNightFigures does.
type plan struct {
	Role    Role
	Dir     string // of this process
	Shared  string
	URLFile string // empty: SQLite
	Classes int
	Rows    int
}

// took is what a night took in the hub's process.
type took struct {
	Seconds float64
	CPU     float64
	PeakMiB float64
	Summary string
	By      map[string]int // tasks by process
	Steps   string         // seconds of each
}

const planKey = "SWELL_NIGHT_PLAN"

// TestNightFigures runs the product's night for 10, 30 and 100 device classes,
// and then one night with one and with two processes. Each hub is a process of
// its own, so that its memory is its own.
func TestNightFigures(t *testing.T) {
	if p := os.Getenv(planKey); p != "" {
		runPlan(t, p)
		return
	}
	if os.Getenv("SWELL_BENCH") == "" {
		t.Skip("measures for minutes: make bench-night")
	}
	sizes, rows, shared := []int{10, 30, 100}, 10_000, 30
	if os.Getenv("SWELL_BENCH") == "small" {
		sizes, rows, shared = []int{2, 4}, 1500, 6
	}
	seconds, peak := map[string]float64{}, map[string]float64{}
	fmt.Printf("%8s %10s %10s %12s %10s\n", "classes", "wall s", "CPU s", "s a class", "peak MiB")
	for _, n := range sizes {
		r := process(t, plan{Role: RoleAll, Classes: n, Rows: rows})
		key := strconv.Itoa(n)
		seconds[key], peak[key] = round(r.Seconds), round(r.PeakMiB)
		fmt.Printf("%8d %10.1f %10.1f %12.2f %10.0f\n", n, r.Seconds, r.CPU, r.Seconds/float64(n), r.PeakMiB)
	}
	ratio := math.NaN()
	if postgres, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(postgres) == 0 {
		fmt.Println("no PostgreSQL server here (Debian package postgresql): two workers are not measured")
	} else {
		newURL := storetest.Postgres(t)
		const rounds = 5 // in turn: the machine's other work meets both
		var ratios []float64
		for range rounds {
			alone := sharedNight(t, newURL(t), 1, shared, rows)
			ratios = append(ratios, sharedNight(t, newURL(t), 2, shared, rows)/alone)
		}
		slices.Sort(ratios)
		ratio = ratios[rounds/2]
		fmt.Printf("two processes take %.2f of the time of one (median of %.2f)\n", ratio, ratios)
	}
	out := map[string]any{"seconds": seconds, "peak_mib": peak}
	if !math.IsNaN(ratio) {
		out["two_workers_ratio"] = math.Round(ratio*1000) / 1000
	}
	b, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(b))
}

// sharedNight runs a night in one process, or in a hub and a worker, that share
// what is at url, and returns the seconds it took.
func sharedNight(t *testing.T, url string, processes, classes, rows int) float64 {
	t.Helper()
	dir := t.TempDir()
	p := plan{Role: RoleAll, Classes: classes, Rows: rows, Shared: filepath.Join(dir, "shared"), URLFile: filepath.Join(dir, "url")}
	if err := os.WriteFile(p.URLFile, []byte(url), 0o600); err != nil {
		t.Fatal(err)
	}
	if processes == 2 {
		w := p
		w.Role = RoleWorker
		worker, lines := child(t, w)
		defer func() { _ = worker.Process.Kill(); _ = worker.Wait() }()
		for l := range lines {
			if l == "ready" {
				break
			}
		}
		go func() { // until it ends
			for range lines {
			}
		}()
	}
	r := process(t, p)
	fmt.Printf("%d processes on PostgreSQL, %d classes: %.1f s, tasks %v, steps (s):%s\n", processes, classes, r.Seconds, r.By, r.Steps)
	return r.Seconds
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

func child(t *testing.T, p plan) (*exec.Cmd, <-chan string) {
	t.Helper()
	p.Dir = t.TempDir()
	if p.Shared == "" {
		p.Shared = t.TempDir()
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNightFigures$", "-test.timeout=30m")
	cmd.Env = append(os.Environ(), planKey+"="+string(b))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() { // until the process closes its output
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	return cmd, lines
}

func process(t *testing.T, p plan) took {
	t.Helper()
	cmd, lines := child(t, p)
	var r took
	var said []string
	for l := range lines {
		said = append(said, l)
		if s, ok := strings.CutPrefix(l, "took "); ok {
			if err := json.Unmarshal([]byte(s), &r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || r.Seconds == 0 {
		t.Fatalf("night of %d classes: %v\n%s", p.Classes, err, strings.Join(said, "\n"))
	}
	return r
}

func runPlan(t *testing.T, doc string) {
	var p plan
	if err := json.Unmarshal([]byte(doc), &p); err != nil {
		t.Fatal(err)
	}
	const free = "127.0.0.1:0"
	cfg := Config{
		DataDir: p.Dir, Name: string(p.Role), Roles: []Role{p.Role}, SharedDir: p.Shared, Store: Store{PostgresURLFile: p.URLFile},
		Objects: Objects{Dir: filepath.Join(p.Shared, "objects")},
		HTTP:    HTTP{Listen: free}, Devices: Devices{Listen: free}, Broker: Broker{Listen: free},
		Training: Training{Policies: []RetrainPolicy{{Name: "night", LookbackS: 7 * 24 * 3600, Seed: 7, MinDetected: 0.01}}},
	}
	h, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if p.Role == RoleWorker {
		fmt.Println("ready")
		<-time.After(30 * time.Minute) // to be killed
		return
	}
	for i := range p.Classes {
		if err := h.made(t.Context(), i, p.Rows); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.keeper.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // peaks are of the night, not of the making of its data
	began, cpu := time.Now(), used()
	id, err := h.train.nights.Start(t.Context(), retrain.Request{Policy: "night", By: "bench", DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		run, err := h.train.nights.Run(id)
		if err != nil {
			t.Fatal(err)
		}
		if run.State != engine.Queued && run.State != engine.Running {
			r := took{Seconds: run.Ended.Sub(began).Seconds(), CPU: used() - cpu, PeakMiB: run.Cost.PeakMiB, Summary: run.Outcome.Summary, By: map[string]int{}}
			for _, s := range run.Steps {
				r.Steps += fmt.Sprintf(" %s %.1f", s.Name, s.Ended.Sub(s.Started).Seconds())
			}
			for _, task := range run.Tasks {
				r.By[task.Executor]++
			}
			if run.State != engine.Succeeded || len(run.Outcome.Blessed.Winners) != p.Classes {
				t.Fatalf("night is %s, %d winners of %d classes: %s %s %v", run.State, len(run.Outcome.Blessed.Winners), p.Classes, run.Err, run.Outcome.Summary, run.Outcome.Refusals())
			}
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("took " + string(b))
			return
		}
		<-time.After(500 * time.Millisecond)
	}
}

// made enrols one device of a class of its own and stores rows of it: four
// signals that follow a load, as of a pump.
func (h *Hub) made(ctx context.Context, i, rows int) error {
	id := topic.ID{Site: "hall-1", Node: fmt.Sprintf("pump-%03d", i)}
	if err := h.fleet.Enrol(ctx, id, artifact.Class(fmt.Sprintf("pump-%03d", i)), nil, time.Now().AddDate(0, 0, 1)); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	names := []string{"current", "flow", "pressure", "temperature"}
	const block = 500
	for first := 0; first < rows; first += block {
		n := min(block, rows-first)
		b := series.Batch{ID: id, Stream: string(telemetry.Raw), Boot: 1, Seq: uint64(first/block) + 1, First: uint64(first), T0: time.Now().Add(time.Duration(first-rows) * time.Second).UnixNano(), RateHz: 1}
		values := make([][]float32, len(names))
		for r := range n {
			load := math.Sin(float64(first+r)/20) + 0.1*rng.NormFloat64()
			for c, v := range []float64{2 + load, 70 + 5*load + 0.2*rng.NormFloat64(), 3 - 0.3*load + 0.02*rng.NormFloat64(), 60 + 0.5*rng.NormFloat64()} {
				values[c] = append(values[c], float32(v))
			}
		}
		for c, name := range names {
			b.Columns = append(b.Columns, series.Column{Name: name, Kind: series.Float32, Float32: values[c]})
		}
		if err := h.series.Append(ctx, []series.Batch{b}); err != nil {
			return err
		}
	}
	return nil
}

func used() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
