package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// group is how many values share one bit width (Delta) or one Rice parameter.
const group = 128

// noValue is the step count that stands for NaN when values are written as
// steps of a scale in 32 bits; noValue16 is the same for Steps16.
const (
	noValue   = math.MinInt32
	noValue16 = math.MinInt16
)

// AppendValues writes values with the codec and scale of s (see Signal) and
// returns what it really used, which DecodeValues needs. Storage uses the same
// codecs as the wire.
func (s *Signal) AppendValues(dst []byte) (out []byte, used Codec, scale float64) {
	switch s.Codec {
	case Steps16:
		if out, scale, ok := appendSteps16(dst, s.Values, s.Scale); ok {
			return out, Steps16, scale
		}
	case Delta, Rice:
		var stack [1024]uint32
		u, scale := integers(stack[:0], s.Values, s.Scale)
		if s.Codec == Delta {
			return appendDelta(dst, u), Delta, scale
		}
		return appendRice(dst, u), Rice, scale
	case Auto:
		var stack [1024]uint32
		u, _ := integers(stack[:0], s.Values, 0)
		n := len(dst)
		rice := appendRice(dst, u)
		delta := appendDelta(rice, u)
		riceLen, deltaLen := len(rice)-n, len(delta)-len(rice)
		switch rawLen := 4 * len(s.Values); {
		case rawLen <= riceLen && rawLen <= deltaLen:
			return appendRaw(delta[:n], s.Values), RawFloat, 0
		case deltaLen <= riceLen:
			copy(delta[n:], delta[len(rice):])
			return delta[:n+deltaLen], Delta, 0
		default:
			return rice, Rice, 0
		}
	}
	return appendRaw(dst, s.Values), RawFloat, 0
}

// DecodeValues reads what AppendValues wrote into dst, whose length is the
// number of values. p must hold them exactly; it is not kept.
func DecodeValues(dst []float32, codec Codec, scale float64, p []byte) error {
	switch codec {
	case RawFloat:
		if len(p) != 4*len(dst) {
			return fmt.Errorf("%d bytes for %d float32 values", len(p), len(dst))
		}
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:]))
		}
		return nil
	case Steps16:
		if len(p) != 2*len(dst) {
			return fmt.Errorf("%d bytes for %d int16 values", len(p), len(dst))
		}
		for i := range dst {
			dst[i] = nan32
			if q := int16(binary.LittleEndian.Uint16(p[2*i:])); q != noValue16 {
				dst[i] = float32(float64(q) * scale)
			}
		}
		return nil
	case Delta, Rice:
		var err error
		if codec == Delta {
			err = decodeDelta(dst, p)
		} else {
			err = decodeRice(dst, p)
		}
		if err != nil {
			return err
		}
		fromIntegers(dst, scale)
		return nil
	}
	return fmt.Errorf("unknown %s", codec)
}

var nan32 = float32(math.NaN())

func appendRaw(dst []byte, values []float32) []byte {
	for _, v := range values {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
	}
	return dst
}

func appendSteps16(dst []byte, values []float32, scale float64) ([]byte, float64, bool) {
	var most float64
	for _, v := range values {
		if a := math.Abs(float64(v)); a > most {
			most = a
		}
	}
	if scale == 0 {
		scale = most / math.MaxInt16
	}
	// Written so that an infinity, or a scale that underflowed, is refused.
	if most != 0 && !(most/scale < math.MaxInt16+0.5) {
		return dst, 0, false
	}
	for _, v := range values {
		q := int16(noValue16)
		switch {
		case v == 0 || most == 0 && v == v:
			q = 0
		case v == v:
			q = int16(math.RoundToEven(float64(v) / scale))
		}
		dst = binary.LittleEndian.AppendUint16(dst, uint16(q))
	}
	return dst, scale, true
}

// integers maps values onto numbers whose differences are small for smooth
// signals: steps of scale, or, without one, the bits of the float in an order
// that follows its size. It returns the scale it used, 0 when a value is not a
// 32-bit number of steps.
func integers(dst []uint32, values []float32, scale float64) ([]uint32, float64) {
	if scale > 0 {
		ok := true
		for _, v := range values {
			q := math.RoundToEven(float64(v) / scale)
			switch {
			case v != v:
				q = noValue
			case !(math.Abs(q) <= math.MaxInt32):
				ok = false
			}
			if !ok {
				break
			}
			dst = append(dst, uint32(int32(q)))
		}
		if ok {
			return dst, scale
		}
		dst = dst[:0]
	}
	for _, v := range values {
		dst = append(dst, ordered(math.Float32bits(v)))
	}
	return dst, 0
}

func ordered(b uint32) uint32 {
	if b>>31 != 0 {
		return ^b
	}
	return b | 1<<31
}

// fromIntegers undoes integers in place: dst holds the integers as float bits.
func fromIntegers(dst []float32, scale float64) {
	if scale > 0 {
		for i, v := range dst {
			q := int32(math.Float32bits(v))
			if q == noValue {
				dst[i] = nan32
			} else {
				dst[i] = float32(float64(q) * scale)
			}
		}
		return
	}
	for i, v := range dst {
		u := math.Float32bits(v)
		if u>>31 != 0 {
			u &^= 1 << 31
		} else {
			u = ^u
		}
		dst[i] = math.Float32frombits(u)
	}
}

func zigzag(d uint32) uint32   { return d<<1 ^ uint32(int32(d)>>31) }
func unzigzag(z uint32) uint32 { return z>>1 ^ -(z & 1) }

// appendDelta writes the first value in 4 bytes, then groups of differences:
// one byte of width, then the zigzag differences packed from the low bit up.
func appendDelta(dst []byte, u []uint32) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, u[0])
	prev := u[0]
	var z [group]uint32
	for u = u[1:]; len(u) > 0; {
		n := min(group, len(u))
		var all uint32
		for i, v := range u[:n] {
			z[i] = zigzag(v - prev)
			all |= z[i]
			prev = v
		}
		u = u[n:]
		width := uint(bits.Len32(all))
		w := bitWriter{p: append(dst, byte(width))}
		for _, v := range z[:n] {
			w.put(uint64(v), width)
		}
		dst = w.flush()
	}
	return dst
}

func decodeDelta(dst []float32, p []byte) error {
	if len(p) < 4 {
		return errShort
	}
	prev := binary.LittleEndian.Uint32(p)
	p = p[4:]
	dst[0] = math.Float32frombits(prev)
	for dst = dst[1:]; len(dst) > 0; {
		if len(p) == 0 {
			return errShort
		}
		n, width := min(group, len(dst)), uint(p[0])
		size := (n*int(width) + 7) / 8
		if width > 32 {
			return fmt.Errorf("group of %d bits a value", width)
		}
		if len(p) < 1+size {
			return errShort
		}
		r := bitReader{p: p[1 : 1+size]}
		mask := uint64(1)<<width - 1
		for i := range dst[:n] {
			if r.n < width {
				r.refill()
			}
			prev += unzigzag(uint32(r.acc & mask))
			r.acc >>= width
			r.n -= width
			dst[i] = math.Float32frombits(prev)
		}
		dst, p = dst[n:], p[1+size:]
	}
	if len(p) != 0 {
		return errLong
	}
	return nil
}

// Rice groups whose residuals do not suit a Rice code say so with this
// parameter, followed by 6 bits of width.
const riceEscape = 31

// maxOrder is the greatest order of the fixed predictors (those of FLAC and
// Shorten: the polynomial through the last values).
const maxOrder = 3

// predict returns the value that follows a, b, c (a the newest), modulo 2^32.
func predict(order int, a, b, c uint32) uint32 {
	switch order {
	case 1:
		return a
	case 2:
		return 2*a - b
	default:
		return 3*a - 3*b + c
	}
}

// appendRice writes the predictor's order (1 to 3) in one byte, the first value
// in 4, then a bit stream, low bit first: per group a 5-bit parameter k, then
// per residual its zigzag form as a run of (z>>k) zeros, a one, and k low bits.
func appendRice(dst []byte, u []uint32) []byte {
	order := bestOrder(u)
	dst = append(dst, byte(order))
	dst = binary.LittleEndian.AppendUint32(dst, u[0])
	a, b, c := u[0], u[0], u[0]
	w := bitWriter{p: dst}
	var z [group]uint32
	for u = u[1:]; len(u) > 0; {
		n := min(group, len(u))
		var all uint32
		for i, v := range u[:n] {
			z[i] = zigzag(v - predict(order, a, b, c))
			all |= z[i]
			a, b, c = v, a, b
		}
		u = u[n:]
		k, cost := bestRice(z[:n])
		if width := uint(bits.Len32(all)); 6+uint64(n)*uint64(width) < cost {
			w.put(riceEscape, 5)
			w.put(uint64(width), 6)
			for _, v := range z[:n] {
				w.put(uint64(v), width)
			}
			continue
		}
		w.put(uint64(k), 5)
		for _, v := range z[:n] {
			q := v >> k
			for ; q >= 32; q -= 32 {
				w.put(0, 32)
			}
			w.put(1<<q, uint(q)+1)
			w.put(uint64(v&(1<<k-1)), k)
		}
	}
	return w.flush()
}

func bestOrder(u []uint32) int {
	var sum [maxOrder + 1]uint64
	a, b, c := u[0], u[0], u[0]
	for _, v := range u[1:] {
		for o := 1; o <= maxOrder; o++ {
			sum[o] += uint64(zigzag(v - predict(o, a, b, c)))
		}
		a, b, c = v, a, b
	}
	best := 1
	for o := 2; o <= maxOrder; o++ {
		if sum[o] < sum[best] {
			best = o
		}
	}
	return best
}

// bestRice returns the parameter that writes z in the fewest bits. It starts at
// the one that suits the mean and looks one to each side.
func bestRice(z []uint32) (k uint, cost uint64) {
	var sum uint64
	for _, v := range z {
		sum += uint64(v)
	}
	guess := bits.Len64(sum / uint64(len(z)))
	cost = math.MaxUint64
	for try := max(0, guess-1); try <= min(riceEscape-1, guess+1); try++ {
		c := uint64(len(z)) * uint64(try+1)
		for _, v := range z {
			c += uint64(v >> try)
		}
		if c < cost {
			k, cost = uint(try), c
		}
	}
	return k, cost
}

func decodeRice(dst []float32, p []byte) error {
	if len(p) < 5 {
		return errShort
	}
	order := int(p[0])
	if order < 1 || order > maxOrder {
		return fmt.Errorf("predictor of order %d", order)
	}
	a := binary.LittleEndian.Uint32(p[1:])
	b, c := a, a
	dst[0] = math.Float32frombits(a)
	r := bitReader{p: p[5:]}
	for dst = dst[1:]; len(dst) > 0; {
		n := min(group, len(dst))
		k, err := r.take(5)
		if err != nil {
			return err
		}
		width := uint64(0)
		if k == riceEscape {
			if width, err = r.take(6); err != nil {
				return err
			}
			if width > 32 {
				return fmt.Errorf("group of %d bits a value", width)
			}
		}
		for i := range dst[:n] {
			var z uint64
			if k == riceEscape {
				z, err = r.take(uint(width))
			} else {
				z, err = r.rice(uint(k))
			}
			if err != nil {
				return err
			}
			v := predict(order, a, b, c) + unzigzag(uint32(z))
			a, b, c = v, a, b
			dst[i] = math.Float32frombits(v)
		}
		dst = dst[n:]
	}
	if len(r.p) > 0 || r.n >= 8 {
		return errLong
	}
	return nil
}

var (
	errShort = errors.New("values end too soon")
	errLong  = errors.New("bytes follow the last value")
)

// bitWriter appends bits to p from the low bit of each byte up.
type bitWriter struct {
	p   []byte
	acc uint64
	n   uint // bits in acc, below 32 between calls
}

// put appends the low width (at most 33) bits of v, which has no others set.
func (w *bitWriter) put(v uint64, width uint) {
	if w.n+width > 64 {
		panic("telemetry: bit writer overflow")
	}
	w.acc |= v << w.n
	w.n += width
	if w.n >= 32 {
		w.p = binary.LittleEndian.AppendUint32(w.p, uint32(w.acc))
		w.acc >>= 32
		w.n -= 32
	}
}

func (w *bitWriter) flush() []byte {
	for ; w.n > 0; w.n -= min(8, w.n) {
		w.p = append(w.p, byte(w.acc))
		w.acc >>= 8
	}
	return w.p
}

// bitReader is the reverse. Beyond the end of p it reads nothing: callers
// compare n with what they need after a refill.
type bitReader struct {
	p   []byte
	acc uint64
	n   uint // valid bits in acc
}

func (r *bitReader) refill() {
	for r.n <= 56 && len(r.p) > 0 {
		r.acc |= uint64(r.p[0]) << r.n
		r.p = r.p[1:]
		r.n += 8
	}
}

// take reads width (at most 32) bits.
func (r *bitReader) take(width uint) (uint64, error) {
	if r.n < width {
		if r.refill(); r.n < width {
			return 0, errShort
		}
	}
	v := r.acc & (1<<width - 1)
	r.acc >>= width
	r.n -= width
	return v, nil
}

// rice reads one Rice code with parameter k below 31.
func (r *bitReader) rice(k uint) (uint64, error) {
	var q uint64
	for {
		if r.n == 0 {
			if r.refill(); r.n == 0 {
				return 0, errShort
			}
		}
		if r.acc != 0 {
			break
		}
		q += uint64(r.n)
		r.n = 0
	}
	zeros := uint(bits.TrailingZeros64(r.acc))
	r.acc = r.acc >> zeros >> 1
	r.n -= zeros + 1
	q += uint64(zeros)
	if q >= 1<<(32-k) {
		return 0, errors.New("residual of more than 32 bits")
	}
	low, err := r.take(k)
	return q<<k | low, err
}
