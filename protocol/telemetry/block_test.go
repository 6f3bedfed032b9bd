package telemetry

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write testdata/*.hex anew")

// golden blocks, each with a file of its bytes in testdata.
func golden() map[string]Block {
	pump := Block{
		Boot: 0x0123456789abcdef, Seq: 42, Stream: Raw, First: 41 * 8, T0: 1_763_841_600_123_456_789, RateHz: 1000,
		Signals: []Signal{
			{Name: "pressure", Unit: "bar", Codec: RawFloat, Values: []float32{0.054711, 0.054711, 0.382638, 0.710565, 0.054711, 0.382638, 0.054711, 0.054711}},
			{Name: "current", Unit: "A", Codec: Steps16, Scale: 0.001, Values: []float32{1.5, 1.501, 1.499, -1.5, 0, 32.767, -32.767, 0.001}},
			{Name: "temperature", Unit: "°C", Codec: Delta, Values: []float32{71.25, 71.25, 71.5, 71.5, 71.5, 71.75, 71.75, 72}},
			{Name: "flow", Codec: Rice, Scale: 0.25, Values: []float32{31, 31.25, 31.5, 31.75, 32, 32, 32.25, 31.75}},
		},
	}
	verdicts := Block{
		Boot: 7, Seq: 1, Stream: Verdicts, First: 99, T0: -1, Offsets: []int64{0, 1, 1, 1_000_000_000},
		Signals: []Signal{
			{Name: Score, Codec: RawFloat, Values: []float32{0, float32(math.Inf(1)), -0.5, 3}},
			{Name: Flag, Codec: Delta, Values: []float32{0, 0, 0, 1}},
			{Name: Release, Codec: Rice, Scale: 1, Values: []float32{7, 7, 7, 8}},
		},
	}
	return map[string]Block{"pump": pump, "verdicts": verdicts}
}

func TestGoldenBlocksKeepTheirBytes(t *testing.T) {
	for name, want := range golden() {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".hex")
			encoded, err := want.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
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
				t.Errorf("encoding changed: devices in the field would not understand each other\ngot  %x\nwant %x", encoded, stored)
			}
			got, err := Decode(stored)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, want)
		})
	}
}

func wrap(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		n := min(96, len(s))
		b.WriteString(s[:n] + "\n")
		s = s[n:]
	}
	return b.String()
}

// same compares bit by bit, so that NaN equals itself.
func same(t interface{ Fatalf(string, ...any) }, got, want Block) {
	bitsOf := func(b Block) string {
		var s strings.Builder
		fmt.Fprint(&s, b.Boot, b.Seq, b.Stream, b.First, b.T0, b.RateHz, b.Offsets, b.Offsets == nil)
		for _, sig := range b.Signals {
			fmt.Fprintf(&s, "\n%q %q %v %v", sig.Name, sig.Unit, sig.Codec, sig.Scale)
			for _, v := range sig.Values {
				if v != v {
					v = nan32
				}
				fmt.Fprintf(&s, " %08x", math.Float32bits(v))
			}
		}
		return s.String()
	}
	if g, w := bitsOf(got), bitsOf(want); g != w {
		t.Fatalf("blocks differ\ngot  %s\nwant %s", g, w)
	}
}

// anyFloat draws the floats that codecs stumble over as well as plain ones.
var anyFloat = rapid.OneOf(
	rapid.Float32(),
	rapid.Float32Range(-100, 100),
	rapid.SampledFrom([]float32{0, float32(math.Copysign(0, -1)), 1, -1, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, float32(math.Inf(1)), float32(math.Inf(-1)), nan32}),
	rapid.Map(rapid.Uint32(), math.Float32frombits),
)

func drawBlock(t *rapid.T, codecs ...Codec) Block {
	rows := rapid.IntRange(1, 400).Draw(t, "rows")
	b := Block{
		Boot: rapid.Uint64().Draw(t, "boot"), Seq: rapid.Uint64().Draw(t, "seq"),
		Stream: rapid.SampledFrom([]Stream{Raw, Verdicts}).Draw(t, "stream"),
		First:  uint64(rapid.Int64Range(0, math.MaxInt64-MaxRows).Draw(t, "first")),
		T0:     rapid.Int64Range(-1<<60, 1<<62).Draw(t, "t0"),
	}
	if rapid.Bool().Draw(t, "regular") {
		b.RateHz = rapid.Float64Range(0.01, 1e6).Draw(t, "rate")
	} else {
		b.Offsets = rapid.SliceOfN(rapid.Int64Range(0, maxSpan), rows, rows).Draw(t, "offsets")
		slices.Sort(b.Offsets)
	}
	for i := range rapid.IntRange(1, 6).Draw(t, "signals") {
		values := rapid.SliceOfN(anyFloat, rows, rows)
		if rapid.Bool().Draw(t, "constant") {
			v := anyFloat.Draw(t, "value")
			values = rapid.Just(slices.Repeat([]float32{v}, rows))
		}
		b.Signals = append(b.Signals, Signal{
			Name:   fmt.Sprintf("s%d%s", i, rapid.StringMatching(`[a-zé._/ ]{0,10}`).Draw(t, "name")),
			Unit:   rapid.StringMatching(`[A-Za-z°/%]{0,6}`).Draw(t, "unit"),
			Codec:  rapid.SampledFrom(codecs).Draw(t, "codec"),
			Values: values.Draw(t, "values"),
		})
	}
	return b
}

func TestLosslessCodecsGiveBackTheSameBlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBlock(t, RawFloat, Delta, Rice)
		p, err := b.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(p[len("before"):])
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, b)
	})
}

func TestAutoIsLosslessAndNeverMuchLargerThanRaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawBlock(t, Auto).Signals[0]
		p, used, scale := s.AppendValues(nil)
		if len(p) > 4*len(s.Values) || scale != 0 {
			t.Fatalf("%s wrote %d bytes for %d values with scale %v", used, len(p), len(s.Values), scale)
		}
		got := make([]float32, len(s.Values))
		if err := DecodeValues(got, used, 0, p); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if math.Float32bits(got[i]) != math.Float32bits(s.Values[i]) && got[i] == got[i] {
				t.Fatalf("%s: value %d: %x became %x", used, i, s.Values[i], got[i])
			}
		}
	})
}

func TestScaledCodecsRoundToTheNearestStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		codec := rapid.SampledFrom([]Codec{Steps16, Delta, Rice}).Draw(t, "codec")
		scale := rapid.SampledFrom([]float64{0.001, 0.01, 0.25, 1, 3}).Draw(t, "scale")
		values := rapid.SliceOfN(rapid.Float32Range(float32(-32000*scale), float32(32000*scale)), 1, 300).Draw(t, "values")
		values[rapid.IntRange(0, len(values)-1).Draw(t, "nan")] = nan32
		s := Signal{Codec: codec, Scale: scale, Values: values}
		p, used, usedScale := s.AppendValues(nil)
		if used != codec || usedScale != scale {
			t.Fatalf("asked for %s × %v, got %s × %v", codec, scale, used, usedScale)
		}
		got := make([]float32, len(values))
		if err := DecodeValues(got, used, usedScale, p); err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if (v != v) != (got[i] != got[i]) || math.Abs(float64(got[i])-float64(v)) > scale*0.5001+1e-6*math.Abs(float64(v)) {
				t.Fatalf("value %d: %v became %v", i, v, got[i])
			}
		}
		again := Signal{Codec: codec, Scale: scale, Values: got}
		if q, _, _ := again.AppendValues(nil); !bytes.Equal(p, q) {
			t.Fatal("rounding rounded values again changed them")
		}
	})
}

func TestCodecsFallBackToWhatHoldsTheValues(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, tc := range []struct {
		name  string
		s     Signal
		used  Codec
		scale float64
	}{
		{"infinity in steps", Signal{Codec: Steps16, Values: []float32{1, inf}}, RawFloat, 0},
		{"beyond 16 bits of steps", Signal{Codec: Steps16, Scale: 0.001, Values: []float32{33}}, RawFloat, 0},
		{"infinity in scaled rice", Signal{Codec: Rice, Scale: 1, Values: []float32{1, inf}}, Rice, 0},
		{"beyond 32 bits of steps", Signal{Codec: Delta, Scale: 1e-9, Values: []float32{33}}, Delta, 0},
		{"only zeros in steps", Signal{Codec: Steps16, Values: []float32{0, 0}}, Steps16, 0},
		{"only NaN in steps", Signal{Codec: Steps16, Values: []float32{nan32}}, Steps16, 0},
		{"smallest float in steps", Signal{Codec: Steps16, Values: []float32{math.SmallestNonzeroFloat32}}, Steps16, math.SmallestNonzeroFloat32 / 32767.0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, used, scale := tc.s.AppendValues(nil)
			if used != tc.used || scale != tc.scale {
				t.Fatalf("used %s × %v, want %s × %v", used, scale, tc.used, tc.scale)
			}
			got := make([]float32, len(tc.s.Values))
			if err := DecodeValues(got, used, scale, p); err != nil {
				t.Fatal(err)
			}
			for i, v := range tc.s.Values {
				if v != got[i] && v == v {
					t.Errorf("value %d: %v became %v", i, v, got[i])
				}
			}
		})
	}
}

// wave is a 50 Hz vibration in millivolt steps of an ADC, as a sensor gives it.
func wave(rows int) []float32 {
	out := make([]float32, rows)
	noise := uint32(1)
	for i := range out {
		noise = noise*1664525 + 1013904223
		v := 2*math.Sin(2*math.Pi*50*float64(i)/1000) + float64(noise>>24)/25600
		out[i] = float32(math.Round(v*1000) / 1000)
	}
	return out
}

func TestRiceWritesASensorInLessThanTwoBytesAValue(t *testing.T) {
	s := Signal{Codec: Rice, Scale: 0.001, Values: wave(1000)}
	p, _, _ := s.AppendValues(nil)
	if len(p) > 1600 {
		t.Errorf("%d bytes for 1000 values", len(p))
	}
}

func TestBadBlocksAreRefusedByName(t *testing.T) {
	good := func() Block {
		return Block{Stream: Raw, RateHz: 10, Signals: []Signal{{Name: "a", Values: []float32{1, 2}}}}
	}
	for _, tc := range []struct {
		name  string
		spoil func(*Block)
		want  string
	}{
		{"no stream", func(b *Block) { b.Stream = "" }, "stream"},
		{"no signals", func(b *Block) { b.Signals = nil }, "no signals"},
		{"no rows", func(b *Block) { b.Signals[0].Values = nil }, "no rows"},
		{"too many rows", func(b *Block) { b.Signals[0].Values = make([]float32, MaxRows+1) }, "rows"},
		{"too many signals", func(b *Block) { b.Signals = make([]Signal, MaxSignals+1) }, "signals"},
		{"uneven columns", func(b *Block) { b.Signals = append(b.Signals, Signal{Name: "b", Values: []float32{1}}) }, `"b": 1 values`},
		{"twin names", func(b *Block) { b.Signals = append(b.Signals, b.Signals[0]) }, "named twice"},
		{"kept name", func(b *Block) { b.Signals[0].Name = "swell/x" }, "kept"},
		{"control in a name", func(b *Block) { b.Signals[0].Name = "a\n" }, "control"},
		{"no rate", func(b *Block) { b.RateHz = 0 }, "rate"},
		{"NaN rate", func(b *Block) { b.RateHz = math.NaN() }, "rate"},
		{"centuries", func(b *Block) { b.RateHz = 1e-6 }, "day"},
		{"offsets go back", func(b *Block) { b.Offsets = []int64{5, 4} }, "rise"},
		{"offsets missing", func(b *Block) { b.Offsets = []int64{5} }, "offsets"},
		{"negative scale", func(b *Block) { b.Signals[0].Scale = -1 }, "scale"},
		{"unknown codec", func(b *Block) { b.Signals[0].Codec = 9 }, "codec(9)"},
		{"row count overflow", func(b *Block) { b.First = math.MaxUint64 }, "first row"},
		{"time overflow", func(b *Block) { b.T0 = math.MaxInt64 }, "time"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := good()
			tc.spoil(&b)
			out, err := b.Append([]byte("x"))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if string(out) != "x" {
				t.Errorf("left %q in the buffer", out)
			}
		})
	}
}

func TestEveryTruncationAndAddedByteIsRefusedOrStillValid(t *testing.T) {
	for name, b := range golden() {
		p, err := b.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range p {
			if _, err := Decode(p[:n]); err == nil {
				t.Errorf("%s cut to %d of %d bytes was read", name, n, len(p))
			}
		}
	}
}

func TestDecoderReusesItsMemory(t *testing.T) {
	b := fast()
	p, err := b.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	var d Decoder
	if _, err := d.Decode(p); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { d.Decode(p) }); n > 0 {
		t.Errorf("%v allocations for a block like the one before, want 0", n)
	}
	other := golden()["verdicts"]
	q, _ := other.Append(nil)
	got, err := d.Decode(q)
	if err != nil {
		t.Fatal(err)
	}
	same(t, *got, other)
	if got, err = d.Decode(p); err != nil {
		t.Fatal(err)
	}
	same(t, *got, b)
}

// fast is the usual block: 8 signals of 125 rows.
func fast() Block {
	b := Block{Boot: 1, Seq: 2, Stream: Raw, First: 3, T0: 1e18, RateHz: 1000}
	for i := range 8 {
		b.Signals = append(b.Signals, Signal{Name: fmt.Sprintf("signal%d", i), Unit: "V", Codec: RawFloat, Values: wave(125)})
	}
	return b
}

func BenchmarkDecode(b *testing.B) {
	for _, codec := range []Codec{RawFloat, Steps16, Delta, Rice} {
		for _, scale := range []float64{0, 0.001} {
			b.Run(fmt.Sprintf("%s/scale=%v", codec, scale), func(b *testing.B) {
				block := fast()
				for i := range block.Signals {
					block.Signals[i].Codec, block.Signals[i].Scale = codec, scale
				}
				p, err := block.Append(nil)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				var d Decoder
				for b.Loop() {
					if _, err := d.Decode(p); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(len(p))/1000, "B/value")
				b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mvalues/s")
			})
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, codec := range []Codec{Auto, RawFloat, Steps16, Delta, Rice} {
		b.Run(codec.String(), func(b *testing.B) {
			block := fast()
			for i := range block.Signals {
				block.Signals[i].Codec = codec
			}
			var p []byte
			b.ReportAllocs()
			for b.Loop() {
				p, _ = block.Append(p[:0])
			}
			b.ReportMetric(float64(len(p))/1000, "B/value")
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range golden() {
		p, err := b.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		b, err := Decode(p)
		if err != nil {
			if !reflect.DeepEqual(b, Block{}) {
				t.Fatal("a refused block was half read")
			}
			return
		}
		if err := b.Validate(); err != nil {
			t.Fatalf("read a block that is not valid: %v", err)
		}
		q, err := b.Append(nil)
		if err != nil {
			if len(p) < MaxBytes/2 && !strings.Contains(err.Error(), "larger") {
				t.Fatal(err)
			}
			return
		}
		again, err := Decode(q)
		if err != nil {
			t.Fatalf("cannot read back: %v", err)
		}
		for i := range b.Signals {
			if b.Signals[i].Scale != 0 || b.Signals[i].Codec == Steps16 {
				return // rounded values may be rounded otherwise, or kept raw
			}
		}
		same(t, again, b)
	})
}

func FuzzDecodeValues(f *testing.F) {
	for _, s := range golden()["pump"].Signals {
		p, used, scale := s.AppendValues(nil)
		f.Add(uint8(used), scale, uint16(len(s.Values)), p)
	}
	f.Fuzz(func(t *testing.T, codec uint8, scale float64, rows uint16, p []byte) {
		dst := make([]float32, int(rows)+1)
		_ = DecodeValues(dst, Codec(codec), scale, p)
	})
}
