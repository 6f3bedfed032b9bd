package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// headerPrefix starts the names of the metrics that hold the block's own
// fields; no signal may have such a name.
const headerPrefix = "swell/"

// The names of the header metrics and of the properties of signals.
const (
	headBoot    = headerPrefix + "boot"
	headStream  = headerPrefix + "stream"
	headFirst   = headerPrefix + "first"
	headT0      = headerPrefix + "t0_ns"
	headRate    = headerPrefix + "rate_hz"
	headOffsets = headerPrefix + "offsets"
	headRows    = headerPrefix + "rows"

	propUnit  = "unit"
	propCodec = "codec"
	propScale = "scale"
)

// Append appends the encoded block to dst. It refuses a block that Validate
// refuses or that grows beyond MaxBytes; dst is then returned as it was.
func (b Block) Append(dst []byte) ([]byte, error) {
	if err := b.Validate(); err != nil {
		return dst, err
	}
	start := len(dst)
	out := dst
	if b.T0 > 0 {
		out = appendVarint(out, payloadTimestamp, uint64(b.T0/1e6))
	}
	out = appendNumber(out, headBoot, UInt64, b.Boot)
	out = nested(out, payloadMetric, func(p []byte) []byte {
		p = appendString(p, metricName, headStream)
		p = appendVarint(p, metricType, uint64(String))
		return appendString(p, metricString, string(b.Stream))
	})
	out = appendNumber(out, headFirst, UInt64, b.First)
	out = appendNumber(out, headT0, Int64, uint64(b.T0))
	out = appendNumber(out, headRows, UInt32, uint64(b.Rows()))
	if b.Offsets == nil {
		out = nested(out, payloadMetric, func(p []byte) []byte {
			p = appendString(p, metricName, headRate)
			p = appendVarint(p, metricType, uint64(Double))
			p = protowire.AppendTag(p, metricDouble, protowire.Fixed64Type)
			return protowire.AppendFixed64(p, math.Float64bits(b.RateHz))
		})
	} else {
		out = nested(out, payloadMetric, func(p []byte) []byte {
			p = appendString(p, metricName, headOffsets)
			p = appendVarint(p, metricType, uint64(Bytes))
			p = protowire.AppendTag(p, metricBytes, protowire.BytesType)
			size, prev := 0, int64(0)
			for _, o := range b.Offsets {
				size += protowire.SizeVarint(uint64(o - prev))
				prev = o
			}
			p, prev = binary.AppendUvarint(p, uint64(size)), 0
			for _, o := range b.Offsets {
				p = binary.AppendUvarint(p, uint64(o-prev))
				prev = o
			}
			return p
		})
	}
	var values []byte
	for i := range b.Signals {
		s := &b.Signals[i]
		var used Codec
		var scale float64
		values, used, scale = s.AppendValues(values[:0])
		out = nested(out, payloadMetric, func(p []byte) []byte { return appendSignal(p, s, used, scale, values) })
	}
	out = appendVarint(out, payloadSeq, b.Seq)
	if len(out)-start > MaxBytes {
		return dst, fmt.Errorf("block of %d bytes is larger than %d: use fewer rows", len(out)-start, MaxBytes)
	}
	return out, nil
}

// appendNumber appends one header metric with a whole number.
func appendNumber(dst []byte, name string, kind DataType, v uint64) []byte {
	return nested(dst, payloadMetric, func(p []byte) []byte {
		p = appendString(p, metricName, name)
		p = appendVarint(p, metricType, uint64(kind))
		if kind == UInt32 {
			return appendVarint(p, metricInt, v)
		}
		return appendVarint(p, metricLong, v)
	})
}

// appendSignal writes the fields of a signal's metric. RawFloat and Steps16 are
// Sparkplug arrays that any reader of version 3.0 understands; the others are
// bytes whose codec is named by a property.
func appendSignal(p []byte, s *Signal, used Codec, scale float64, values []byte) []byte {
	kind := Bytes
	switch used {
	case RawFloat:
		kind = FloatArray
	case Steps16:
		kind = Int16Array
	}
	p = appendString(p, metricName, s.Name)
	p = appendVarint(p, metricType, uint64(kind))
	if s.Unit != "" || kind == Bytes || scale != 0 {
		p = nested(p, metricProperties, func(p []byte) []byte {
			if s.Unit != "" {
				p = appendString(p, propertiesKey, propUnit)
				p = nested(p, propertiesValue, func(p []byte) []byte {
					p = appendVarint(p, propertyType, uint64(String))
					return appendString(p, propertyString, s.Unit)
				})
			}
			if kind == Bytes {
				p = appendString(p, propertiesKey, propCodec)
				p = nested(p, propertiesValue, func(p []byte) []byte {
					p = appendVarint(p, propertyType, uint64(UInt8))
					return appendVarint(p, propertyInt, uint64(used))
				})
			}
			if scale != 0 {
				p = appendString(p, propertiesKey, propScale)
				p = nested(p, propertiesValue, func(p []byte) []byte {
					p = appendVarint(p, propertyType, uint64(Double))
					p = protowire.AppendTag(p, propertyDouble, protowire.Fixed64Type)
					return protowire.AppendFixed64(p, math.Float64bits(scale))
				})
			}
			return p
		})
	}
	return appendBytes(p, metricBytes, values)
}

// Decode reads a block. It keeps nothing of p. The error says what is wrong
// with the bytes; such a message can never be read by trying again.
func Decode(p []byte) (Block, error) {
	var d Decoder
	if _, err := d.Decode(p); err != nil {
		return Block{}, err
	}
	return d.block, nil
}

// Decoder reads blocks one after another into the same memory. The zero value
// works; it is for one goroutine at a time.
type Decoder struct {
	block  Block
	values []float32 // what the signals' Values point into
}

// Decode reads a block; see the function of the same name. The block is valid
// until the next call.
func (d *Decoder) Decode(p []byte) (*Block, error) {
	if err := d.decode(p); err != nil {
		return nil, fmt.Errorf("decode block: %w", err)
	}
	return &d.block, nil
}

func (d *Decoder) decode(p []byte) error {
	if len(p) > MaxBytes {
		return fmt.Errorf("%d bytes are more than %d", len(p), MaxBytes)
	}
	b := &d.block
	offsets := b.Offsets[:0]
	*b = Block{Signals: b.Signals[:0], Stream: b.Stream}
	rows, signals, seen, err := b.readHeader(p, &offsets)
	if err != nil {
		return err
	}
	if missing := allHeads &^ seen; missing != 0 && missing != sawRate && missing != sawOffsets {
		return errors.New("a header metric is missing")
	}
	if seen&sawOffsets != 0 {
		if b.Offsets = offsets; len(offsets) != rows {
			return fmt.Errorf("%d offsets for %d rows", len(offsets), rows)
		}
	}
	if rows < 1 || rows > MaxRows {
		return fmt.Errorf("%d rows: want 1 to %d", rows, MaxRows)
	}
	if signals < 1 || signals > MaxSignals || signals*rows > MaxValues {
		return fmt.Errorf("%d signals of %d rows: want 1 to %d signals and at most %d values", signals, rows, MaxSignals, MaxValues)
	}
	if cap(d.values) < signals*rows {
		d.values = make([]float32, signals*rows)
	}
	if cap(b.Signals) < signals {
		b.Signals = append(make([]Signal, 0, signals), b.Signals[:cap(b.Signals)]...)[:0]
	}
	if err := d.readSignals(p, rows); err != nil {
		return err
	}
	return b.Validate()
}

// Which header metrics were seen.
const (
	sawBoot = 1 << iota
	sawStream
	sawFirst
	sawT0
	sawRows
	sawRate
	sawOffsets
	allHeads = 1<<iota - 1
)

// readHeader reads everything but the signals, which it counts.
func (b *Block) readHeader(p []byte, offsets *[]int64) (rows, signals, seen int, err error) {
	var f field
	var m rawMetric
	hasSeq := false
	for len(p) > 0 {
		n, err := f.next(p)
		if err != nil {
			return 0, 0, 0, err
		}
		p = p[n:]
		switch f.number {
		case payloadSeq:
			if err := f.want(protowire.VarintType); err != nil {
				return 0, 0, 0, err
			}
			b.Seq, hasSeq = f.num, true
			continue
		case payloadMetric:
			if err := f.want(protowire.BytesType); err != nil {
				return 0, 0, 0, err
			}
		default:
			continue
		}
		if !isHeader(f.bytes) {
			signals++
			continue
		}
		if err := m.parse(f.bytes); err != nil {
			return 0, 0, 0, err
		}
		bit := 0
		switch string(m.name) {
		case headBoot:
			bit, b.Boot = sawBoot, m.number
		case headFirst:
			bit, b.First = sawFirst, m.number
		case headT0:
			bit, b.T0 = sawT0, int64(m.number)
		case headRows:
			bit, rows = sawRows, int(min(m.number, MaxRows+1))
		case headRate:
			bit = sawRate
			var ok bool
			if b.RateHz, ok = m.asDouble(); !ok {
				return 0, 0, 0, fmt.Errorf("%s is not a number", headRate)
			}
		case headStream:
			bit = sawStream
			if string(b.Stream) != string(m.data) {
				b.Stream = Stream(m.data)
			}
		case headOffsets:
			bit = sawOffsets
			if *offsets, err = appendOffsets((*offsets)[:0], m.data); err != nil {
				return 0, 0, 0, err
			}
		default:
			continue // a later version's; what it says is not needed to read the rest
		}
		if seen&bit != 0 {
			return 0, 0, 0, fmt.Errorf("%s is there twice", m.name)
		}
		seen |= bit
	}
	if !hasSeq {
		return 0, 0, 0, errors.New("the sequence number is missing")
	}
	return rows, signals, seen, nil
}

// isHeader reports whether an encoded metric begins with a header's name, as
// Append writes it.
func isHeader(metric []byte) bool {
	const tag = metricName<<3 | byte(protowire.BytesType)
	return len(metric) > 2+len(headerPrefix) && metric[0] == tag && metric[1] < 0x80 && string(metric[2:2+len(headerPrefix)]) == headerPrefix
}

func appendOffsets(dst []int64, p []byte) ([]int64, error) {
	var sum uint64
	for len(p) > 0 {
		step, n := protowire.ConsumeVarint(p)
		if n < 0 {
			return dst, fmt.Errorf("%s: %w", headOffsets, protowire.ParseError(n))
		}
		p = p[n:]
		if len(dst) == MaxRows {
			return dst, fmt.Errorf("%s: more than %d", headOffsets, MaxRows)
		}
		if step > uint64(maxSpan) || sum+step > uint64(maxSpan) {
			return dst, fmt.Errorf("%s: more than a day", headOffsets)
		}
		sum += step
		dst = append(dst, int64(sum))
	}
	if dst == nil {
		dst = []int64{}
	}
	return dst, nil
}

func (d *Decoder) readSignals(p []byte, rows int) error {
	var f field
	var m rawMetric
	values := d.values[:cap(d.values)]
	for len(p) > 0 {
		n, err := f.next(p)
		if err != nil {
			return err
		}
		p = p[n:]
		if f.number != payloadMetric || isHeader(f.bytes) {
			continue
		}
		if err := m.parse(f.bytes); err != nil {
			return err
		}
		d.block.Signals = d.block.Signals[:len(d.block.Signals)+1]
		s := &d.block.Signals[len(d.block.Signals)-1]
		if err := s.read(&m, values[:rows:rows]); err != nil {
			return fmt.Errorf("signal %q: %w", m.name, err)
		}
		values = values[rows:]
	}
	return nil
}

// read fills s, whose old strings are kept where they are the same: devices
// name the same signals in every block.
func (s *Signal) read(m *rawMetric, values []float32) error {
	s.Values, s.Codec, s.Scale = values, Auto, 0
	if s.Name != string(m.name) {
		s.Name = string(m.name)
	}
	unit := []byte(nil)
	var key []byte
	var v value
	for walk := newProperties(m.properties); ; {
		more, err := walk.next(&key, &v)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch string(key) {
		case propUnit:
			unit = v.data
		case propCodec:
			s.Codec = Codec(min(v.number, 255))
		case propScale:
			var ok bool
			if s.Scale, ok = v.asDouble(); !ok {
				return errors.New("scale is not a number")
			}
		}
	}
	if s.Unit != string(unit) {
		s.Unit = string(unit)
	}
	switch m.kind {
	case FloatArray:
		s.Codec = RawFloat
	case Int16Array:
		s.Codec = Steps16
	case Bytes:
		if s.Codec != Delta && s.Codec != Rice {
			return fmt.Errorf("bytes in unknown %s", s.Codec)
		}
	default:
		return fmt.Errorf("data type %d is not one of a block", m.kind)
	}
	if !(s.Scale >= 0) || math.IsInf(s.Scale, 0) {
		return fmt.Errorf("scale %v is not a step size", s.Scale)
	}
	return DecodeValues(values, s.Codec, s.Scale, m.data)
}
