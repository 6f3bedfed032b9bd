package segments

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/objects/dir"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/series/embedded"
	"github.com/swellfleet/swell/protocol/topic"
)

var (
	pump  = topic.ID{Site: "plant-1", Node: "pump-7"}
	quiet = slog.New(slog.DiscardHandler)
	t0    = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

func openHead(t testing.TB, fs vfs.FS) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(embedded.Config{Dir: "series", FS: fs, Log: quiet, KeepHead: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// block is rows [first, first+rows) of a stream at 100 Hz whose values tell
// their row.
func block(stream string, seq, first uint64, rows int) series.Batch {
	b := series.Batch{ID: pump, Stream: stream, Boot: 9, Seq: seq, First: first, T0: t0.UnixNano() + int64(first)*1e7, RateHz: 100}
	value := make([]float32, rows)
	half := make([]float32, rows)
	for i := range value {
		value[i] = float32(first) + float32(i)
		half[i] = value[i] / 2
	}
	b.Columns = []series.Column{
		{Name: "time", Unit: "h", Kind: series.Float32, Float32: value}, // a name the file keeps for itself
		{Name: "half", Kind: series.Float32, Float32: half},
	}
	return b
}

func keeper(t testing.TB, head Head, store Objects) *Keeper {
	t.Helper()
	k, err := New(Config{Head: head, Objects: store, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openObjects(t testing.TB) objects.Store {
	t.Helper()
	s, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rowsOf counts how often each row is in a segment, checking values on the way.
func rowsOf(t testing.TB, k *Keeper, stream string) map[uint64]int {
	t.Helper()
	list, err := k.List(context.Background(), time.Time{}, t0.AddDate(10, 0, 0), Filter{Stream: stream})
	if err != nil {
		t.Fatal(err)
	}
	out := map[uint64]int{}
	for _, s := range list {
		c, err := k.Read(context.Background(), s)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Rows) != s.Rows || c.Times[0] != s.From || c.Times[len(c.Times)-1] != s.To {
			t.Fatalf("segment says %+v, file has %d rows from %d", s, len(c.Rows), c.Times[0])
		}
		for i, row := range c.Rows {
			out[row]++
			if c.Signals[0].Values[i] != float32(row) || c.Signals[1].Values[i] != float32(row)/2 || c.Times[i] != t0.UnixNano()+int64(row)*1e7 {
				t.Fatalf("row %d reads %v, %v at %d", row, c.Signals[0].Values[i], c.Signals[1].Values[i], c.Times[i])
			}
		}
	}
	return out
}

func TestHeadBecomesSegmentsThatReadBack(t *testing.T) {
	ctx := context.Background()
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	k := keeper(t, head, openObjects(t))
	for _, b := range []series.Batch{block("raw", 3, 200, 100), block("raw", 1, 0, 100), block("verdicts", 2, 0, 50), block("raw", 4, 500, 10)} {
		if err := head.Append(ctx, []series.Batch{b}); err != nil {
			t.Fatal(err)
		}
	}
	if head.HeadBytes() == 0 {
		t.Error("the head says it is empty")
	}
	if err := k.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if n := head.HeadBytes(); n != 0 {
		t.Errorf("%d bytes are left in the head", n)
	}
	raw, verdicts := rowsOf(t, k, "raw"), rowsOf(t, k, "verdicts")
	if len(raw) != 210 || len(verdicts) != 50 {
		t.Errorf("%d raw rows and %d verdicts, want 210 and 50", len(raw), len(verdicts))
	}
	list, err := k.List(ctx, t0, t0.Add(time.Hour), Filter{Site: "plant-1", Node: "pump-7", Stream: "raw"})
	if err != nil || len(list) != 1 || list[0].First != 0 || list[0].Rows != 210 {
		t.Errorf("listed %+v, %v", list, err)
	}
	c, err := k.Read(ctx, list[0])
	if err != nil {
		t.Fatal(err)
	}
	if c.Signals[0].Name != "time" || c.Signals[0].Unit != "h" {
		t.Errorf("first signal is %q in %q", c.Signals[0].Name, c.Signals[0].Unit)
	}
	for _, f := range []struct {
		from, to time.Time
		f        Filter
	}{{t0.Add(time.Hour), t0.Add(2 * time.Hour), Filter{}}, {t0.Add(-time.Hour), t0, Filter{}}, {t0, t0.Add(time.Hour), Filter{Site: "elsewhere"}}, {t0, t0.Add(time.Hour), Filter{Node: "pump-8"}}} {
		if list, err := k.List(ctx, f.from, f.to, f.f); err != nil || len(list) != 0 {
			t.Errorf("%v to %v %+v: listed %v, %v", f.from, f.to, f.f, list, err)
		}
	}
	// Late rows land in a segment of their own day.
	late := block("raw", 5, 300, 100)
	if err := head.Append(ctx, []series.Batch{late}); err != nil {
		t.Fatal(err)
	}
	if err := k.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(rowsOf(t, k, "raw")); n != 310 {
		t.Errorf("%d rows after late ones, want 310", n)
	}
}

func TestOtherSignalsAndOtherDaysMakeOtherSegments(t *testing.T) {
	ctx := context.Background()
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	k := keeper(t, head, openObjects(t))
	other := block("raw", 2, 100, 10)
	other.Columns = other.Columns[:1]
	tomorrow := block("raw", 3, 24*360000, 10)
	reinstalled := block("raw", 3, 200, 10)
	reinstalled.Boot = 10
	if err := head.Append(ctx, []series.Batch{block("raw", 1, 0, 100), other, tomorrow, reinstalled}); err != nil {
		t.Fatal(err)
	}
	if err := k.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := k.List(ctx, t0, t0.AddDate(0, 0, 2), Filter{})
	if err != nil || len(list) != 4 {
		t.Errorf("%d segments, want 4 (%v)", len(list), err)
	}
}

func TestADamagedSegmentIsRefused(t *testing.T) {
	ctx := context.Background()
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	store := openObjects(t)
	k := keeper(t, head, store)
	if err := head.Append(ctx, []series.Batch{block("raw", 1, 0, 100)}); err != nil {
		t.Fatal(err)
	}
	if err := k.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	list, _ := k.List(ctx, time.Time{}, t0.AddDate(1, 0, 0), Filter{})
	if err := store.Put(ctx, list[0].Key, strings.NewReader("PAR1 no more"), 12); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Read(ctx, list[0]); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("error %v, want damaged", err)
	}
}

func TestNaNAndInfinityKeepTheirPlaces(t *testing.T) {
	b := block("raw", 1, 0, 3)
	b.Columns[1].Float32 = []float32{float32(math.NaN()), float32(math.Inf(-1)), 0}
	file, _, err := encode([]series.Batch{b})
	if err != nil {
		t.Fatal(err)
	}
	c, err := decode(file)
	if err != nil {
		t.Fatal(err)
	}
	if v := c.Signals[1].Values; v[0] == v[0] || !math.IsInf(float64(v[1]), -1) || v[2] != 0 {
		t.Errorf("read back %v", v)
	}
}

func TestVerdictsOfAModelThatSkipsRowsKeepTheirRows(t *testing.T) {
	b := block("verdicts", 1, 100, 3)
	b.Columns[1].Name, b.Columns[1].Float32 = "row", []float32{0, 10, 20}
	file, seg, err := encode([]series.Batch{b})
	if err != nil {
		t.Fatal(err)
	}
	c, err := decode(file)
	if err != nil || len(c.Signals) != 1 || !slices.Equal(c.Rows, []uint64{100, 110, 120}) || seg.First != 100 {
		t.Errorf("rows %v of %d signals, %v", c.Rows, len(c.Signals), err)
	}
}

// cut is an object store and a head that die at a chosen step.
type cut struct {
	Objects
	Head
	left int
}

var errCut = errors.New("the hub was killed here")

func (c *cut) step() error {
	if c.left--; c.left < 0 {
		return errCut
	}
	return nil
}

func (c *cut) PutIfAbsent(ctx context.Context, key string, r io.Reader, size int64) error {
	if err := c.step(); err != nil {
		return err
	}
	if err := c.Objects.PutIfAbsent(ctx, key, r, size); err != nil {
		return err
	}
	return c.step()
}

func (c *cut) SetPlan(ctx context.Context, id topic.ID, stream string, plan embedded.Plan) error {
	if err := c.step(); err != nil {
		return err
	}
	if err := c.Head.SetPlan(ctx, id, stream, plan); err != nil {
		return err
	}
	return c.step()
}

func (c *cut) Seal(ctx context.Context, id topic.ID, stream string, blocks []embedded.BlockRef) error {
	if err := c.step(); err != nil {
		return err
	}
	if err := c.Head.Seal(ctx, id, stream, blocks); err != nil {
		return err
	}
	return c.step()
}

// Blocks come in any order, doubled and again after a crash; the hub is killed
// at any step of any flush, losing what was not synced. In the end each row is
// in exactly one segment.
func TestEachRowIsInExactlyOneSegmentWhateverIsKilledAndSentAgain(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		store := openObjects(t)
		mem := vfs.NewCrashableMem()
		head := openHead(t, mem)
		const blocks, rows = 12, 5
		var acked []int
		send := func(i int) {
			stream := []string{"raw", "verdicts"}[i%2]
			if err := head.Append(ctx, []series.Batch{block(stream, uint64(i), uint64(i*rows), rows)}); err != nil {
				rt.Fatal(err)
			}
			acked = append(acked, i)
		}
		for range rapid.IntRange(3, 25).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0, 1:
				send(rapid.IntRange(0, blocks-1).Draw(rt, "block"))
			case 2:
				c := &cut{Objects: store, Head: head, left: rapid.IntRange(0, 20).Draw(rt, "cut")}
				err := keeper(t, c, c).Flush(ctx)
				if err != nil && !errors.Is(err, errCut) {
					rt.Fatal(err)
				}
			case 3:
				after := mem.CrashClone(vfs.CrashCloneCfg{})
				head.Close()
				mem = after
				head = openHead(t, mem)
			}
		}
		for i := range blocks {
			send(i)
		}
		k := keeper(t, head, store)
		if err := k.Flush(ctx); err != nil {
			rt.Fatal(err)
		}
		defer head.Close()
		got := rowsOf(t, k, "raw")
		for row, n := range rowsOf(t, k, "verdicts") {
			got[row] += n
		}
		for row := range uint64(blocks * rows) {
			if got[row] != 1 {
				rt.Fatalf("row %d is in %d segments (sent %v)", row, got[row], acked)
			}
		}
		if len(got) != blocks*rows {
			rt.Fatalf("%d rows, want %d", len(got), blocks*rows)
		}
	})
}

func TestKeysSayWhatTheSegmentIs(t *testing.T) {
	s := Segment{Digest: strings.Repeat("ab", 32), Site: "a-b.c", Node: "n", Stream: "raw", First: math.MaxUint64, Rows: 1, From: -5, To: math.MaxInt64}
	s.Key = s.key()
	if got, ok := parseKey(s.Key); !ok || got != s {
		t.Errorf("parsed %+v, %v", got, ok)
	}
	for _, bad := range []string{"", "segments/x", s.Key + "x", strings.Replace(s.Key, "raw", "r/w", 1), strings.Replace(s.Key, "_1_", "_01_", 1)} {
		if _, ok := parseKey(bad); ok {
			t.Errorf("%q was taken for a segment", bad)
		}
	}
}

func BenchmarkFlush(b *testing.B) {
	var blocks []series.Batch
	for i := range 100 {
		blocks = append(blocks, block("raw", uint64(i), uint64(i*1000), 1000))
	}
	for b.Loop() {
		file, _, err := encode(blocks)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(file))/200_000, "B/value")
	}
	b.ReportMetric(200_000*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mvalues/s")
}

func TestSegmentsPastTheirTimeAreRemovedWhole(t *testing.T) {
	ctx := context.Background()
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	k := keeper(t, head, openObjects(t))
	for seq, first := range []uint64{0, 8_640_000} { // 100 Hz: the second is a day later
		if err := head.Append(ctx, []series.Batch{block("raw", uint64(seq), first, 100)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		before        time.Time
		removed, left int
	}{
		{t0, 0, 200},
		{t0.Add(500 * time.Millisecond), 0, 200}, // in the midst of the first
		{t0.Add(time.Hour), 1, 100},
		{t0.Add(time.Hour), 0, 100},
		{t0.AddDate(0, 0, 2), 1, 0},
	} {
		n, err := k.Trim(ctx, c.before)
		if err != nil || n != c.removed || len(rowsOf(t, k, "raw")) != c.left {
			t.Errorf("before %s: removed %d, %v, want %d, and %d rows left", c.before, n, err, c.removed, c.left)
		}
	}
}
