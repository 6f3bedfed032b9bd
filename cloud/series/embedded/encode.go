package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/telemetry"
)

// The values of the b and r keys; docs/formats/series.md shows the bytes.
const (
	blockVersion  = 1
	rollupVersion = 1
)

// appendBlock writes a batch. ids are the stream's numbers of its columns.
func appendBlock(dst []byte, b *series.Batch, ids []uint64) []byte {
	rows := b.Rows()
	dst = append(dst, blockVersion)
	dst = binary.AppendUvarint(dst, uint64(rows))
	dst = binary.AppendUvarint(dst, b.First)
	dst = binary.AppendUvarint(dst, uint64(b.End()-b.T0))
	if b.Offsets == nil {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(b.RateHz))
	} else {
		dst = binary.LittleEndian.AppendUint64(dst, 0)
		prev := int64(0)
		for _, o := range b.Offsets {
			dst = binary.AppendUvarint(dst, uint64(o-prev))
			prev = o
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Columns)))
	var values []byte
	for i := range b.Columns {
		c := &b.Columns[i]
		var codec byte
		var scale float64
		values, codec, scale = appendColumn(values[:0], c)
		dst = binary.AppendUvarint(dst, ids[i])
		dst = append(dst, byte(c.Kind), codec)
		if c.Kind == series.Float32 {
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(scale))
		}
		dst = binary.AppendUvarint(dst, uint64(len(values)))
		dst = append(dst, values...)
	}
	return dst
}

// Codecs of strings; those of float32 are telemetry's, the others have one.
const (
	stringPlain = 0 // each: uvarint length, bytes
	stringDict  = 1 // uvarint count, entries as in plain, then a uvarint index a row
)

func appendColumn(dst []byte, c *series.Column) ([]byte, byte, float64) {
	switch c.Kind {
	case series.Float32:
		s := telemetry.Signal{Values: c.Float32}
		if c.Scale > 0 {
			// The device rounded to steps, so steps lose nothing more.
			s.Codec, s.Scale = telemetry.Rice, c.Scale
			if out, used, scale := s.AppendValues(dst); scale > 0 && lossless(c.Float32, scale) {
				return out, byte(used), scale
			}
			s.Codec, s.Scale = telemetry.Auto, 0
		}
		out, used, scale := s.AppendValues(dst)
		return out, byte(used), scale
	case series.Float64:
		// The bytes that changed since the value before, XORed: smooth or
		// repeated values share their high or all bytes.
		prev := uint64(0)
		for _, v := range c.Float64 {
			x := bits.ReverseBytes64(math.Float64bits(v) ^ prev)
			prev = math.Float64bits(v)
			dst = appendShort(dst, x)
		}
	case series.Int64:
		prev := int64(0)
		for _, v := range c.Int64 {
			dst = binary.AppendVarint(dst, v-prev)
			prev = v
		}
	case series.Bool:
		n := len(dst)
		dst = append(dst, make([]byte, (len(c.Bool)+7)/8)...)
		for i, v := range c.Bool {
			if v {
				dst[n+i/8] |= 1 << (i % 8)
			}
		}
	case series.String:
		index := map[string]uint64{}
		var words []string
		for _, v := range c.String {
			if _, ok := index[v]; !ok {
				index[v] = uint64(len(words))
				words = append(words, v)
			}
		}
		if 2*len(words) > len(c.String) {
			return appendStrings(dst, c.String), stringPlain, 0
		}
		dst = appendStrings(binary.AppendUvarint(dst, uint64(len(words))), words)
		for _, v := range c.String {
			dst = binary.AppendUvarint(dst, index[v])
		}
		return dst, stringDict, 0
	}
	return dst, 0, 0
}

// lossless reports whether every value is what its steps read back as.
func lossless(values []float32, scale float64) bool {
	for _, v := range values {
		if v == v && (float32(math.RoundToEven(float64(v)/scale)*scale) != v || v == 0 && math.Signbit(float64(v))) {
			return false
		}
	}
	return true
}

// appendShort writes a number without its high zero bytes after their count.
func appendShort(dst []byte, x uint64) []byte {
	n := (bits.Len64(x) + 7) / 8
	dst = append(dst, byte(n))
	for range n {
		dst = append(dst, byte(x))
		x >>= 8
	}
	return dst
}

func appendStrings(dst []byte, words []string) []byte {
	for _, w := range words {
		dst = binary.AppendUvarint(dst, uint64(len(w)))
		dst = append(dst, w...)
	}
	return dst
}

var errBlock = errors.New("stored block is damaged")

// reader walks stored bytes; after a fault bad is set and it gives zeros.
type reader struct {
	p   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.p)
	if n <= 0 {
		r.bad, r.p = true, nil
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) varint() int64 {
	v := r.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.p)) {
		r.bad, r.p = true, nil
		return nil
	}
	out := r.p[:n]
	r.p = r.p[n:]
	return out
}

func (r *reader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) float() float64 {
	if p := r.take(8); p != nil {
		return math.Float64frombits(binary.LittleEndian.Uint64(p))
	}
	return 0
}

// block is a stored batch, opened but with its columns still encoded.
type block struct {
	t0, end int64 // times of the first and last row
	boot    uint64
	seq     uint64
	first   uint64
	rows    int
	rate    float64
	offsets []int64
	columns []encodedColumn
}

type encodedColumn struct {
	id    uint64
	kind  series.Kind
	codec byte
	scale float64
	data  []byte
}

// openBlock reads the head of a block; data stays in p.
func openBlock(p []byte, t0 int64, boot, seq uint64) (block, error) {
	r := reader{p: p}
	if v := r.byte(); v != blockVersion {
		return block{}, fmt.Errorf("%w: version %d", errBlock, v)
	}
	b := block{t0: t0, boot: boot, seq: seq}
	rows := r.uvarint()
	if rows == 0 || rows > telemetry.MaxRows {
		return block{}, fmt.Errorf("%w: %d rows", errBlock, rows)
	}
	b.rows, b.first = int(rows), r.uvarint()
	b.end = t0 + int64(r.uvarint())
	if b.rate = r.float(); b.rate == 0 {
		b.offsets = make([]int64, rows)
		sum := int64(0)
		for i := range b.offsets {
			sum += int64(r.uvarint())
			b.offsets[i] = sum
		}
	}
	n := r.uvarint()
	if n > uint64(len(r.p)) {
		return block{}, errBlock
	}
	b.columns = make([]encodedColumn, n)
	for i := range b.columns {
		c := &b.columns[i]
		c.id, c.kind, c.codec = r.uvarint(), series.Kind(r.byte()), r.byte()
		if c.kind == series.Float32 {
			c.scale = r.float()
		}
		c.data = r.take(r.uvarint())
	}
	if r.bad || len(r.p) != 0 {
		return block{}, errBlock
	}
	return b, nil
}

// batch returns the block's times and identity as a batch without columns.
func (b *block) batch() series.Batch {
	return series.Batch{Boot: b.boot, Seq: b.seq, First: b.first, T0: b.t0, RateHz: b.rate, Offsets: b.offsets}
}

// decode reads the values of a column into c, whose Kind it sets.
func (e *encodedColumn) decode(c *series.Column, rows int) error {
	c.Kind = e.kind
	r := reader{p: e.data}
	switch e.kind {
	case series.Float32:
		c.Float32, c.Scale = make([]float32, rows), e.scale
		if err := telemetry.DecodeValues(c.Float32, telemetry.Codec(e.codec), e.scale, e.data); err != nil {
			return fmt.Errorf("%w: %w", errBlock, err)
		}
		return nil
	case series.Float64:
		c.Float64 = make([]float64, rows)
		prev := uint64(0)
		for i := range c.Float64 {
			var x uint64
			n := r.byte()
			if n > 8 {
				return errBlock
			}
			for j, v := range r.take(uint64(n)) {
				x |= uint64(v) << (8 * j)
			}
			prev ^= bits.ReverseBytes64(x)
			c.Float64[i] = math.Float64frombits(prev)
		}
	case series.Int64:
		c.Int64 = make([]int64, rows)
		prev := int64(0)
		for i := range c.Int64 {
			prev += r.varint()
			c.Int64[i] = prev
		}
	case series.Bool:
		c.Bool = make([]bool, rows)
		p := r.take(uint64(rows+7) / 8)
		for i := range c.Bool {
			c.Bool[i] = p != nil && p[i/8]>>(i%8)&1 != 0
		}
	case series.String:
		c.String = make([]string, rows)
		if e.codec == stringPlain {
			for i := range c.String {
				c.String[i] = string(r.take(r.uvarint()))
			}
			break
		}
		n := r.uvarint()
		if n > uint64(rows) {
			return errBlock
		}
		words := make([]string, n)
		for i := range words {
			words[i] = string(r.take(r.uvarint()))
		}
		for i := range c.String {
			k := r.uvarint()
			if k >= n {
				return errBlock
			}
			c.String[i] = words[k]
		}
	default:
		return fmt.Errorf("%w: kind %d", errBlock, e.kind)
	}
	if r.bad || len(r.p) != 0 {
		return errBlock
	}
	return nil
}

// appendRollup writes the windows of series.Rollup.
func appendRollup(dst []byte, b *series.Batch, ids []uint64, times []int64, parts []series.Partial) []byte {
	dst = append(dst, rollupVersion)
	dst = binary.AppendUvarint(dst, uint64(b.End()-b.T0))
	dst = binary.AppendUvarint(dst, uint64(len(times)))
	prev := b.T0
	for _, t := range times {
		dst = binary.AppendUvarint(dst, uint64(t-prev))
		prev = t
	}
	dst = binary.AppendUvarint(dst, uint64(len(ids)))
	for i, id := range ids {
		dst = binary.AppendUvarint(dst, id)
		dst = append(dst, byte(b.Columns[i].Kind))
		for w := range times {
			p := parts[w*len(ids)+i]
			dst = binary.AppendUvarint(dst, uint64(p.Count))
			if p.Count == 0 || b.Columns[i].Kind == series.String {
				continue
			}
			if b.Columns[i].Kind == series.Float32 {
				dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(p.Min)))
				dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(p.Max)))
			} else {
				dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(p.Min))
				dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(p.Max))
			}
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(p.Sum))
		}
	}
	return dst
}

// eachPart reads a rollup and hands on every window of every column.
func eachPart(p []byte, t0 int64, do func(id uint64, kind series.Kind, t int64, part series.Partial)) error {
	r := reader{p: p}
	if v := r.byte(); v != rollupVersion {
		return fmt.Errorf("%w: rollup version %d", errBlock, v)
	}
	r.uvarint() // the span, which rollupEnd reads
	n := r.uvarint()
	if n > uint64(len(r.p)) {
		return errBlock
	}
	times := make([]int64, n)
	for i := range times {
		t0 += int64(r.uvarint())
		times[i] = t0
	}
	for range r.uvarint() {
		id, kind := r.uvarint(), series.Kind(r.byte())
		for _, t := range times {
			part := series.Partial{Count: int64(r.uvarint()), Min: math.NaN(), Max: math.NaN(), Sum: math.NaN()}
			switch {
			case part.Count == 0 || kind == series.String:
			case kind == series.Float32:
				if v := r.take(8); v != nil {
					part.Min = float64(math.Float32frombits(binary.LittleEndian.Uint32(v)))
					part.Max = float64(math.Float32frombits(binary.LittleEndian.Uint32(v[4:])))
				}
				part.Sum = r.float()
			default:
				part.Min, part.Max, part.Sum = r.float(), r.float(), r.float()
			}
			if r.bad {
				return errBlock
			}
			do(id, kind, t, part)
		}
		if r.bad {
			return errBlock
		}
	}
	return nil
}

// rollupEnd returns the time of the last row of a rollup.
func rollupEnd(p []byte, t0 int64) int64 {
	r := reader{p: p}
	r.byte()
	return t0 + int64(r.uvarint())
}
