// Package onnxpb is the generated code of onnx.proto: the subset of the ONNX file format that Swell
// writes and accepts. Only models/onnx and models/train import it.
package onnxpb

//go:generate protoc -I . --go_out=paths=source_relative:. onnx.proto
