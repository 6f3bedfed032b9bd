package telemetry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxDepth bounds how deep property sets may nest.
const maxDepth = 4

// Append appends the encoded payload to dst. It fails when a metric's value
// does not have the Go type of its data type, or a bound is passed; dst is then
// returned as it was.
func (p Payload) Append(dst []byte) ([]byte, error) {
	if len(p.Metrics) > MaxMetrics {
		return dst, fmt.Errorf("payload has %d metrics, more than %d", len(p.Metrics), MaxMetrics)
	}
	start, out := len(dst), dst
	if p.Timestamp != 0 {
		out = appendVarint(out, payloadTimestamp, p.Timestamp)
	}
	for i := range p.Metrics {
		m := &p.Metrics[i]
		var err error
		out = nested(out, payloadMetric, func(b []byte) []byte {
			b, err = m.append(b)
			return b
		})
		if err != nil {
			return dst, fmt.Errorf("metric %q: %w", m.Name, err)
		}
	}
	if p.HasSeq {
		out = appendVarint(out, payloadSeq, p.Seq)
	}
	if p.UUID != "" {
		out = appendString(out, payloadUUID, p.UUID)
	}
	if p.Body != nil {
		out = appendBytes(out, payloadBody, p.Body)
	}
	if len(out)-start > MaxBytes {
		return dst, fmt.Errorf("payload of %d bytes is larger than %d", len(out)-start, MaxBytes)
	}
	return out, nil
}

func (m *Metric) append(b []byte) ([]byte, error) {
	if m.Name != "" {
		b = appendString(b, metricName, m.Name)
	}
	if m.HasAlias {
		b = appendVarint(b, metricAlias, m.Alias)
	}
	if m.Timestamp != 0 {
		b = appendVarint(b, metricTimestamp, m.Timestamp)
	}
	if m.Type != Unknown {
		b = appendVarint(b, metricType, uint64(m.Type))
	}
	if m.Historical {
		b = appendVarint(b, metricHistorical, 1)
	}
	if m.Transient {
		b = appendVarint(b, metricTransient, 1)
	}
	if m.Properties != nil {
		var err error
		b = nested(b, metricProperties, func(b []byte) []byte {
			b, err = appendProperties(b, m.Properties, 0)
			return b
		})
		if err != nil {
			return b, err
		}
	}
	if m.Value == nil {
		return appendVarint(b, metricNull, 1), nil
	}
	if m.Type == DataSet || m.Type == Template {
		raw, ok := m.Value.([]byte)
		if !ok {
			return b, fmt.Errorf("a %T is not an encoded message", m.Value)
		}
		if m.Type == DataSet {
			return appendBytes(b, metricDataSet, raw), nil
		}
		return appendBytes(b, metricTemplate, raw), nil
	}
	if a, ok, err := appendArray(nil, m.Type, m.Value); ok || err != nil {
		return appendBytes(b, metricBytes, a), err
	}
	return appendScalar(b, m.Type, m.Value, metricFields)
}

// scalarFields are the field numbers of the value in a metric or a property.
type scalarFields struct{ integer, long, float, double, boolean, text, bytes protowire.Number }

var (
	metricFields   = scalarFields{metricInt, metricLong, metricFloat, metricDouble, metricBoolean, metricString, metricBytes}
	propertyFields = scalarFields{propertyInt, propertyLong, propertyFloat, propertyDouble, propertyBoolean, propertyString, 0}
)

// appendScalar writes one value. Signed whole numbers up to 32 bits go into the
// 32-bit field as two's complement.
func appendScalar(b []byte, t DataType, v any, f scalarFields) ([]byte, error) {
	switch v := v.(type) {
	case int8:
		if t == Int8 {
			return appendVarint(b, f.integer, uint64(uint32(v))), nil
		}
	case int16:
		if t == Int16 {
			return appendVarint(b, f.integer, uint64(uint32(v))), nil
		}
	case int32:
		if t == Int32 {
			return appendVarint(b, f.integer, uint64(uint32(v))), nil
		}
	case int64:
		if t == Int64 {
			return appendVarint(b, f.long, uint64(v)), nil
		}
	case uint8:
		if t == UInt8 {
			return appendVarint(b, f.integer, uint64(v)), nil
		}
	case uint16:
		if t == UInt16 {
			return appendVarint(b, f.integer, uint64(v)), nil
		}
	case uint32:
		if t == UInt32 {
			return appendVarint(b, f.integer, uint64(v)), nil
		}
	case uint64:
		if t == UInt64 || t == DateTime {
			return appendVarint(b, f.long, v), nil
		}
	case float32:
		if t == Float {
			return protowire.AppendFixed32(protowire.AppendTag(b, f.float, protowire.Fixed32Type), math.Float32bits(v)), nil
		}
	case float64:
		if t == Double {
			return protowire.AppendFixed64(protowire.AppendTag(b, f.double, protowire.Fixed64Type), math.Float64bits(v)), nil
		}
	case bool:
		if t == Boolean {
			n := uint64(0)
			if v {
				n = 1
			}
			return appendVarint(b, f.boolean, n), nil
		}
	case string:
		if t == String || t == Text || t == UUID {
			return appendString(b, f.text, v), nil
		}
	case []byte:
		if f.bytes != 0 && (t == Bytes || t == File) {
			return appendBytes(b, f.bytes, v), nil
		}
	}
	return b, fmt.Errorf("a %T is not a value of data type %d", v, t)
}

func appendProperties(b []byte, ps []Property, depth int) ([]byte, error) {
	if len(ps) > MaxProperties || depth > maxDepth {
		return b, fmt.Errorf("more than %d properties, or nested deeper than %d", MaxProperties, maxDepth)
	}
	for i := range ps {
		b = appendString(b, propertiesKey, ps[i].Key)
	}
	for i := range ps {
		var err error
		b = nested(b, propertiesValue, func(b []byte) []byte {
			b, err = ps[i].append(b, depth)
			return b
		})
		if err != nil {
			return b, fmt.Errorf("property %q: %w", ps[i].Key, err)
		}
	}
	return b, nil
}

func (p *Property) append(b []byte, depth int) ([]byte, error) {
	b = appendVarint(b, propertyType, uint64(p.Type))
	if p.Value == nil {
		return appendVarint(b, propertyNull, 1), nil
	}
	set := func(b []byte, number protowire.Number, ps []Property) (out []byte, err error) {
		out = nested(b, number, func(b []byte) []byte {
			b, err = appendProperties(b, ps, depth+1)
			return b
		})
		return out, err
	}
	switch v := p.Value.(type) {
	case []Property:
		if p.Type == PropertySet {
			return set(b, propertySet, v)
		}
	case [][]Property:
		if p.Type == PropertySetList {
			if len(v) > MaxProperties {
				return b, fmt.Errorf("more than %d property sets", MaxProperties)
			}
			var err error
			b = nested(b, propertySets, func(b []byte) []byte {
				for _, ps := range v {
					if err == nil {
						b, err = set(b, propertySetsSet, ps)
					}
				}
				return b
			})
			return b, err
		}
	}
	return appendScalar(b, p.Type, p.Value, propertyFields)
}

// appendArray writes the array types, which Sparkplug packs little-endian into
// the bytes field; booleans as bits from the high one down after a count,
// strings each ended by a zero byte. It returns false for another data type.
func appendArray(b []byte, t DataType, v any) ([]byte, bool, error) {
	if t < Int8Array || t > DateTimeArray {
		return b, false, nil
	}
	switch v := v.(type) {
	case []int8:
		if t == Int8Array {
			for _, x := range v {
				b = append(b, byte(x))
			}
			return b, true, nil
		}
	case []bool:
		if t == BooleanArray {
			b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
			packed := make([]byte, (len(v)+7)/8)
			for i, x := range v {
				if x {
					packed[i/8] |= 0x80 >> (i % 8)
				}
			}
			return append(b, packed...), true, nil
		}
	case []string:
		if t == StringArray {
			for _, x := range v {
				if bytes.IndexByte([]byte(x), 0) >= 0 {
					return b, true, errors.New("a string of an array holds a zero byte")
				}
				b = append(append(b, x...), 0)
			}
			return b, true, nil
		}
	default:
		if fixedArray(v) == t || t == DateTimeArray && fixedArray(v) == UInt64Array {
			b, err := binary.Append(b, binary.LittleEndian, v)
			return b, true, err
		}
	}
	return b, true, fmt.Errorf("a %T is not a value of data type %d", v, t)
}

// fixedArray returns the array type of a slice that encoding/binary can pack.
func fixedArray(v any) DataType {
	switch v.(type) {
	case []int16:
		return Int16Array
	case []int32:
		return Int32Array
	case []int64:
		return Int64Array
	case []uint8:
		return UInt8Array
	case []uint16:
		return UInt16Array
	case []uint32:
		return UInt32Array
	case []uint64:
		return UInt64Array
	case []float32:
		return FloatArray
	case []float64:
		return DoubleArray
	}
	return Unknown
}

// DecodePayload reads a live Sparkplug payload. It keeps nothing of p. Metrics
// of a data type it does not know keep a nil value.
func DecodePayload(p []byte) (Payload, error) {
	var out Payload
	if len(p) > MaxBytes {
		return out, fmt.Errorf("decode payload: %d bytes are more than %d", len(p), MaxBytes)
	}
	if err := out.decode(p); err != nil {
		return Payload{}, fmt.Errorf("decode payload: %w", err)
	}
	return out, nil
}

func (out *Payload) decode(p []byte) error {
	var f field
	for len(p) > 0 {
		n, err := f.next(p)
		if err != nil {
			return err
		}
		p = p[n:]
		wire := protowire.VarintType
		switch f.number {
		case payloadTimestamp:
			out.Timestamp = f.num
		case payloadSeq:
			out.Seq, out.HasSeq = f.num, true
		case payloadMetric, payloadUUID, payloadBody:
			wire = protowire.BytesType
		default:
			continue
		}
		if err := f.want(wire); err != nil {
			return err
		}
		switch f.number {
		case payloadUUID:
			out.UUID = string(f.bytes)
		case payloadBody:
			out.Body = append([]byte{}, f.bytes...)
		case payloadMetric:
			if len(out.Metrics) == MaxMetrics {
				return fmt.Errorf("more than %d metrics", MaxMetrics)
			}
			out.Metrics = append(out.Metrics, Metric{})
			if err := out.Metrics[len(out.Metrics)-1].decode(f.bytes); err != nil {
				return fmt.Errorf("metric %d: %w", len(out.Metrics)-1, err)
			}
		}
	}
	return nil
}

func (m *Metric) decode(p []byte) error {
	var raw rawMetric
	if err := raw.parse(p); err != nil {
		return err
	}
	*m = Metric{
		Name: string(raw.name), Alias: raw.alias, HasAlias: raw.hasAlias, Timestamp: raw.timestamp,
		Type: raw.kind, Historical: raw.historical, Transient: raw.transient,
	}
	if !utf8.ValidString(m.Name) || len(m.Name) > 1024 {
		return errors.New("name is not text of at most 1024 bytes")
	}
	if raw.properties != nil {
		budget := MaxProperties
		var err error
		if m.Properties, err = decodeProperties(raw.properties, 0, &budget); err != nil {
			return err
		}
	}
	if raw.null || !raw.set {
		return nil
	}
	v, err := raw.read()
	if err != nil {
		return fmt.Errorf("%q: %w", m.Name, err)
	}
	m.Value = v
	return nil
}

func decodeProperties(p []byte, depth int, budget *int) ([]Property, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("property sets nested deeper than %d", maxDepth)
	}
	out := []Property{}
	var key []byte
	var v value
	for walk := newProperties(p); ; {
		more, err := walk.next(&key, &v)
		if err != nil {
			return nil, err
		}
		if !more {
			return out, nil
		}
		if *budget--; *budget < 0 {
			return nil, fmt.Errorf("more than %d properties", MaxProperties)
		}
		prop := Property{Key: string(key), Type: v.kind}
		switch {
		case v.null || !v.set:
		case v.kind == PropertySet:
			if prop.Value, err = decodeProperties(v.data, depth+1, budget); err != nil {
				return nil, err
			}
		case v.kind == PropertySetList:
			sets := [][]Property{}
			for rest := v.data; ; {
				var raw []byte
				if raw, rest, err = nextOf(rest, propertySetsSet); err != nil {
					return nil, err
				}
				if raw == nil {
					break
				}
				if *budget--; *budget < 0 {
					return nil, fmt.Errorf("more than %d properties", MaxProperties)
				}
				set, err := decodeProperties(raw, depth+1, budget)
				if err != nil {
					return nil, err
				}
				sets = append(sets, set)
			}
			prop.Value = sets
		default:
			if prop.Value, err = v.read(); err != nil {
				return nil, fmt.Errorf("property %q: %w", prop.Key, err)
			}
		}
		out = append(out, prop)
	}
}

// read gives the value its Go type. Small signed numbers are cut to their
// width, since writers differ in how far they extend the sign.
func (v *value) read() (any, error) {
	switch v.kind {
	case Int8:
		return int8(v.number), nil
	case Int16:
		return int16(v.number), nil
	case Int32:
		return int32(v.number), nil
	case Int64:
		return int64(v.number), nil
	case UInt8:
		return uint8(v.number), nil
	case UInt16:
		return uint16(v.number), nil
	case UInt32:
		return uint32(v.number), nil
	case UInt64, DateTime:
		return v.number, nil
	case Float, Double:
		d, ok := v.asDouble()
		if !ok {
			return nil, fmt.Errorf("data type %d without a number", v.kind)
		}
		if v.kind == Float {
			return float32(d), nil
		}
		return d, nil
	case Boolean:
		return v.number != 0, nil
	case String, Text, UUID:
		if !utf8.Valid(v.data) {
			return nil, errors.New("a string is not UTF-8")
		}
		return string(v.data), nil
	case Bytes, File, DataSet, Template:
		return append([]byte{}, v.data...), nil
	}
	if v.kind >= Int8Array && v.kind <= DateTimeArray {
		return decodeArray(v.kind, v.data)
	}
	return nil, nil
}

func decodeArray(t DataType, p []byte) (any, error) {
	switch t {
	case Int8Array:
		out := make([]int8, len(p))
		for i, x := range p {
			out[i] = int8(x)
		}
		return out, nil
	case UInt8Array:
		return append([]uint8{}, p...), nil
	case Int16Array:
		return fixed[int16](p, 2)
	case UInt16Array:
		return fixed[uint16](p, 2)
	case Int32Array:
		return fixed[int32](p, 4)
	case UInt32Array:
		return fixed[uint32](p, 4)
	case FloatArray:
		return fixed[float32](p, 4)
	case Int64Array:
		return fixed[int64](p, 8)
	case UInt64Array, DateTimeArray:
		return fixed[uint64](p, 8)
	case DoubleArray:
		return fixed[float64](p, 8)
	case BooleanArray:
		if len(p) < 4 {
			return nil, errors.New("boolean array without a count")
		}
		n := binary.LittleEndian.Uint32(p)
		if p = p[4:]; uint64(len(p)) != (uint64(n)+7)/8 {
			return nil, fmt.Errorf("boolean array of %d values in %d bytes", n, len(p))
		}
		out := make([]bool, n)
		for i := range out {
			out[i] = p[i/8]&(0x80>>(i%8)) != 0
		}
		return out, nil
	}
	out := make([]string, 0, min(bytes.Count(p, []byte{0}), MaxRows))
	for len(p) > 0 {
		s, rest, ok := bytes.Cut(p, []byte{0})
		if !ok || !utf8.Valid(s) || len(out) == MaxRows {
			return nil, fmt.Errorf("string array: want at most %d strings of UTF-8, each ended by a zero byte", MaxRows)
		}
		out, p = append(out, string(s)), rest
	}
	return out, nil
}

func fixed[T any](p []byte, size int) ([]T, error) {
	if len(p)%size != 0 {
		return nil, fmt.Errorf("array of %d-byte values in %d bytes", size, len(p))
	}
	out := make([]T, len(p)/size)
	_, err := binary.Decode(p, binary.LittleEndian, out)
	return out, err
}
