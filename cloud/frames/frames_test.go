package frames

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/jpeg"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/objects/dir"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

var camera = topic.ID{Site: "plant-1", Node: "camera-7"}

func picture(t testing.TB, level byte) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 20, 10))
	for i := range m.Pix {
		m.Pix[i] = level
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func message(t testing.TB, level byte, change func(*telemetry.Frame)) []byte {
	t.Helper()
	f := telemetry.Frame{
		Boot: 3, Row: uint64(level), At: 1_795_327_200_000_000_000, Device: "line-camera", Width: 20, Height: 10, Format: telemetry.JPEG, Why: telemetry.WhyUncertain,
		Release: "surface-3", Score: 0.9, Class: "scratch", Probability: 0.4, Encoded: picture(t, level),
	}
	if change != nil {
		change(&f)
	}
	p, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// world is a keeper between stores that can fail.
type world struct {
	*Keeper
	objects   *shelf
	catalogue *book
	log       *bytes.Buffer
}

// shelf is object storage.
type shelf struct {
	objects.Store
	mu   sync.Mutex
	fail error
}

func (s *shelf) PutIfAbsent(ctx context.Context, key string, r io.Reader, size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	return s.Store.PutIfAbsent(ctx, key, r, size)
}

// book is a catalogue that demands that the object is there first.
type book struct {
	feedback.Memory
	t       testing.TB
	objects objects.Store
	mu      sync.Mutex
	fail    error
	wait    chan struct{} // nil: answers at once
}

func (b *book) AddFrame(ctx context.Context, f feedback.Frame) (bool, error) {
	b.mu.Lock()
	fail, wait := b.fail, b.wait
	b.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	if fail != nil {
		return false, fail
	}
	if _, err := b.objects.Stat(ctx, f.Key()); err != nil {
		b.t.Errorf("%s is catalogued before it is stored: %v", f.Key(), err)
	}
	return b.Memory.AddFrame(ctx, f)
}

func newWorld(t testing.TB, c Config) world {
	t.Helper()
	st, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := world{objects: &shelf{Store: st}, catalogue: &book{t: t, objects: st}, log: &bytes.Buffer{}}
	c.Objects, c.Catalogue, c.Log = w.objects, w.catalogue, slog.New(slog.NewTextHandler(w.log, nil))
	if w.Keeper, err = New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// send hands a message over and returns its answer.
func (w world) send(p []byte) error {
	answer := make(chan error, 2)
	w.Handle(context.Background(), camera, p, func(err error) { answer <- err })
	return <-answer
}

func (w world) frames(t testing.TB) []feedback.Frame {
	t.Helper()
	fs, err := w.catalogue.Frames(context.Background(), feedback.Query{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestAFrameIsAcknowledgedWhenItIsStoredAndCatalogued(t *testing.T) {
	w := newWorld(t, Config{})
	if err := w.send(message(t, 1, nil)); err != nil {
		t.Fatal(err)
	}
	if err := w.send(message(t, 1, nil)); err != nil { // its acknowledgement was lost
		t.Fatal(err)
	}
	if err := w.send(message(t, 2, func(f *telemetry.Frame) { f.Release, f.Class, f.Score, f.Probability = "", "", 0, 0 })); err != nil {
		t.Fatal(err)
	}
	fs := w.frames(t)
	if len(fs) != 2 {
		t.Fatalf("%d frames", len(fs))
	}
	var got feedback.Frame
	for _, f := range fs {
		if f.Row == 1 {
			got = f
		}
	}
	encoded := picture(t, 1)
	want := feedback.Frame{
		Device: camera, Class: "line-camera", Row: 1, At: time.Unix(0, 1_795_327_200_000_000_000).UTC(), Digest: artifact.Of(encoded), Bytes: len(encoded),
		Width: 20, Height: 10, Format: "jpg", Why: "uncertain", Release: "surface-3", Score: 0.9, Top: "scratch", TopProbability: 0.4,
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	r, _, err := w.objects.Get(context.Background(), got.Key(), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, encoded) {
		t.Errorf("the object differs: %v", err)
	}
	if s := w.Stats(); s.Frames != 2 || s.Duplicates != 1 || s.Bytes != uint64(len(encoded)+len(picture(t, 2))) || s.Refused+s.Malformed != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestAFrameIsNotAcknowledgedWhileAStoreFails(t *testing.T) {
	w := newWorld(t, Config{})
	w.objects.fail = errors.New("the bucket is full")
	if err := w.send(message(t, 1, nil)); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("got %v", err)
	}
	if w.Failed() == nil {
		t.Error("the hub's health hides it")
	}
	w.objects.fail, w.catalogue.fail = nil, errors.New("the database is away")
	if err := w.send(message(t, 1, nil)); err == nil || !strings.Contains(err.Error(), "away") {
		t.Errorf("got %v", err)
	}
	w.catalogue.fail = nil
	if err := w.send(message(t, 1, nil)); err != nil {
		t.Errorf("it came again, and is refused: %v", err)
	}
	if s := w.Stats(); s.Refused != 2 || s.Frames != 1 || w.Failed() != nil || len(w.frames(t)) != 1 {
		t.Errorf("stats %+v, %v", s, w.Failed())
	}
}

func TestWhatCanNeverBeReadIsAcknowledgedAndQuarantined(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, Config{QuarantineDir: folder})
	whole := message(t, 1, nil)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-3] ^= 0x40
	bad := map[string][]byte{
		"rubbish":              []byte("rubbish"),
		"a changed picture":    flipped,
		"half a picture":       message(t, 1, func(f *telemetry.Frame) { f.Encoded = f.Encoded[:len(f.Encoded)/2] }),
		"another size":         message(t, 1, func(f *telemetry.Frame) { f.Width = 21 }),
		"another format":       message(t, 1, func(f *telemetry.Frame) { f.Format = telemetry.PNG }),
		"no picture at all":    message(t, 1, func(f *telemetry.Frame) { f.Encoded = []byte("hello") }),
		"a header of all lies": message(t, 1, func(f *telemetry.Frame) { f.Encoded = []byte("\xff\xd8\xff\xe0\x00\x10") }),
	}
	for name, p := range bad {
		if err := w.send(p); err != nil {
			t.Errorf("%s would be sent for ever: %v", name, err)
		}
	}
	if s := w.Stats(); s.Malformed != uint64(len(bad)) || s.Frames != 0 || len(w.frames(t)) != 0 {
		t.Errorf("stats %+v", s)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != len(bad) {
		t.Errorf("%d files in quarantine: %v", len(entries), err)
	}
	if !strings.Contains(w.log.String(), "plant-1/camera-7") || !strings.Contains(w.log.String(), "remedy") {
		t.Errorf("the log does not help:\n%s", w.log)
	}
}

func TestMemoryIsBoundedAndClosingAnswersEverybody(t *testing.T) {
	p := message(t, 1, nil)
	w := newWorld(t, Config{PendingBytes: int64(2 * len(p)), Workers: 1})
	w.catalogue.wait = make(chan struct{})
	answers := make(chan error, 8)
	for level := range byte(2) {
		w.Handle(context.Background(), camera, message(t, level, nil), func(err error) { answers <- err })
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	w.Handle(ctx, camera, p, func(err error) { answers <- err })
	if err := <-answers; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third message was taken: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-answers; err == nil {
			t.Error("acknowledged, and not durable")
		}
	}
	if err := w.send(p); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
