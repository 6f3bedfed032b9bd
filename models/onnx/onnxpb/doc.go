// Package onnxpb is the generated code of onnx.proto: the subset of the ONNX file format that Swell
// writes and accepts. Code in models imports it, and tests that forge models.
package onnxpb

//go:generate ./generate.sh
