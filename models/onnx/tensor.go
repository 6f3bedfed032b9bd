package onnx

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/swellfleet/swell/models/onnx/onnxpb"
)

func floatTensor(name string, data []float32, dims []int64) *onnxpb.TensorProto {
	raw := make([]byte, 0, 4*len(data))
	for _, v := range data {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return &onnxpb.TensorProto{Name: &name, DataType: new(int32(Float)), Dims: dims, RawData: raw}
}

// FloatData returns the values of a float32 tensor in a fresh slice.
func FloatData(t *onnxpb.TensorProto) ([]float32, error) {
	if DataType(t.GetDataType()) != Float {
		return nil, fmt.Errorf("tensor %q holds %v, not float32", t.GetName(), DataType(t.GetDataType()))
	}
	if err := checkTensor(t); err != nil {
		return nil, err
	}
	if len(t.FloatData) > 0 {
		return append([]float32(nil), t.FloatData...), nil
	}
	out := make([]float32, len(t.RawData)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.RawData[4*i:]))
	}
	return out, nil
}

// SetFloatData replaces the values of a float32 tensor; data must have as many.
func SetFloatData(t *onnxpb.TensorProto, data []float32) {
	t.RawData, t.FloatData = nil, append([]float32(nil), data...)
}

// intData returns the values of an int64 tensor that checkTensor accepted.
func intData(t *onnxpb.TensorProto) ([]int64, error) {
	if DataType(t.GetDataType()) != Int64 {
		return nil, fmt.Errorf("tensor %q holds %v, not int64", t.GetName(), DataType(t.GetDataType()))
	}
	if len(t.Int64Data) > 0 {
		return t.Int64Data, nil
	}
	out := make([]int64, len(t.RawData)/8)
	for i := range out {
		out[i] = int64(binary.LittleEndian.Uint64(t.RawData[8*i:]))
	}
	return out, nil
}

// elementSize is the bytes one element takes; 0 for a type that Swell does not accept.
func elementSize(t DataType) int64 {
	switch t {
	case onnxpb.TensorProto_FLOAT, onnxpb.TensorProto_INT32:
		return 4
	case onnxpb.TensorProto_INT64, onnxpb.TensorProto_DOUBLE:
		return 8
	case onnxpb.TensorProto_BOOL, onnxpb.TensorProto_UINT8, onnxpb.TensorProto_INT8:
		return 1
	}
	return 0
}

// count multiplies dimensions. It fails on a negative one, on more than maxRank of them and above maxCount
// values, far over every limit.
func count(dims []int64) (int64, error) {
	const maxRank, maxCount = 16, 1 << 40
	if len(dims) > maxRank {
		return 0, fmt.Errorf("it has %d dimensions: at most %d are allowed", len(dims), maxRank)
	}
	n := int64(1)
	for _, d := range dims {
		if d < 0 {
			return 0, fmt.Errorf("dimension %d is out of range", d)
		}
		if d > 0 && n > maxCount/d {
			return 0, fmt.Errorf("shape %v is too large", dims)
		}
		n *= d
	}
	return n, nil
}

// checkTensor verifies that t is stored inside the file, complete, and finite.
func checkTensor(t *onnxpb.TensorProto) error {
	if t.GetDataLocation() != onnxpb.TensorProto_DEFAULT || len(t.ExternalData) > 0 {
		return fmt.Errorf("tensor %q keeps its data outside the model file: external data is not allowed", t.GetName())
	}
	kind := DataType(t.GetDataType())
	size := elementSize(kind)
	if size == 0 {
		return fmt.Errorf("tensor %q has element type %v, which is not allowed", t.GetName(), kind)
	}
	n, err := count(t.Dims)
	if err != nil {
		return fmt.Errorf("tensor %q: %w", t.GetName(), err)
	}
	typed, fields := int64(0), 0
	for k, length := range map[DataType]int{
		onnxpb.TensorProto_FLOAT:  len(t.FloatData),
		onnxpb.TensorProto_INT64:  len(t.Int64Data),
		onnxpb.TensorProto_DOUBLE: len(t.DoubleData),
		onnxpb.TensorProto_INT32:  len(t.Int32Data),
	} {
		if length == 0 {
			continue
		}
		fields++
		narrow := k == onnxpb.TensorProto_INT32 && size == 1 // small integers and bools share int32_data
		if k != kind && !narrow {
			return fmt.Errorf("tensor %q of %v has values of another type", t.GetName(), kind)
		}
		typed = int64(length)
	}
	if fields > 1 || (fields == 1 && len(t.RawData) > 0) {
		return fmt.Errorf("tensor %q stores its values twice", t.GetName())
	}
	if fields == 0 && int64(len(t.RawData)) != n*size || fields == 1 && typed != n {
		return fmt.Errorf("tensor %q has shape %v but not %d values", t.GetName(), t.Dims, n)
	}
	if !finite(t) {
		return fmt.Errorf("tensor %q holds NaN or infinite values", t.GetName())
	}
	return nil
}

func finite(t *onnxpb.TensorProto) bool {
	const exponent32, exponent64 = 0x7f800000, 0x7ff0000000000000 // all ones: NaN or infinite
	switch DataType(t.GetDataType()) {
	case onnxpb.TensorProto_FLOAT:
		for raw := t.RawData; len(raw) >= 4; raw = raw[4:] {
			if binary.LittleEndian.Uint32(raw)&exponent32 == exponent32 {
				return false
			}
		}
		for _, v := range t.FloatData {
			if math.Float32bits(v)&exponent32 == exponent32 {
				return false
			}
		}
	case onnxpb.TensorProto_DOUBLE:
		for raw := t.RawData; len(raw) >= 8; raw = raw[8:] {
			if binary.LittleEndian.Uint64(raw)&exponent64 == exponent64 {
				return false
			}
		}
		for _, v := range t.DoubleData {
			if math.Float64bits(v)&exponent64 == exponent64 {
				return false
			}
		}
	}
	return true
}
