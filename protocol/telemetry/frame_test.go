package telemetry

import (
	"bytes"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func goldenFrame() Frame {
	return Frame{
		Boot: 0x0123456789abcdef, Row: 4711, At: 1_763_841_600_123_456_789, Device: "line-camera", Width: 200, Height: 160, Format: JPEG, Why: WhyUncertain,
		Release: "surface-7", Score: 1.25, Class: "scratches", Probability: 0.4375, Encoded: []byte("\xff\xd8\xff\xe0 not a whole picture"),
	}
}

func TestAGoldenFrameKeepsItsBytes(t *testing.T) {
	want := goldenFrame()
	encoded, err := want.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "frame.hex")
	if *update {
		if err := os.WriteFile(file, []byte(wrap(hex.EncodeToString(encoded))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encoded, stored) {
		t.Errorf("encoding changed: cameras in the field would not be understood\ngot  %x\nwant %x", encoded, stored)
	}
	got, err := DecodeFrame(stored)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAnyFrameIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-zé._ -]{1,30}`)
		maybe := rapid.OneOf(rapid.Just(""), name)
		want := Frame{
			Boot: rapid.Uint64().Draw(t, "boot"), Row: rapid.Uint64Max(math.MaxInt64).Draw(t, "row"), At: rapid.Int64Range(-1<<60, 1<<62).Draw(t, "at"),
			Device: name.Draw(t, "device"), Width: rapid.IntRange(1, maxSide).Draw(t, "width"), Height: rapid.IntRange(1, maxSide).Draw(t, "height"),
			Format:  rapid.SampledFrom([]string{JPEG, PNG}).Draw(t, "format"),
			Why:     rapid.SampledFrom([]string{WhyAll, WhySample, WhyUncertain, WhyFlagged}).Draw(t, "why"),
			Release: maybe.Draw(t, "release"), Score: rapid.Float64().Draw(t, "score"), Class: maybe.Draw(t, "class"),
			Probability: rapid.Float64Range(0, 1).Draw(t, "probability"), Encoded: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "picture"),
		}
		encoded, err := want.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeFrame(encoded[len("before"):])
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestFramesThatCannotBeAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Frame){
		"without a picture":         func(f *Frame) { f.Encoded = nil },
		"with too large a picture":  func(f *Frame) { f.Encoded = make([]byte, MaxFrameBytes+1) },
		"without width":             func(f *Frame) { f.Width = 0 },
		"of absurd height":          func(f *Frame) { f.Height = maxSide + 1 },
		"in another format":         func(f *Frame) { f.Format = "bmp" },
		"sent for no reason":        func(f *Frame) { f.Why = "" },
		"of no device class":        func(f *Frame) { f.Device = "" },
		"of a class of two lines":   func(f *Frame) { f.Class = "a\nb" },
		"of a class of a long name": func(f *Frame) { f.Class = strings.Repeat("a", maxFrameText+1) },
		"with a score that is none": func(f *Frame) { f.Score = math.Inf(1) },
		"of a row beyond count":     func(f *Frame) { f.Row = math.MaxUint64 },
		"of a time beyond count":    func(f *Frame) { f.At = math.MaxInt64 },
		"with a probability of two": func(f *Frame) { f.Probability = 2 },
		"with no probability":       func(f *Frame) { f.Probability = math.NaN() },
	} {
		t.Run(name, func(t *testing.T) {
			f := goldenFrame()
			spoil(&f)
			if out, err := f.Append([]byte("x")); err == nil || string(out) != "x" {
				t.Errorf("it was written: %v", err)
			}
		})
	}
}

func TestAPictureThatChangedOnItsWayIsRefused(t *testing.T) {
	b, err := goldenFrame().Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if _, err := DecodeFrame(b); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("got %v", err)
	}
	if _, err := DecodeFrame(make([]byte, maxFrameMessage+1)); err == nil {
		t.Error("a message over the bound was read")
	}
}

func FuzzDecodeFrame(f *testing.F) {
	b, err := goldenFrame().Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte{0x12, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, p []byte) {
		got, err := DecodeFrame(p)
		if err != nil {
			return
		}
		again, err := got.Append(nil)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		twice, err := DecodeFrame(again)
		if err != nil || !reflect.DeepEqual(twice, got) {
			t.Fatalf("%+v became %+v: %v", got, twice, err)
		}
	})
}
