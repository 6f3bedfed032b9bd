package ingest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/series/embedded"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

var (
	pump  = topic.ID{Site: "plant-1", Node: "pump-7"}
	quiet = slog.New(slog.DiscardHandler)
)

const start = int64(1_795_327_200_000_000_000)

func openHead(t testing.TB, fs vfs.FS) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(embedded.Config{Dir: "series", FS: fs, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newIngest(t testing.TB, cfg Config) *Ingest {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = quiet
	}
	in, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// payload is a block of rows [first, first+rows) at 100 Hz whose values are the
// rows' numbers.
func payload(t testing.TB, seq, first uint64, rows int) []byte {
	t.Helper()
	b := telemetry.Block{Boot: 3, Seq: seq, Stream: telemetry.Raw, First: first, T0: start + int64(first)*1e7, RateHz: 100}
	values := make([]float32, rows)
	for i := range values {
		values[i] = float32(first) + float32(i)
	}
	b.Signals = []telemetry.Signal{{Name: "row", Codec: telemetry.Delta, Values: values}}
	p, err := b.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// give hands a payload over and waits for the answer.
func give(in *Ingest, p []byte) error {
	answer := make(chan error, 1)
	in.Handle(context.Background(), pump, p, func(err error) { answer <- err })
	return <-answer
}

func rows(t testing.TB, s series.Store) []float32 {
	t.Helper()
	r, err := s.Query(context.Background(), series.Query{ID: pump, Stream: "raw", From: start, To: start + 1e15})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Signals) == 0 {
		return nil
	}
	return r.Signals[0].Float32
}

func TestAcknowledgedMeansDurableAndCounted(t *testing.T) {
	mem := vfs.NewCrashableMem()
	head := openHead(t, mem)
	defer head.Close()
	in := newIngest(t, Config{Head: head})
	defer in.Close()
	for _, p := range [][]byte{payload(t, 2, 200, 100), payload(t, 0, 0, 100), payload(t, 2, 200, 100)} {
		if err := give(in, p); err != nil {
			t.Fatal(err)
		}
	}
	after := openHead(t, mem.CrashClone(vfs.CrashCloneCfg{})) // the power fails
	defer after.Close()
	if n := len(rows(t, after)); n != 200 {
		t.Errorf("%d rows after a power cut, want 200", n)
	}
	s, err := in.Stats(context.Background(), pump)
	if err != nil {
		t.Fatal(err)
	}
	if s.Blocks != 2 || s.Rows != 200 || s.Values != 200 || s.Duplicates != 1 || s.LastSeen.IsZero() {
		t.Errorf("%+v", s)
	}
	if want := []Gap{{"raw", 3, 100, 100}}; !slices.Equal(s.Gaps, want) {
		t.Errorf("gaps %v, want %v", s.Gaps, want)
	}
	if err := give(in, payload(t, 1, 100, 100)); err != nil {
		t.Fatal(err)
	}
	if s, _ := in.Stats(context.Background(), pump); s.Gaps != nil {
		t.Errorf("the gap stays after its rows came: %v", s.Gaps)
	}
}

func TestVerdictsOfAModelThatSkipsRowsLeaveNoGaps(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	in := newIngest(t, Config{Head: head})
	defer in.Close()
	for seq, first := range []uint64{99, 129, 169} { // the verdict of row 159 is missing
		b := telemetry.Block{Boot: 3, Seq: uint64(seq), Stream: telemetry.Verdicts, First: first, T0: start + int64(first), RateHz: 100}
		b.Signals = []telemetry.Signal{{Name: telemetry.Score, Values: []float32{1, 2, 3}}, {Name: telemetry.RowOffset, Values: []float32{0, 10, 20}}}
		p, err := b.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := give(in, p); err != nil {
			t.Fatal(err)
		}
	}
	s, err := in.Stats(context.Background(), pump)
	if want := []Gap{{"verdicts", 3, 159, 10}}; err != nil || !slices.Equal(s.Gaps, want) {
		t.Errorf("gaps %v, want %v (%v)", s.Gaps, want, err)
	}
}

func TestAnUnreadablePayloadIsAcknowledgedQuarantinedAndBounded(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	var log strings.Builder
	dir := t.TempDir()
	in := newIngest(t, Config{Head: head, QuarantineDir: dir, QuarantineBytes: 100, Log: slog.New(slog.NewTextHandler(&log, nil))})
	bad := []byte(strings.Repeat("?", 30))
	for range 9 {
		if err := give(in, bad); err != nil {
			t.Fatalf("not acknowledged, so it would come again for ever: %v", err)
		}
	}
	if err := give(in, payload(t, 0, 0, 10)); err != nil {
		t.Fatal(err)
	}
	s, _ := in.Stats(context.Background(), pump)
	if s.Malformed != 9 || s.Blocks != 1 {
		t.Errorf("%+v", s)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Errorf("%d files are kept (%v), want the 3 newest that fit", len(files), err)
	}
	in.Close()
	if n := strings.Count(log.String(), "quarantined"); n != 4 || !strings.Contains(log.String(), "plant-1/pump-7") || !strings.Contains(log.String(), "remedy") {
		t.Errorf("%d lines for 9 payloads, want 4 with the device and a remedy:\n%s", n, log.String())
	}
	again := newIngest(t, Config{Head: head, QuarantineDir: dir, QuarantineBytes: 100})
	defer again.Close()
	if err := give(again, bad); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 3 {
		t.Errorf("%d files after a restart, want 3", len(files))
	}
}

// moody is a head that refuses when told to.
type moody struct {
	Head
	mu  sync.Mutex
	err error
}

func (m *moody) set(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *moody) Commit(ctx context.Context, b []series.Batch) ([]bool, error) {
	m.mu.Lock()
	err := m.err
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return m.Head.Commit(ctx, b)
}

func TestAFullDiskIsNotAcknowledgedAndShows(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	m := &moody{Head: head}
	in := newIngest(t, Config{Head: m})
	defer in.Close()
	m.set(series.ErrFull)
	p := payload(t, 0, 0, 10)
	if err := give(in, p); !errors.Is(err, series.ErrFull) || !strings.Contains(err.Error(), "plant-1/pump-7") {
		t.Errorf("answer %v", err)
	}
	if c := in.Conditions(); len(c) != 1 || c[0].Name != CondFull {
		t.Errorf("conditions %v", c)
	}
	m.set(nil)
	if err := give(in, p); err != nil {
		t.Fatal(err)
	}
	if c := in.Conditions(); c != nil {
		t.Errorf("conditions %v with room again", c)
	}
	if s := in.Totals(); s.Refused != 1 || s.Blocks != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAnUnknownDeviceIsRefused(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	in := newIngest(t, Config{Head: head, Authorize: func(topic.ID) error { return errors.New("no such device") }})
	defer in.Close()
	if err := give(in, payload(t, 0, 0, 10)); err == nil || rows(t, head) != nil {
		t.Errorf("stored for an unknown device: %v", err)
	}
}

// slow is a sink that waits for its gate.
type slow struct {
	gate chan struct{}
	mu   sync.Mutex
	seen []uint64
}

func (s *slow) Take(b *series.Batch) {
	<-s.gate
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, uint64(b.Columns[0].Float32[0]))
}

func TestASlowSinkDelaysNothingAndItsLossIsCounted(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	sink := &slow{gate: make(chan struct{})}
	in := newIngest(t, Config{Head: head, Sinks: []Sink{sink}, SinkQueue: 4})
	for i := range uint64(50) {
		if err := give(in, payload(t, i, i*10, 10)); err != nil {
			t.Fatal(err)
		}
	}
	if c := in.Conditions(); len(c) != 1 || c[0].Name != CondSink {
		t.Errorf("conditions %v", c)
	}
	close(sink.gate)
	in.Close()
	dropped := in.Totals().SinkDropped
	if dropped < 40 || dropped+uint64(len(sink.seen)) != 50 {
		t.Errorf("%d seen and %d counted as dropped of 50", len(sink.seen), dropped)
	}
	for _, first := range sink.seen {
		if first%10 != 0 || first >= 500 {
			t.Errorf("a sink saw a batch that begins with %d: memory was reused too soon", first)
		}
	}
	if n := len(rows(t, head)); n != 500 {
		t.Errorf("%d rows stored, want 500", n)
	}
}

// stubborn is a rollup store that refuses a few times, then forever the named
// sequence number.
type stubborn struct {
	series.Store
	mu     sync.Mutex
	never  uint64
	stored []uint64
}

func (s *stubborn) Append(_ context.Context, batches []series.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range batches {
		if b.Seq == s.never {
			return series.ErrRejected
		}
	}
	for _, b := range batches {
		s.stored = append(s.stored, b.Seq)
	}
	return nil
}

func TestRollupsThatAreRefusedAreCountedAndTheRestGoesOn(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	store := &stubborn{never: 1}
	in := newIngest(t, Config{Head: head, Rollups: store})
	for i := range uint64(3) {
		if err := give(in, payload(t, i, i*10, 10)); err != nil {
			t.Fatal(err)
		}
	}
	in.Close()
	if n := in.Totals().RollupsDropped; n == 0 || n+uint64(len(store.stored)) != 3 {
		t.Errorf("%d dropped, %v stored", n, store.stored)
	}
}

func TestBackPressureEndsWithTheContext(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	gate := make(chan struct{})
	in := newIngest(t, Config{Head: gated{head, gate}, PendingBytes: 10, Workers: 1})
	defer in.Close()
	first := make(chan error, 1)
	in.Handle(context.Background(), pump, payload(t, 0, 0, 10), func(err error) { first <- err })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	in.Handle(ctx, pump, payload(t, 1, 10, 10), func(err error) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("answer %v", err)
		}
	})
	close(gate)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

type gated struct {
	Head
	gate chan struct{}
}

func (g gated) Commit(ctx context.Context, b []series.Batch) ([]bool, error) {
	<-g.gate
	return g.Head.Commit(ctx, b)
}

func TestAfterCloseNothingIsAcknowledged(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	in := newIngest(t, Config{Head: head})
	in.Close()
	if err := give(in, payload(t, 0, 0, 10)); !errors.Is(err, ErrClosed) {
		t.Errorf("answer %v", err)
	}
}

// Blocks arrive out of order and doubled, the hub loses power at any moment,
// the device sends again whatever was not acknowledged, and now and then what
// was. Every row is there exactly once, and Stats knows the holes.
func TestRowsAreThereExactlyOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mem := vfs.NewCrashableMem()
		head := openHead(t, mem)
		in := newIngest(t, Config{Head: head})
		const blocks, perBlock = 20, 7
		payloads := make([][]byte, blocks)
		for i := range payloads {
			payloads[i] = payload(t, uint64(i), uint64(i*perBlock), perBlock)
		}
		acked := map[int]bool{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			sent := rapid.SliceOfN(rapid.IntRange(0, blocks-1), 1, 8).Draw(rt, "sent")
			var mu sync.Mutex
			var wait sync.WaitGroup
			for _, i := range sent {
				wait.Add(1)
				in.Handle(context.Background(), pump, payloads[i], func(err error) {
					defer wait.Done()
					if err == nil {
						mu.Lock()
						acked[i] = true
						mu.Unlock()
					}
				})
			}
			crash := rapid.Bool().Draw(rt, "crash")
			if !crash {
				wait.Wait()
				continue
			}
			mu.Lock()
			after := mem.CrashClone(vfs.CrashCloneCfg{})
			survivors := map[int]bool{}
			for i := range acked {
				survivors[i] = true
			}
			mu.Unlock()
			wait.Wait()
			in.Close()
			head.Close()
			// What was acknowledged after the moment of the cut never reached
			// the device.
			acked, mem = survivors, after
			head = openHead(t, mem)
			in = newIngest(t, Config{Head: head})
		}
		have := map[float32]int{}
		for _, v := range rows(t, head) {
			have[v]++
		}
		for i := range acked {
			for r := range perBlock {
				if n := have[float32(i*perBlock+r)]; n != 1 {
					rt.Fatalf("row %d of acknowledged block %d is there %d times", r, i, n)
				}
			}
		}
		s, err := in.Stats(context.Background(), pump)
		if err != nil {
			rt.Fatal(err)
		}
		for _, gap := range s.Gaps {
			for row := gap.First; row < gap.First+gap.Rows; row++ {
				if have[float32(row)] != 0 {
					rt.Fatalf("row %d is held but reported missing", row)
				}
			}
		}
		for i := range payloads {
			if err := give(in, payloads[i]); err != nil {
				rt.Fatal(err)
			}
		}
		got := rows(t, head)
		if len(got) != blocks*perBlock || !slices.IsSorted(got) {
			rt.Fatalf("%d rows in the end, want %d", len(got), blocks*perBlock)
		}
		if s, _ := in.Stats(context.Background(), pump); s.Gaps != nil {
			rt.Fatalf("gaps in the end: %v", s.Gaps)
		}
		in.Close()
		head.Close()
	})
}
