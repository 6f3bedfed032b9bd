package frames

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/png"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/protocol/telemetry"
)

// noise is a PNG of so many pixels a side, which no format makes small.
func noise(t testing.TB, side int, seed uint64) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	m := image.NewRGBA(image.Rect(0, 0, side, side))
	for i := range m.Pix {
		m.Pix[i] = byte(r.Uint32())
		if i%4 == 3 {
			m.Pix[i] = 0xff
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(t testing.TB, c Config, d disk.FS) *Keeper {
	t.Helper()
	k, err := Open(c, Device{Disk: d, Class: "camera", Log: slog.New(slog.DiscardHandler), Patient: true})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func offer(t testing.TB, k *Keeper, row uint64, encoded []byte, now time.Time) {
	t.Helper()
	p, err := frame.Decode(encoded, frame.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	k.Offer(Picture{Row: row, At: now.UnixNano(), Encoded: encoded, Width: p.Width, Height: p.Height}, now)
}

// spooled waits for the writer, which has a goroutine of its own.
func spooled(t testing.TB, k *Keeper, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); k.Spool().Stats().Blocks < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pictures were written", k.Spool().Stats().Blocks, n)
		}
	}
}

// waiting returns the rows of the pictures that may be sent.
func waiting(t testing.TB, k *Keeper) (rows []uint64) {
	t.Helper()
	for after := uint64(0); ; {
		seq, payload, ok, err := k.Spool().Read(after)
		if errors.Is(err, disk.ErrPowerCut) {
			return rows
		}
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return rows
		}
		f, err := telemetry.DecodeFrame(payload)
		if err != nil {
			t.Fatal(err)
		}
		rows, after = append(rows, f.Row), seq
	}
}

func TestWhatWasChosenSurvivesAPowerCutAndIsPaidFor(t *testing.T) {
	d := &disk.Mem{}
	picture := noise(t, 32, 1)
	budget := float64(10*len(picture)) / (1 << 20)
	k := open(t, Config{Upload: All, BudgetMiBPerDay: budget}, d)
	for row := range uint64(4) {
		offer(t, k, row, picture, noon)
	}
	spooled(t, k, 4)
	if err := k.Sync(); err != nil {
		t.Fatal(err)
	}

	again := open(t, Config{Upload: All, BudgetMiBPerDay: budget}, d.Crash(nil))
	if rows := waiting(t, again); len(rows) != 4 {
		t.Errorf("rows %v are left of four", rows)
	}
	if again.NextRow() != 4 {
		t.Errorf("the next row is %d: a row's number would come twice", again.NextRow())
	}
	for row := range uint64(20) {
		offer(t, again, 4+row, picture, noon)
	}
	r := again.Report(noon)
	if r.Chosen != 24 || r.Refused != 14 || *r.BudgetBytes >= int64(len(picture)) {
		t.Errorf("%+v with %d left: ten pictures are the budget, over both runs", r, *r.BudgetBytes)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestABudgetThatCannotBeReadIsSpent(t *testing.T) {
	d := &disk.Mem{}
	if err := errors.Join(d.MkdirAll(folder), disk.WriteAtomic(d, stateFile, []byte("{"))); err != nil {
		t.Fatal(err)
	}
	k := open(t, Config{Upload: All}, d)
	offer(t, k, 0, noise(t, 8, 1), noon)
	if r := k.Report(noon); r.Refused != 1 || *r.BudgetBytes != 0 {
		t.Errorf("%+v", r)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAFullDiskCostsTheOldestPicturesAndCountsThem(t *testing.T) {
	d := &disk.Mem{}
	d.Limit(200 << 10)
	k := open(t, Config{Upload: All}, d)
	const n = 100
	for row := range uint64(n) {
		offer(t, k, row, noise(t, 32, row), noon)
	}
	if err := k.Close(); err != nil {
		t.Logf("closing on a full disk: %v", err)
	}
	r := k.Report(noon)
	if r.Dropped == 0 || r.SpoolFrames == 0 || int(r.Dropped)+r.SpoolFrames != n {
		t.Errorf("%d dropped and %d kept of %d", r.Dropped, r.SpoolFrames, n)
	}
	if r.SpoolBytes > 200<<10 {
		t.Errorf("%d bytes are on a disk of %d", r.SpoolBytes, 200<<10)
	}
}

func TestALargePictureIsMadeSmaller(t *testing.T) {
	const most = 8 << 10
	encoded := noise(t, 128, 3)
	if len(encoded) <= most {
		t.Fatal("the picture is small already")
	}
	k := open(t, Config{Upload: All, MaxBytes: most}, &disk.Mem{})
	offer(t, k, 0, encoded, noon)
	spooled(t, k, 1)
	if err := k.Sync(); err != nil {
		t.Fatal(err)
	}
	_, payload, ok, err := k.Spool().Read(0)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	f, err := telemetry.DecodeFrame(payload)
	if err != nil {
		t.Fatal(err)
	}
	p, err := frame.Decode(f.Encoded, frame.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Encoded) > most || f.Format != telemetry.JPEG || p.Width != f.Width || p.Height != f.Height || f.Width < 32 {
		t.Errorf("%d bytes of %s, said to be %d by %d and is %d by %d", len(f.Encoded), f.Format, f.Width, f.Height, p.Width, p.Height)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestShrinkKeepsColours(t *testing.T) {
	m := image.NewRGBA(image.Rect(0, 0, 64, 64))
	for i := range 64 * 64 {
		m.Set(i%64, i/64, color.RGBA{200, 30, 90, 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	p, err := frame.Decode(b.Bytes(), frame.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	small, err := encode(p, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	got, err := frame.Decode(small, frame.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for c, want := range []byte{200, 30, 90} {
		if d := int(got.Pix[c]) - int(want); d < -4 || d > 4 {
			t.Errorf("colour %d became %d", want, got.Pix[c])
		}
	}
}

// TestPowerCutsBuyNoPictures cuts the power at any write, again and again, on a
// day that does not pass: what may be sent never costs more than the budget, and
// each row is one picture.
func TestPowerCutsBuyNoPictures(t *testing.T) {
	picture := noise(t, 8, 1)
	const budgeted = 6
	c := Config{Upload: All, BudgetMiBPerDay: float64(budgeted*len(picture)) / (1 << 20)}
	rapid.Check(t, func(r *rapid.T) {
		d := &disk.Mem{}
		sent := map[uint64]bool{}
		row := uint64(0)
		for range rapid.IntRange(1, 6).Draw(r, "lives") {
			k, err := Open(c, Device{Disk: d, Class: "camera", Log: slog.New(slog.DiscardHandler), Patient: true})
			if err != nil {
				r.Fatal(err)
			}
			row = max(row, k.NextRow())
			cut := rapid.IntRange(1, 40).Draw(r, "cut")
			writes := 0 // guarded by the disk
			d.Fault(func(disk.Op, string) error {
				if writes++; writes >= cut {
					return disk.ErrPowerCut
				}
				return nil
			})
			for range rapid.IntRange(0, 4).Draw(r, "rounds") {
				for range rapid.IntRange(0, 4).Draw(r, "pictures") {
					offer(t, k, row, picture, noon)
					row++
				}
				_ = k.Sync() // without power it fails
				for _, at := range waiting(t, k) {
					sent[at] = true
				}
			}
			_ = k.Close()
			if len(sent) > budgeted {
				r.Fatalf("%d pictures may have been sent: %d are the budget", len(sent), budgeted)
			}
			d = d.Crash(func(_ string, n int) int { return rapid.IntRange(0, n).Draw(r, "torn") })
		}
	})
}
