package telemetry

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of one block. Append refuses to write and Decode refuses to read
// anything beyond them, so no message can make the other side allocate more.
const (
	MaxRows    = 65536
	MaxSignals = 256
	MaxBytes   = 4 << 20 // of the encoded message
	MaxValues  = 1 << 20 // rows × signals: 4 MiB once decoded
	MaxNameLen = 128     // bytes of a signal name or unit
)

// Stream says what the rows of a block are.
type Stream string

// The streams. A device counts rows (Block.First) apart in each.
const (
	Raw      Stream = "raw"      // samples as the source gave them
	Verdicts Stream = "verdicts" // one row a scored window; see the Signal names below
)

// Signals of the verdicts stream. Those of the challenger exist only while one
// runs in shadow.
const (
	Score           = "score"            // the champion's anomaly score, higher is stranger
	Flag            = "flag"             // 1 when Score passed Threshold for long enough to act, else 0
	Release         = "release"          // the champion's release counter
	Threshold       = "threshold"        // the champion's limit for Score
	ChallengerScore = "challenger_score" // the same for the model in shadow
	ChallengerFlag  = "challenger_flag"

	// Class and Probability are there when the model tells classes of images
	// apart: the index of the likeliest in the model's own list, and how likely.
	Class       = "class"
	Probability = "probability"

	// RowOffset is there when a model does not score every row: how many raw
	// rows the window of each verdict ends after Block.First. Without it
	// verdict i is of the window that ends with row First + i.
	RowOffset = "row"
)

// Codec names how the values of one signal are written.
type Codec uint8

// The codecs. Auto leaves the choice to Append. Raw, Delta and Rice give back
// the same bits unless Signal.Scale asks for steps.
const (
	Auto     Codec = 0 // smallest of RawFloat, Delta and Rice by trying
	RawFloat Codec = 1 // little-endian float32, a Sparkplug FloatArray
	Steps16  Codec = 2 // int16 steps of Scale, a Sparkplug Int16Array; lossy
	Delta    Codec = 3 // differences, bit-packed in groups of 128
	Rice     Codec = 4 // fixed polynomial prediction, Rice-coded residuals
)

// String returns the codec's name as docs/formats/block.md writes it.
func (c Codec) String() string {
	switch c {
	case Auto:
		return "auto"
	case RawFloat:
		return "raw-f32"
	case Steps16:
		return "steps16"
	case Delta:
		return "delta"
	case Rice:
		return "rice"
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// Block is one message on topic kind blocks: rows of a stream, column by
// column. (node, Boot, Seq) identifies it; sending it again changes nothing.
type Block struct {
	Boot   uint64 // random per installation of the spool
	Seq    uint64 // rises by one per block of one (node, Boot), over both streams
	Stream Stream
	First  uint64 // index of the first row since the stream began on this device; never reset by restarts, so a hole in it is lost rows

	T0      int64   // nanoseconds since 1970 UTC of the first row
	RateHz  float64 // rows per second; 0 when Offsets is set
	Offsets []int64 // nanoseconds from T0, one per row, rising; nil for regular rows at RateHz

	Signals []Signal // never empty; all with the same number of values
}

// Signal is one column of a block.
type Signal struct {
	Name string // 1 to MaxNameLen bytes, unique in the block
	Unit string // for people; may be empty

	// Codec wished for (Append) or found (Decode). Append writes RawFloat
	// instead when the wish cannot hold a value, such as an infinity in Steps16.
	Codec Codec
	// Scale is the step size in Unit for the lossy forms: values become the
	// nearest multiple. 0 with Steps16 means the largest value over 32767; 0 with
	// Delta and Rice means lossless. Not used by RawFloat and Auto.
	Scale float64

	Values []float32 // one per row; NaN is "no value"
}

// Rows returns the number of rows.
func (b *Block) Rows() int {
	if len(b.Signals) == 0 {
		return 0
	}
	return len(b.Signals[0].Values)
}

// Time returns when row i (0 ≤ i < Rows) was taken, in ns since 1970 UTC.
func (b *Block) Time(i int) int64 {
	if b.Offsets != nil {
		return b.T0 + b.Offsets[i]
	}
	return b.T0 + regularOffset(i, b.RateHz)
}

// regularOffset is exact for whole periods and within half a nanosecond
// otherwise, however many rows lie before i.
func regularOffset(i int, rateHz float64) int64 {
	if i == 0 {
		return 0
	}
	return int64(math.Round(float64(i) * float64(time.Second) / rateHz))
}

// maxSpan bounds how far the last row may lie from T0; it keeps row times and
// query ranges free of overflow.
const maxSpan = int64(24 * time.Hour)

// Validate says what is wrong with b; Append and Decode both insist on it.
func (b *Block) Validate() error {
	if b.Stream != Raw && b.Stream != Verdicts {
		return fmt.Errorf("block stream %q: want %q or %q", b.Stream, Raw, Verdicts)
	}
	if len(b.Signals) == 0 {
		return errors.New("block has no signals")
	}
	if len(b.Signals) > MaxSignals {
		return fmt.Errorf("block has %d signals, more than %d", len(b.Signals), MaxSignals)
	}
	rows := b.Rows()
	if rows == 0 {
		return errors.New("block has no rows")
	}
	if rows > MaxRows {
		return fmt.Errorf("block has %d rows, more than %d", rows, MaxRows)
	}
	if rows*len(b.Signals) > MaxValues {
		return fmt.Errorf("block has %d values, more than %d", rows*len(b.Signals), MaxValues)
	}
	for i := range b.Signals {
		s := &b.Signals[i]
		if err := validName(s.Name); err != nil {
			return fmt.Errorf("signal %d: %w", i, err)
		}
		for j := range i {
			if b.Signals[j].Name == s.Name {
				return fmt.Errorf("signal %q: named twice", s.Name)
			}
		}
		if len(s.Unit) > MaxNameLen || !utf8.ValidString(s.Unit) {
			return fmt.Errorf("signal %q: unit is not text of at most %d bytes", s.Name, MaxNameLen)
		}
		if len(s.Values) != rows {
			return fmt.Errorf("signal %q: %d values, but %q has %d", s.Name, len(s.Values), b.Signals[0].Name, rows)
		}
		if s.Codec > Rice {
			return fmt.Errorf("signal %q: unknown %s", s.Name, s.Codec)
		}
		if !(s.Scale >= 0) || math.IsInf(s.Scale, 0) {
			return fmt.Errorf("signal %q: scale %v is not a step size", s.Name, s.Scale)
		}
	}
	if b.First > math.MaxInt64-MaxRows {
		return fmt.Errorf("block first row %d is beyond what a device can count", b.First)
	}
	if b.T0 > math.MaxInt64-2*maxSpan || b.T0 < math.MinInt64+2*maxSpan {
		return fmt.Errorf("block time %d ns is out of range", b.T0)
	}
	return b.validTimes(rows)
}

func (b *Block) validTimes(rows int) error {
	if b.Offsets == nil {
		if !(b.RateHz > 0) || math.IsInf(b.RateHz, 0) || b.RateHz > 1e9 {
			return fmt.Errorf("block rate %v Hz: want more than 0 and at most 1e9, or offsets", b.RateHz)
		}
		if float64(rows)/b.RateHz*1e9 > float64(maxSpan) {
			return fmt.Errorf("block of %d rows at %v Hz spans more than a day", rows, b.RateHz)
		}
		return nil
	}
	if len(b.Offsets) != rows {
		return fmt.Errorf("block has %d offsets for %d rows", len(b.Offsets), rows)
	}
	for i, o := range b.Offsets {
		if o < 0 || o > maxSpan || i > 0 && o < b.Offsets[i-1] {
			return fmt.Errorf("block offset %d (%d ns) does not rise within a day of the first row", i, o)
		}
	}
	return nil
}

func validName(s string) error {
	if s == "" || len(s) > MaxNameLen || !utf8.ValidString(s) {
		return fmt.Errorf("name %q is not text of 1 to %d bytes", s, MaxNameLen)
	}
	if strings.HasPrefix(s, headerPrefix) {
		return fmt.Errorf("name %q: %q is kept for the block's own fields", s, headerPrefix)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return fmt.Errorf("name %q holds a control character", s)
		}
	}
	return nil
}
