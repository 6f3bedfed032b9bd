package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of the Sparkplug B payload (Sparkplug 3.0, section 6.4).
const (
	payloadTimestamp = 1
	payloadMetric    = 2
	payloadSeq       = 3
	payloadUUID      = 4
	payloadBody      = 5

	metricName       = 1
	metricAlias      = 2
	metricTimestamp  = 3
	metricType       = 4
	metricHistorical = 5
	metricTransient  = 6
	metricNull       = 7
	metricProperties = 9
	metricInt        = 10
	metricLong       = 11
	metricFloat      = 12
	metricDouble     = 13
	metricBoolean    = 14
	metricString     = 15
	metricBytes      = 16
	metricDataSet    = 17
	metricTemplate   = 18

	propertiesKey   = 1
	propertiesValue = 2

	propertyType    = 1
	propertyNull    = 2
	propertyInt     = 3
	propertyLong    = 4
	propertyFloat   = 5
	propertyDouble  = 6
	propertyBoolean = 7
	propertyString  = 8
	propertySet     = 9
	propertySets    = 10

	propertySetsSet = 1
)

// field is one field of a protobuf message: num is for the varint and fixed
// types, bytes for the length-delimited one, into the message.
type field struct {
	number protowire.Number
	wire   protowire.Type
	num    uint64
	bytes  []byte
}

// next reads one field from the front of p and returns how many bytes it took.
// Groups, which Sparkplug does not use, are refused.
func (f *field) next(p []byte) (int, error) {
	number, wire, n := protowire.ConsumeTag(p)
	if n < 0 {
		return 0, fmt.Errorf("protobuf tag: %w", protowire.ParseError(n))
	}
	f.number, f.wire, f.num, f.bytes = number, wire, 0, nil
	m := 0
	switch wire {
	case protowire.VarintType:
		f.num, m = protowire.ConsumeVarint(p[n:])
	case protowire.Fixed32Type:
		var v uint32
		v, m = protowire.ConsumeFixed32(p[n:])
		f.num = uint64(v)
	case protowire.Fixed64Type:
		f.num, m = protowire.ConsumeFixed64(p[n:])
	case protowire.BytesType:
		f.bytes, m = protowire.ConsumeBytes(p[n:])
	default:
		return 0, fmt.Errorf("protobuf field %d has wire type %d", number, wire)
	}
	if m < 0 {
		return 0, fmt.Errorf("protobuf field %d: %w", number, protowire.ParseError(m))
	}
	return n + m, nil
}

// want refuses a known field that came with another wire type.
func (f *field) want(wire protowire.Type) error {
	if f.wire != wire {
		return fmt.Errorf("protobuf field %d has wire type %d, want %d", f.number, f.wire, wire)
	}
	return nil
}

// value is the content of a metric or property before its type gives it a
// meaning. The slices point into the message.
type value struct {
	kind   DataType
	null   bool
	number uint64 // int, long and boolean; the bits of float and double
	float  bool   // number holds float bits
	double bool   // number holds double bits
	data   []byte // string, bytes, data set, template, property set(s)
	set    bool
}

// rawMetric is a metric whose value is not yet read.
type rawMetric struct {
	value
	name       []byte
	alias      uint64
	hasAlias   bool
	timestamp  uint64
	historical bool
	transient  bool
	properties []byte
}

func (m *rawMetric) parse(p []byte) error {
	*m = rawMetric{}
	var f field
	for len(p) > 0 {
		n, err := f.next(p)
		if err != nil {
			return err
		}
		p = p[n:]
		wire := protowire.VarintType
		switch f.number {
		case metricName:
			wire, m.name = protowire.BytesType, f.bytes
		case metricAlias:
			m.alias, m.hasAlias = f.num, true
		case metricTimestamp:
			m.timestamp = f.num
		case metricType:
			m.kind = DataType(min(f.num, math.MaxUint32))
		case metricHistorical:
			m.historical = f.num != 0
		case metricTransient:
			m.transient = f.num != 0
		case metricNull:
			m.null = f.num != 0
		case metricProperties:
			wire, m.properties = protowire.BytesType, f.bytes
		case metricInt, metricLong, metricBoolean:
			m.value.setNumber(f.num)
		case metricFloat:
			wire = protowire.Fixed32Type
			m.value.setNumber(f.num)
			m.float = true
		case metricDouble:
			wire = protowire.Fixed64Type
			m.value.setNumber(f.num)
			m.double = true
		case metricString, metricBytes, metricDataSet, metricTemplate:
			wire = protowire.BytesType
			m.value.setData(f.bytes)
		default:
			continue
		}
		if err := f.want(wire); err != nil {
			return err
		}
	}
	return nil
}

func (v *value) setNumber(n uint64) {
	v.number, v.float, v.double, v.data, v.set = n, false, false, nil, true
}

func (v *value) setData(p []byte) {
	v.number, v.float, v.double, v.data, v.set = 0, false, false, p, true
}

// properties walks a property set: the keys and values are two repeated fields
// that pair up by position, and keys may come before values or mixed with them.
type properties struct {
	keys, values []byte
	count        int
}

func newProperties(p []byte) properties { return properties{keys: p, values: p} }

// next reads the next property into key and v, or returns false at the end.
func (w *properties) next(key *[]byte, v *value) (bool, error) {
	k, rest, err := nextOf(w.keys, propertiesKey)
	if err != nil {
		return false, err
	}
	w.keys = rest
	raw, rest, err := nextOf(w.values, propertiesValue)
	if err != nil {
		return false, err
	}
	w.values = rest
	switch {
	case k == nil && raw == nil:
		return false, nil
	case k == nil || raw == nil:
		return false, errors.New("property set: keys and values differ in number")
	case w.count == MaxProperties:
		return false, fmt.Errorf("property set: more than %d properties", MaxProperties)
	}
	w.count++
	*key, *v = k, value{}
	if err := v.parseProperty(raw); err != nil {
		return false, fmt.Errorf("property %q: %w", k, err)
	}
	return true, nil
}

// nextOf returns the next length-delimited field with the given number (nil at
// the end, never nil otherwise) and what follows it.
func nextOf(p []byte, number protowire.Number) (value, rest []byte, err error) {
	var f field
	for len(p) > 0 {
		n, err := f.next(p)
		if err != nil {
			return nil, nil, err
		}
		p = p[n:]
		if f.number == number {
			if err := f.want(protowire.BytesType); err != nil {
				return nil, nil, err
			}
			if f.bytes == nil {
				f.bytes = []byte{}
			}
			return f.bytes, p, nil
		}
	}
	return nil, nil, nil
}

func (v *value) parseProperty(p []byte) error {
	var f field
	for len(p) > 0 {
		n, err := f.next(p)
		if err != nil {
			return err
		}
		p = p[n:]
		wire := protowire.VarintType
		switch f.number {
		case propertyType:
			v.kind = DataType(min(f.num, math.MaxUint32))
		case propertyNull:
			v.null = f.num != 0
		case propertyInt, propertyLong, propertyBoolean:
			v.setNumber(f.num)
		case propertyFloat:
			wire = protowire.Fixed32Type
			v.setNumber(f.num)
			v.float = true
		case propertyDouble:
			wire = protowire.Fixed64Type
			v.setNumber(f.num)
			v.double = true
		case propertyString, propertySet, propertySets:
			wire = protowire.BytesType
			v.setData(f.bytes)
		default:
			continue
		}
		if err := f.want(wire); err != nil {
			return err
		}
	}
	return nil
}

// asDouble reads a value that may be written as float or double.
func (v *value) asDouble() (float64, bool) {
	switch {
	case v.double:
		return math.Float64frombits(v.number), true
	case v.float:
		return float64(math.Float32frombits(uint32(v.number))), true
	}
	return 0, false
}

func appendVarint(dst []byte, number protowire.Number, v uint64) []byte {
	return binary.AppendUvarint(protowire.AppendTag(dst, number, protowire.VarintType), v)
}

func appendBytes(dst []byte, number protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, number, protowire.BytesType), v)
}

func appendString(dst []byte, number protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, number, protowire.BytesType), v)
}

// nested appends a length-delimited field whose content fill writes. The
// content is written in place and moved to make room for its length.
func nested(dst []byte, number protowire.Number, fill func([]byte) []byte) []byte {
	dst = protowire.AppendTag(dst, number, protowire.BytesType)
	start := len(dst)
	dst = fill(dst)
	size := len(dst) - start
	var prefix [10]byte
	n := binary.PutUvarint(prefix[:], uint64(size))
	dst = append(dst, prefix[:n]...)
	copy(dst[start+n:], dst[start:start+size])
	copy(dst[start:], prefix[:n])
	return dst
}
