package zoo

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/swellfleet/swell/models/contract"
)

// ErrData says that a dataset cannot be learned from; the error around it says why.
var ErrData = errors.New("data cannot be learned from")

// Dataset is normal data of devices that one model shall serve.
type Dataset struct {
	// Channels in the order of every Series.Values.
	Channels []contract.Channel
	// SampleRateHz is the nominal rate. Zero means unknown; gaps are then judged by each series' median
	// step.
	SampleRateHz float64
	Series       []Series
}

// Series is a recording of one device. It may have gaps.
type Series struct {
	Device string
	// Times are nanoseconds since 1970 UTC, ascending, one per row. Nil means rows follow each other
	// without a gap.
	Times []int64
	// Values holds one slice per channel, each with one value per row, in engineering units.
	Values [][]float32
}

// Rows is the number of rows of s.
func (s Series) Rows() int {
	if len(s.Values) == 0 {
		return 0
	}
	return len(s.Values[0])
}

// Span is a run of rows, From inclusive, To exclusive.
type Span struct{ From, To int }

// Spans cuts s where two rows are more than maxGap nominal steps apart or time does not advance. A negative
// maxGap, or a series without times, gives one span.
func (s Series) Spans(rateHz, maxGap float64) []Span {
	rows := s.Rows()
	if rows == 0 {
		return nil
	}
	if s.Times == nil || maxGap < 0 || rows < 2 {
		return []Span{{0, rows}}
	}
	step := float64(time.Second) / rateHz
	if rateHz == 0 {
		steps := make([]int64, rows-1)
		for i := range steps {
			steps[i] = s.Times[i+1] - s.Times[i]
		}
		slices.Sort(steps)
		step = float64(steps[len(steps)/2])
	}
	var out []Span
	from := 0
	for i := 1; i < rows; i++ {
		if d := s.Times[i] - s.Times[i-1]; d < 0 || float64(d) > maxGap*step {
			out = append(out, Span{from, i})
			from = i
		}
	}
	return append(out, Span{from, rows})
}

// Validate says why d has no meaning, wrapped in ErrData; nil when it has.
func (d Dataset) Validate() error {
	if len(d.Channels) == 0 {
		return fmt.Errorf("%w: it has no channels", ErrData)
	}
	if len(d.Series) == 0 {
		return fmt.Errorf("%w: it has no series", ErrData)
	}
	for _, s := range d.Series {
		if len(s.Values) != len(d.Channels) {
			return fmt.Errorf("%w: device %s has %d channels, the dataset %d", ErrData, s.Device, len(s.Values), len(d.Channels))
		}
		if s.Times != nil && len(s.Times) != s.Rows() {
			return fmt.Errorf("%w: device %s has %d times for %d rows", ErrData, s.Device, len(s.Times), s.Rows())
		}
		for c, values := range s.Values {
			if len(values) != s.Rows() {
				return fmt.Errorf("%w: device %s: channel %q has %d rows, the first has %d", ErrData, s.Device, d.Channels[c].Name, len(values), s.Rows())
			}
			for row, v := range values {
				if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
					return fmt.Errorf("%w: device %s: channel %q is %v in row %d", ErrData, s.Device, d.Channels[c].Name, v, row)
				}
			}
		}
	}
	return nil
}

// AppendWindow appends the window of length rows that ends before row end to dst, channel after channel.
func (s Series) AppendWindow(dst []float32, end, length int) []float32 {
	for _, values := range s.Values {
		dst = append(dst, values[end-length:end]...)
	}
	return dst
}
