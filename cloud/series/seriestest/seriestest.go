// Package seriestest holds every series store to the same promises.
//
// The parties are the stores' own tests. Test code alone imports it.
package seriestest

import (
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/topic"
)

// Options says what a store does not promise.
type Options struct {
	RollupsOnly bool // no raw rows, no buckets shorter than a second
}

// Start is when the rows of the test batches begin: a whole second.
var Start = time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)

// ID is the device that the tests write.
var ID = topic.ID{Site: "plant-1", Node: "pump-7"}

// Wave is a batch of one second, second n after Start, of 100 rows in every
// number kind; the values are n, or row numbers.
func Wave(n int) series.Batch {
	const rows = 100
	b := series.Batch{ID: ID, Stream: "raw", Boot: 5, Seq: uint64(n), First: uint64(n * rows), T0: Start.Add(time.Duration(n) * time.Second).UnixNano(), RateHz: rows}
	f32, f64, i64, flag := make([]float32, rows), make([]float64, rows), make([]int64, rows), make([]bool, rows)
	for i := range rows {
		f32[i], f64[i], i64[i], flag[i] = float32(n), float64(i)+0.25, int64(n*rows+i), i%4 == 0
	}
	f32[0], f32[1] = float32(n)-1, float32(n)+1
	b.Columns = []series.Column{
		{Name: "f32", Unit: "bar", Kind: series.Float32, Float32: f32},
		{Name: "f64", Unit: "V", Kind: series.Float64, Float64: f64},
		{Name: "i64", Kind: series.Int64, Int64: i64},
		{Name: "flag", Kind: series.Bool, Bool: flag},
	}
	return b
}

// Exercise runs the conformance tests. open gives a new, empty store.
func Exercise(t *testing.T, opt Options, open func(t *testing.T) series.Store) {
	ctx := context.Background()
	second := func(n int) int64 { return Start.Add(time.Duration(n) * time.Second).UnixNano() }
	query := func(t *testing.T, s series.Store, q series.Query) series.Result {
		t.Helper()
		q.ID = ID
		if q.Stream == "" {
			q.Stream = "raw"
		}
		r, err := s.Query(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	appendAll := func(t *testing.T, s series.Store, batches ...series.Batch) {
		t.Helper()
		if err := s.Append(ctx, batches); err != nil {
			t.Fatal(err)
		}
	}
	signal := func(t *testing.T, r series.Result, name string) series.Signal {
		t.Helper()
		i := slices.IndexFunc(r.Signals, func(s series.Signal) bool { return s.Name == name })
		if i < 0 {
			t.Fatalf("no signal %q in the result", name)
		}
		return r.Signals[i]
	}

	t.Run("a device never seen has nothing", func(t *testing.T) {
		s := open(t)
		if r := query(t, s, series.Query{From: second(0), To: second(10), MaxPoints: 5}); len(r.Signals) != 0 {
			t.Errorf("found %d signals", len(r.Signals))
		}
		if info, err := s.Signals(ctx, ID); err != nil || len(info) != 0 {
			t.Errorf("found %v, %v", info, err)
		}
	})

	t.Run("buckets hold least, greatest, mean and count", func(t *testing.T) {
		s := open(t)
		appendAll(t, s, Wave(0), Wave(1), Wave(2), Wave(3))
		r := query(t, s, series.Query{From: second(0), To: second(4), MaxPoints: 2})
		if r.Bucket != 2*time.Second {
			t.Fatalf("bucket of %v, want 2 s", r.Bucket)
		}
		f := signal(t, r, "f32")
		if f.Unit != "bar" || !slices.Equal(f.Times, []int64{second(0), second(2)}) || !slices.Equal(f.Min, []float64{-1, 1}) ||
			!slices.Equal(f.Max, []float64{2, 4}) || !slices.Equal(f.Count, []int64{200, 200}) || f.Mean[0] != 0.5 || f.Mean[1] != 2.5 {
			t.Errorf("f32: %+v", f)
		}
		if i := signal(t, r, "i64"); i.Min[1] != 200 || i.Max[1] != 399 || i.Mean[1] != 299.5 {
			t.Errorf("i64: %+v", i)
		}
		if b := signal(t, r, "flag"); b.Min[0] != 0 || b.Max[0] != 1 || b.Mean[0] != 0.25 {
			t.Errorf("flag: %+v", b)
		}
		if d := signal(t, r, "f64"); d.Max[0] != 99.25 {
			t.Errorf("f64: %+v", d)
		}
	})

	t.Run("only the asked signals, only the asked time", func(t *testing.T) {
		s := open(t)
		appendAll(t, s, Wave(0), Wave(1), Wave(2))
		r := query(t, s, series.Query{From: second(1), To: second(2), MaxPoints: 100, Signals: []string{"i64"}})
		if len(r.Signals) != 1 {
			t.Fatalf("%d signals", len(r.Signals))
		}
		var count int64
		for i, n := range r.Signals[0].Count {
			count += n
			if r.Signals[0].Min[i] < 100 || r.Signals[0].Max[i] > 199 {
				t.Errorf("a value from outside: %v to %v", r.Signals[0].Min[i], r.Signals[0].Max[i])
			}
		}
		if count != 100 {
			t.Errorf("%d values, want 100", count)
		}
	})

	t.Run("sent again it counts once, late it lands in its place", func(t *testing.T) {
		s := open(t)
		appendAll(t, s, Wave(3), Wave(3))
		appendAll(t, s, Wave(1))
		appendAll(t, s, Wave(3), Wave(0), Wave(1))
		r := query(t, s, series.Query{From: second(0), To: second(4), MaxPoints: 4})
		f := signal(t, r, "f32")
		if !slices.Equal(f.Times, []int64{second(0), second(1), second(3)}) || !slices.Equal(f.Count, []int64{100, 100, 100}) {
			t.Errorf("%v: counts %v", f.Times, f.Count)
		}
	})

	t.Run("two batches in one second add up", func(t *testing.T) {
		s := open(t)
		a, b := Wave(0), Wave(0)
		a.Columns, b.Columns = []series.Column{{Name: "x", Kind: series.Float32, Float32: []float32{1, 2}}}, []series.Column{{Name: "x", Kind: series.Float32, Float32: []float32{6}}}
		b.Seq, b.First, b.T0 = 1, 2, a.T0+3e8
		appendAll(t, s, a)
		appendAll(t, s, b)
		x := signal(t, query(t, s, series.Query{From: second(0), To: second(1), MaxPoints: 1}), "x")
		if x.Count[0] != 3 || x.Mean[0] != 3 || x.Min[0] != 1 || x.Max[0] != 6 {
			t.Errorf("%+v", x)
		}
	})

	t.Run("NaN is no value", func(t *testing.T) {
		s := open(t)
		b := Wave(0)
		nan := float32(math.NaN())
		b.Columns = []series.Column{{Name: "x", Kind: series.Float32, Float32: []float32{nan, 4, nan}}, {Name: "none", Kind: series.Float32, Float32: []float32{nan, nan, nan}}}
		appendAll(t, s, b)
		r := query(t, s, series.Query{From: second(0), To: second(1), MaxPoints: 1})
		if x := signal(t, r, "x"); x.Count[0] != 1 || x.Mean[0] != 4 {
			t.Errorf("%+v", x)
		}
		if len(r.Signals) != 1 {
			t.Errorf("%d signals have values, want 1", len(r.Signals))
		}
	})

	t.Run("signals are listed with their unit and kind", func(t *testing.T) {
		s := open(t)
		appendAll(t, s, Wave(0), Wave(5))
		info, err := s.Signals(ctx, ID)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range info {
			names = append(names, i.Stream+"/"+i.Name)
			if i.Name == "f32" && (i.Unit != "bar" || i.Kind != series.Float32) {
				t.Errorf("f32 is listed as %+v", i)
			}
			if i.From > second(0) || i.To < second(5) {
				t.Errorf("%s spans %d to %d", i.Name, i.From, i.To)
			}
		}
		if !slices.Equal(names, []string{"raw/f32", "raw/f64", "raw/flag", "raw/i64"}) {
			t.Errorf("listed %v", names)
		}
	})

	t.Run("trimmed rows are gone, later ones stay", func(t *testing.T) {
		s := open(t)
		appendAll(t, s, Wave(0), Wave(1), Wave(10))
		if err := s.Trim(ctx, second(5)); err != nil {
			t.Fatal(err)
		}
		r := query(t, s, series.Query{From: second(0), To: second(20), MaxPoints: 20})
		if f := signal(t, r, "f32"); len(f.Times) != 1 || f.Times[0] != second(10) {
			t.Errorf("%v", f.Times)
		}
	})

	t.Run("nonsense is refused by name", func(t *testing.T) {
		s := open(t)
		bad := Wave(0)
		bad.Columns[1].Float64 = bad.Columns[1].Float64[:5]
		if err := s.Append(ctx, []series.Batch{Wave(1), bad}); err == nil {
			t.Error("uneven columns were taken")
		}
		if _, err := s.Query(ctx, series.Query{ID: ID, Stream: "raw", From: 5, To: 5}); err == nil {
			t.Error("an empty range was answered")
		}
		if r := query(t, s, series.Query{From: second(0), To: second(4), MaxPoints: 4}); len(r.Signals) != 0 {
			t.Error("half of a refused append was stored")
		}
	})

	t.Run("strings count", func(t *testing.T) {
		s := open(t)
		b := Wave(0)
		b.Columns = []series.Column{{Name: "state", Kind: series.String, String: []string{"idle", "run", "run"}}}
		appendAll(t, s, b)
		x := signal(t, query(t, s, series.Query{From: second(0), To: second(1), MaxPoints: 1}), "state")
		if x.Count[0] != 3 || x.Min[0] == x.Min[0] {
			t.Errorf("%+v", x)
		}
	})

	if opt.RollupsOnly {
		t.Run("raw rows are refused", func(t *testing.T) {
			if _, err := open(t).Query(ctx, series.Query{ID: ID, Stream: "raw", From: second(0), To: second(1)}); err == nil {
				t.Error("a store of rollups gave raw rows")
			}
		})
		return
	}

	t.Run("raw rows come back in order, of every kind", func(t *testing.T) {
		s := open(t)
		words := Wave(2)
		words.Columns = append(words.Columns, series.Column{Name: "state", Kind: series.String, String: slices.Repeat([]string{"idle", "run"}, 50)})
		appendAll(t, s, words, Wave(0))
		r := query(t, s, series.Query{From: second(0) + 5e8, To: second(2) + 5e8})
		want := Wave(0)
		f, i := signal(t, r, "f64"), signal(t, r, "i64")
		if len(f.Times) != 100 || !slices.IsSorted(f.Times) || f.Times[0] != want.Time(50) {
			t.Fatalf("%d rows from %d", len(f.Times), f.Times[0])
		}
		if f.Float64[0] != 50.25 || f.Float64[50] != 0.25 || i.Int64[99] != 249 {
			t.Errorf("values %v, %v, %v", f.Float64[0], f.Float64[50], i.Int64[99])
		}
		if b := signal(t, r, "flag"); !b.Bool[2] || b.Bool[0] || !b.Bool[50] {
			t.Errorf("flags %v", b.Bool)
		}
		if s := signal(t, r, "state"); len(s.String) != 50 || s.String[0] != "idle" || s.String[49] != "run" {
			t.Errorf("words %v", s.String)
		}
	})

	t.Run("overlapping rows are merged", func(t *testing.T) {
		s := open(t)
		old, again := Wave(0), Wave(0)
		again.Seq, again.T0, again.First = 7, old.T0+5e8, 50
		again.Columns = again.Columns[2:3] // i64, whose values now tell which batch a row is of
		for i := range again.Columns[0].Int64 {
			again.Columns[0].Int64[i] = 1000 + int64(i)
		}
		appendAll(t, s, again)
		appendAll(t, s, old)
		i := signal(t, query(t, s, series.Query{From: second(0), To: second(2)}), "i64")
		if len(i.Times) != 150 || i.Int64[49] != 49 || i.Int64[50] != 1000 || i.Int64[149] != 1099 {
			t.Errorf("%d rows: %v", len(i.Times), i.Int64)
		}
		fine := signal(t, query(t, s, series.Query{From: second(0), To: second(2), MaxPoints: 20}), "i64")
		if fine.Count[5] != 10 || fine.Min[5] != 1000 {
			t.Errorf("a tenth of a second: %+v", fine)
		}
	})

	t.Run("a bounded answer keeps the oldest rows and says so", func(t *testing.T) {
		s := open(t)
		appendAll(t, s, Wave(0), Wave(1), Wave(2))
		r := query(t, s, series.Query{From: second(0), To: second(3), MaxRows: 120})
		if i := signal(t, r, "i64"); !r.Truncated || len(i.Times) != 120 || i.Int64[119] != 119 {
			t.Errorf("truncated %v, %d rows", r.Truncated, len(i.Times))
		}
		if r := query(t, s, series.Query{From: second(0), To: second(3), MaxRows: 300}); r.Truncated {
			t.Error("a whole answer says it is cut")
		}
	})
}
