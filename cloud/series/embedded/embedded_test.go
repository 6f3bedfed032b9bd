package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/series/seriestest"
	"github.com/swellfleet/swell/protocol/topic"
)

var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	cfg.Log = quiet
	if cfg.Dir == "" {
		cfg.Dir = "series"
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestExercise(t *testing.T) {
	seriestest.Exercise(t, seriestest.Options{}, func(t *testing.T) series.Store {
		s := open(t, Config{FS: vfs.NewMem()})
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestManyWaitingCallersShareOneFlush(t *testing.T) {
	mem := vfs.NewMem()
	var mu sync.Mutex
	var synced int
	gate := make(chan struct{})
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			if strings.HasSuffix(op.Path, ".log") {
				mu.Lock()
				synced++
				first := synced == 1
				mu.Unlock()
				if first {
					<-gate // the first flush lasts until everyone waits
				}
			}
		}
		return nil
	}))
	s := open(t, Config{FS: fs})
	defer s.Close()
	mu.Lock()
	synced = 0
	mu.Unlock()
	const callers = 100
	var wait sync.WaitGroup
	call := func(i int) {
		wait.Go(func() {
			if err := s.Append(context.Background(), []series.Batch{seriestest.Wave(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	await := func(cond func() bool) {
		for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("waited too long")
			}
		}
	}
	call(0)
	await(func() bool { mu.Lock(); defer mu.Unlock(); return synced == 1 })
	for i := 1; i < callers; i++ {
		call(i)
	}
	await(func() bool { return len(s.requests) == callers-1 })
	close(gate)
	wait.Wait()
	mu.Lock()
	defer mu.Unlock()
	if synced > 3 {
		t.Errorf("%d flushes for one caller and %d that waited", synced, callers-1)
	}
}

func TestCommitSaysWhatIsNewAlsoAfterARestart(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	s := open(t, Config{FS: mem})
	check := func(want []bool, batches ...series.Batch) {
		t.Helper()
		got, err := s.Commit(ctx, batches)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("fresh %v, want %v (%v)", got, want, err)
		}
	}
	check([]bool{true, true, false}, seriestest.Wave(0), seriestest.Wave(2), seriestest.Wave(0))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(ctx, []series.Batch{seriestest.Wave(4)}); !errors.Is(err, series.ErrClosed) {
		t.Errorf("a closed store says %v", err)
	}
	s = open(t, Config{FS: mem})
	defer s.Close()
	check([]bool{false, true, false}, seriestest.Wave(2), seriestest.Wave(4), seriestest.Wave(0))
	again := seriestest.Wave(2)
	again.Boot++
	again.ID = topic.ID{Site: "plant-1", Node: "pump-8"}
	check([]bool{true}, again)
	c, err := s.Coverage(ctx, seriestest.ID)
	want := series.Ranges{{First: 0, End: 100}, {First: 200, End: 300}, {First: 400, End: 500}}
	if err != nil || len(c) != 1 || c[0].Stream != "raw" || c[0].Boot != 5 || !slices.Equal(c[0].Rows, want) {
		t.Errorf("coverage %+v, %v", c, err)
	}
}

// nearlyFull is a file system that says how much room it has.
type nearlyFull struct {
	vfs.FS
	free uint64
}

func (f *nearlyFull) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free}, nil
}

func TestAFullDiskRefusesAndThenRecovers(t *testing.T) {
	ctx := context.Background()
	fs := &nearlyFull{vfs.NewMem(), 1 << 20}
	s := open(t, Config{FS: fs})
	defer s.Close()
	err := s.Append(ctx, []series.Batch{seriestest.Wave(0)})
	if !errors.Is(err, series.ErrFull) || !strings.Contains(err.Error(), "make room") {
		t.Errorf("full disk: %v", err)
	}
	fs.free = 1 << 40
	fresh, err := s.Commit(ctx, []series.Batch{seriestest.Wave(0)})
	if err != nil || !fresh[0] {
		t.Errorf("with room again: fresh %v, %v", fresh, err)
	}
}

func TestADiskErrorStopsTheStoreButNotTheProcess(t *testing.T) {
	var broken sync.Once
	fail := make(chan struct{})
	fs := errorfs.Wrap(vfs.NewCrashableMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		select {
		case <-fail:
			if strings.HasSuffix(op.Path, ".log") && op.Kind != errorfs.OpFileClose {
				return errorfs.ErrInjected
			}
		default:
		}
		return nil
	}))
	s := open(t, Config{FS: fs})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Append(ctx, []series.Batch{seriestest.Wave(0)}); err != nil {
		t.Fatal(err)
	}
	broken.Do(func() { close(fail) })
	for i := 1; i < 3; i++ {
		if err := s.Append(ctx, []series.Batch{seriestest.Wave(i)}); !errors.Is(err, series.ErrClosed) || !strings.Contains(err.Error(), "restart") {
			t.Fatalf("append %d on a broken disk: %v", i, err)
		}
	}
	if _, err := s.Query(ctx, series.Query{ID: seriestest.ID, Stream: "raw", From: 1, To: 2}); !errors.Is(err, series.ErrClosed) {
		t.Errorf("query on a broken disk: %v", err)
	}
	if err := s.Close(); err == nil {
		t.Error("closing says all is well")
	}
}

func TestEveryKindComesBackBitForBit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.IntRange(1, 300).Draw(t, "rows")
		slice32 := rapid.SliceOfN(rapid.OneOf(rapid.Float32(), rapid.Map(rapid.IntRange(-9999, 9999), func(n int) float32 { return float32(float64(n) * 0.01) })), rows, rows)
		b := seriestest.Wave(0)
		b.Columns = []series.Column{
			{Name: "f32", Kind: series.Float32, Float32: slice32.Draw(t, "f32")},
			{Name: "scaled", Kind: series.Float32, Scale: rapid.SampledFrom([]float64{0.01, 0.5, 1e-30, 1e30}).Draw(t, "scale"), Float32: slice32.Draw(t, "scaled")},
			{Name: "f64", Kind: series.Float64, Float64: rapid.SliceOfN(rapid.Float64(), rows, rows).Draw(t, "f64")},
			{Name: "i64", Kind: series.Int64, Int64: rapid.SliceOfN(rapid.Int64(), rows, rows).Draw(t, "i64")},
			{Name: "bool", Kind: series.Bool, Bool: rapid.SliceOfN(rapid.Bool(), rows, rows).Draw(t, "bool")},
			{Name: "string", Kind: series.String, String: rapid.SliceOfN(rapid.StringMatching(`[ab]{0,3}`), rows, rows).Draw(t, "string")},
		}
		stored := appendBlock(nil, &b, []uint64{0, 1, 2, 3, 4, 5})
		got, err := openBlock(stored, b.T0, b.Boot, b.Seq)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got.columns {
			var c series.Column
			if err := got.columns[i].decode(&c, got.rows); err != nil {
				t.Fatal(err)
			}
			w := &b.Columns[i]
			for j := range rows {
				ok := true
				switch w.Kind {
				case series.Float32:
					ok = math.Float32bits(c.Float32[j]) == math.Float32bits(w.Float32[j]) || w.Float32[j] != w.Float32[j]
				case series.Float64:
					ok = math.Float64bits(c.Float64[j]) == math.Float64bits(w.Float64[j])
				case series.Int64:
					ok = c.Int64[j] == w.Int64[j]
				case series.Bool:
					ok = c.Bool[j] == w.Bool[j]
				case series.String:
					ok = c.String[j] == w.String[j]
				}
				if !ok {
					t.Fatalf("%s row %d differs", w.Name, j)
				}
			}
		}
	})
}

func FuzzOpenBlock(f *testing.F) {
	b := seriestest.Wave(0)
	b.Columns = append(b.Columns, series.Column{Name: "s", Kind: series.String, String: slices.Repeat([]string{"a", "b"}, 50)})
	f.Add(appendBlock(nil, &b, []uint64{0, 1, 2, 3, 4}))
	times, parts := series.Rollup(&b)
	f.Add(appendRollup(nil, &b, []uint64{0, 1, 2, 3, 4}, times, parts))
	f.Fuzz(func(t *testing.T, p []byte) {
		if got, err := openBlock(p, 0, 0, 0); err == nil {
			for i := range got.columns {
				var c series.Column
				_ = got.columns[i].decode(&c, got.rows)
			}
		}
		_ = eachPart(p, 0, func(uint64, series.Kind, int64, series.Partial) {})
		_ = rollupEnd(p, 0)
	})
}

func TestTrimmingRawRowsKeepsRollupsAndTheHead(t *testing.T) {
	ctx := context.Background()
	s := open(t, Config{FS: vfs.NewMem(), KeepHead: true})
	defer s.Close()
	if err := s.Append(ctx, []series.Batch{seriestest.Wave(0), seriestest.Wave(1), seriestest.Wave(2)}); err != nil {
		t.Fatal(err)
	}
	end := seriestest.Wave(9).T0
	rows := func() int {
		r, err := s.Query(ctx, series.Query{ID: seriestest.ID, Stream: "raw", Signals: []string{"i64"}, From: seriestest.Start.UnixNano(), To: end})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Signals) == 0 {
			return 0
		}
		return len(r.Signals[0].Times)
	}
	if err := s.trim(end, false); err != nil {
		t.Fatal(err)
	}
	if n := rows(); n != 300 {
		t.Errorf("%d rows: trimming took what is in no segment yet", n)
	}
	blocks, err := s.HeadBlocks(ctx, seriestest.ID, "raw", 1)
	if err != nil || len(blocks) != 1 {
		t.Fatalf("%d blocks, %v", len(blocks), err)
	}
	if err := s.Seal(ctx, seriestest.ID, "raw", []BlockRef{{blocks[0].T0, blocks[0].Boot, blocks[0].Seq}}); err != nil {
		t.Fatal(err)
	}
	if err := s.trim(end, false); err != nil {
		t.Fatal(err)
	}
	if n := rows(); n != 200 {
		t.Errorf("%d rows after the first was sealed and trimmed, want 200", n)
	}
	for _, points := range []int{9, 100} { // a hundredth falls back to seconds where raw rows are gone
		r, err := s.Query(ctx, series.Query{ID: seriestest.ID, Stream: "raw", Signals: []string{"i64"}, From: seriestest.Start.UnixNano(), To: seriestest.Wave(1).T0, MaxPoints: points})
		if err != nil || len(r.Signals) != 1 || r.Signals[0].Count[0] != 100 {
			t.Errorf("rollup of a trimmed second in %d points: %+v, %v", points, r, err)
		}
	}
}

func TestRetentionForgetsRawRowsSoonerThanRollups(t *testing.T) {
	ctx := context.Background()
	s := open(t, Config{FS: vfs.NewMem(), RetainRaw: 10 * time.Second, RetainRollups: 100 * time.Second})
	defer s.Close()
	if err := s.Append(ctx, []series.Batch{seriestest.Wave(0), seriestest.Wave(50)}); err != nil {
		t.Fatal(err)
	}
	have := func(points int) int {
		r, err := s.Query(ctx, series.Query{ID: seriestest.ID, Stream: "raw", Signals: []string{"i64"}, From: seriestest.Start.UnixNano(), To: seriestest.Wave(60).T0, MaxPoints: points})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Signals) == 0 {
			return 0
		}
		return len(r.Signals[0].Times)
	}
	for _, step := range []struct {
		after         time.Duration
		rows, rollups int
	}{{5 * time.Second, 200, 2}, {20 * time.Second, 100, 2}, {70 * time.Second, 0, 2}, {110 * time.Second, 0, 1}, {200 * time.Second, 0, 0}} {
		if err := s.retain(seriestest.Start.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		if rows, rollups := have(0), have(60); rows != step.rows || rollups != step.rollups {
			t.Errorf("after %v: %d rows and %d rollups, want %d and %d", step.after, rows, rollups, step.rows, step.rollups)
		}
	}
}

// Blocks of any shape, overlapping or not, in any order: a query gives what a
// list of the rows would, where the block that begins latest wins a time.
func TestQueriesGiveWhatAListOfRowsWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		s, err := Open(Config{Dir: "series", FS: vfs.NewMem(), Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		base := seriestest.Start.UnixNano()
		n := rapid.IntRange(1, 12).Draw(t, "blocks")
		list := map[int64]int64{} // value by time
		owner := map[int64][2]int64{}
		for seq := range n {
			b := series.Batch{ID: seriestest.ID, Stream: "raw", Boot: 1, Seq: uint64(seq), T0: base + 1e8*rapid.Int64Range(0, 60).Draw(t, "t0")}
			rows := rapid.IntRange(1, 15).Draw(t, "rows")
			steps := rapid.SliceOfN(rapid.Int64Range(1, 4), rows-1, rows-1).Draw(t, "steps")
			b.Offsets = []int64{0}
			for _, step := range steps {
				b.Offsets = append(b.Offsets, b.Offsets[len(b.Offsets)-1]+step*1e8)
			}
			c := series.Column{Name: "x", Kind: series.Int64}
			for i := range rows {
				v := int64(seq*100 + i)
				c.Int64 = append(c.Int64, v)
				at, rank := b.Time(i), [2]int64{b.T0, int64(seq)}
				if old, taken := owner[at]; !taken || slices.Compare(rank[:], old[:]) > 0 {
					owner[at], list[at] = rank, v
				}
			}
			b.Columns = []series.Column{c}
			if err := s.Append(ctx, []series.Batch{b}); err != nil {
				t.Fatal(err)
			}
		}
		q := series.Query{ID: seriestest.ID, Stream: "raw", From: base + 1e8*rapid.Int64Range(0, 50).Draw(t, "from")}
		q.To = q.From + 1e8*rapid.Int64Range(1, 60).Draw(t, "length")
		var times []int64
		for at := range list {
			if at >= q.From && at < q.To {
				times = append(times, at)
			}
		}
		slices.Sort(times)
		r, err := s.Query(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if len(times) == 0 {
			if len(r.Signals) != 0 {
				t.Fatalf("rows %v where there are none", r.Signals[0].Times)
			}
			return
		}
		if len(r.Signals) != 1 || !slices.Equal(r.Signals[0].Times, times) {
			t.Fatalf("rows at %v, want %v", r.Signals, times)
		}
		for i, at := range times {
			if r.Signals[0].Int64[i] != list[at] {
				t.Fatalf("at %d: %d, want %d", at, r.Signals[0].Int64[i], list[at])
			}
		}
		q.MaxPoints = int((q.To-q.From)/2e8) + 1
		if r, err = s.Query(ctx, q); err != nil {
			t.Fatal(err)
		}
		if r.Bucket >= time.Second {
			return
		}
		for i, begin := range r.Signals[0].Times {
			var count int64
			for _, at := range times {
				if at >= begin && at < begin+int64(r.Bucket) {
					count++
				}
			}
			if r.Signals[0].Count[i] != count {
				t.Fatalf("bucket at %d of %v holds %d, want %d", begin, r.Bucket, r.Signals[0].Count[i], count)
			}
		}
	})
}

// The child of the kill test appends without end and prints the number of each
// batch that was acknowledged.
const childEnv = "SWELL_SERIES_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

func child(dir string) {
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), KeepHead: true, MinFreeBytes: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	start, _ := strconv.Atoi(os.Getenv(childEnv + "_FROM"))
	var mu sync.Mutex
	var wait sync.WaitGroup
	for w := range 4 {
		wait.Go(func() {
			for n := start + w; ; n += 4 {
				if err := s.Append(context.Background(), []series.Batch{seriestest.Wave(n)}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(n)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
}

func TestEverythingAcknowledgedIsThereAfterKill(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	acked := map[int]bool{}
	next := 0
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir, fmt.Sprintf("%s_FROM=%d", childEnv, next))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed after a random number of acknowledgements, in the middle of others.
		left := 1 + rand.IntN(400)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				break // cut off in the middle by the kill
			}
			acked[n] = true
			next = max(next, n+1)
			if left--; left == 0 {
				cmd.Process.Kill()
			}
		}
		io.Copy(io.Discard, out)
		cmd.Wait()

		s := open(t, Config{Dir: dir, KeepHead: true, MinFreeBytes: 1})
		r, err := s.Query(context.Background(), series.Query{ID: seriestest.ID, Stream: "raw", Signals: []string{"i64"}, From: seriestest.Start.UnixNano(), To: seriestest.Wave(next + 100).T0, MaxRows: 1 << 24})
		if err != nil {
			t.Fatal(err)
		}
		have := map[int64]int{}
		for _, v := range r.Signals[0].Int64 {
			have[v]++
		}
		for n := range acked {
			for i := range 100 {
				if have[int64(n*100+i)] != 1 {
					t.Fatalf("round %d: row %d of acknowledged batch %d is there %d times", round, i, n, have[int64(n*100+i)])
				}
			}
		}
		for n := range next { // sending all again must change nothing
			if acked[n] {
				fresh, err := s.Commit(context.Background(), []series.Batch{seriestest.Wave(n)})
				if err != nil || fresh[0] {
					t.Fatalf("round %d: batch %d is new again: %v", round, n, err)
				}
				break
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed %d times, %d batches acknowledged, none lost", rounds, len(acked))
}

func BenchmarkAppend(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir(), Log: quiet, MinFreeBytes: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	batch := seriestest.Wave(0)
	n := 0
	for b.Loop() {
		batch.Seq = uint64(n)
		batch.T0 += 1e9
		n++
		if err := s.Append(context.Background(), []series.Batch{batch}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkQuery(b *testing.B) {
	s, err := Open(Config{Dir: "series", FS: vfs.NewMem(), Log: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const seconds = 1000
	for n := range seconds {
		if err := s.Append(context.Background(), []series.Batch{seriestest.Wave(n)}); err != nil {
			b.Fatal(err)
		}
	}
	for _, points := range []int{0, 500} {
		b.Run(fmt.Sprintf("points=%d", points), func(b *testing.B) {
			q := series.Query{ID: seriestest.ID, Stream: "raw", From: seriestest.Start.UnixNano(), To: seriestest.Wave(seconds).T0, MaxPoints: points}
			for b.Loop() {
				if _, err := s.Query(context.Background(), q); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(4*100*seconds*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mvalues/s")
		})
	}
}
