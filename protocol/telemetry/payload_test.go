package telemetry

import (
	"bytes"
	"encoding/hex"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func birth() Payload {
	return Payload{
		Timestamp: 1_763_841_600_000, HasSeq: true, Seq: 0,
		Metrics: []Metric{
			{Name: BdSeq, Timestamp: 1_763_841_600_000, Type: Int64, Value: int64(3)},
			{Name: "Node Control/Rebirth", Type: Boolean, Value: false},
			{Name: "score", Alias: 1, HasAlias: true, Type: Float, Value: float32(0.5), Properties: []Property{
				{Key: "engUnit", Type: String, Value: "1"},
				{Key: "limits", Type: PropertySet, Value: []Property{{Key: "high", Type: Double, Value: 3.5}, {Key: "low", Type: Double}}},
				{Key: "steps", Type: PropertySetList, Value: [][]Property{{{Key: "a", Type: UInt8, Value: uint8(1)}}, {}}},
			}},
			{Name: "release", Alias: 2, HasAlias: true, Type: UInt64, Value: uint64(math.MaxUint64)},
		},
	}
}

// The bytes were written down from the field tables by hand.
func TestPayloadFollowsTheFieldTables(t *testing.T) {
	p := Payload{Timestamp: 1, HasSeq: true, Seq: 255, Metrics: []Metric{
		{Name: "a", Alias: 5, HasAlias: true, Timestamp: 2, Type: Int8, Value: int8(-1)},
		{Name: "f", Type: Float, Value: float32(1)},
		{Name: "n", Type: Double},
		{Name: "i", Type: Int16Array, Value: []int16{1, -2}},
		{Name: "b", Type: BooleanArray, Value: []bool{true, false, true, false, false, false, false, false, true}},
		{Name: "s", Type: StringArray, Value: []string{"x", ""}},
	}}
	want := strings.Join([]string{
		"0801", // timestamp
		"120f" + "0a0161" + "1005" + "1802" + // name, alias, timestamp
			"2001" + "50ffffffff0f", // data type Int8, int_value
		"120a" + "0a0166" + "2009" + "650000803f", // Float, float_value
		"1207" + "0a016e" + "200a" + "3801",       // Double, is_null
		"120c" + "0a0169" + "2017" + "820104" + "0100feff",
		"120e" + "0a0162" + "2020" + "820106" + "09000000" + "a080",
		"120b" + "0a0173" + "2021" + "820103" + "780000",
		"18ff01", // seq
	}, "")
	got, err := p.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
	back, err := DecodePayload(got)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, p) {
		t.Errorf("read back %+v, want %+v", back, p)
	}
}

func TestBirthAndDeathShareBdSeq(t *testing.T) {
	death := Payload{Timestamp: 5, Metrics: []Metric{{Name: BdSeq, Type: Int64, Value: int64(3)}}}
	for _, p := range []Payload{birth(), death} {
		encoded, err := p.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodePayload(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("got %+v\nwant %+v", got, p)
		}
	}
}

func TestSmallNumbersAreReadHoweverTheSignWasExtended(t *testing.T) {
	for _, encoded := range []string{"12082001" + "50ff01" + "0a0161", "120b2001" + "50ffffffff0f" + "0a0161", "12102001" + "50ffffffffffffffffff01" + "0a0161"} {
		p, _ := hex.DecodeString(encoded)
		got, err := DecodePayload(p)
		if err != nil {
			t.Fatal(err)
		}
		if got.Metrics[0].Value != int8(-1) {
			t.Errorf("%s: %v, want -1", encoded, got.Metrics[0].Value)
		}
	}
}

func TestValuesOfAnotherTypeAreRefused(t *testing.T) {
	for _, m := range []Metric{
		{Type: Int8, Value: 1}, {Type: Float, Value: 1.0}, {Type: String, Value: []byte{}}, {Type: FloatArray, Value: []float64{1}},
		{Type: DataSet, Value: "x"}, {Type: StringArray, Value: []string{"a\x00"}}, {Type: 99, Value: int8(1)},
		{Type: Boolean, Properties: []Property{{Key: "k", Type: Bytes, Value: []byte{1}}}},
	} {
		if _, err := (Payload{Metrics: []Metric{m}}).Append(nil); err == nil {
			t.Errorf("%T as data type %d was written", m.Value, m.Type)
		}
	}
}

func TestEveryMetricComesBack(t *testing.T) {
	scalars := map[DataType]*rapid.Generator[any]{
		Int8: rapid.Int8().AsAny(), Int16: rapid.Int16().AsAny(), Int32: rapid.Int32().AsAny(), Int64: rapid.Int64().AsAny(),
		UInt8: rapid.Uint8().AsAny(), UInt16: rapid.Uint16().AsAny(), UInt32: rapid.Uint32().AsAny(), UInt64: rapid.Uint64().AsAny(),
		Float: rapid.Float32().AsAny(), Double: rapid.Float64().AsAny(), Boolean: rapid.Bool().AsAny(), String: rapid.String().AsAny(),
		DateTime: rapid.Uint64().AsAny(), Bytes: rapid.SliceOfN(rapid.Byte(), 1, 9).AsAny(), DataSet: rapid.SliceOfN(rapid.Byte(), 1, 9).AsAny(),
		Int8Array: rapid.SliceOf(rapid.Int8()).AsAny(), Int32Array: rapid.SliceOf(rapid.Int32()).AsAny(), Int64Array: rapid.SliceOf(rapid.Int64()).AsAny(),
		UInt16Array: rapid.SliceOf(rapid.Uint16()).AsAny(), UInt32Array: rapid.SliceOf(rapid.Uint32()).AsAny(), DateTimeArray: rapid.SliceOf(rapid.Uint64()).AsAny(),
		FloatArray: rapid.SliceOf(rapid.Float32()).AsAny(), DoubleArray: rapid.SliceOf(rapid.Float64()).AsAny(), BooleanArray: rapid.SliceOf(rapid.Bool()).AsAny(),
		StringArray: rapid.SliceOf(rapid.StringMatching(`[a-z]*`)).AsAny(),
	}
	var kinds []DataType
	for k := Int8; k <= DateTimeArray; k++ {
		if scalars[k] != nil {
			kinds = append(kinds, k)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		m := Metric{
			Name: rapid.String().Draw(t, "name"), Alias: rapid.Uint64().Draw(t, "alias"), HasAlias: true,
			Type: rapid.SampledFrom(kinds).Draw(t, "type"), Historical: rapid.Bool().Draw(t, "historical"), Transient: rapid.Bool().Draw(t, "transient"),
		}
		m.Value = scalars[m.Type].Draw(t, "value")
		want := Payload{Metrics: []Metric{m}, Body: []byte{1}, UUID: "u"}
		p, err := want.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodePayload(p)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func FuzzDecodePayload(f *testing.F) {
	p, err := birth().Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	block, _ := golden()["pump"].Append(nil)
	f.Add(block)
	f.Fuzz(func(t *testing.T, p []byte) {
		got, err := DecodePayload(p)
		if err != nil {
			return
		}
		for _, m := range got.Metrics {
			if m.Value == nil || m.Type == Unknown || m.Type > DateTimeArray {
				return
			}
		}
		q, err := got.Append(nil)
		if err != nil {
			return
		}
		again, err := DecodePayload(q)
		if err != nil {
			t.Fatal(err)
		}
		r, err := again.Append(nil)
		if err != nil || !bytes.Equal(q, r) {
			t.Fatalf("second writing differs: %v\n%x\n%x", err, q, r)
		}
	})
}
