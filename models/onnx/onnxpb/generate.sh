#!/bin/sh
# Generates onnx.pb.go from onnx.proto. The plugin is the one of the module's own protobuf version; the
# compiler is the system's (Debian package protobuf-compiler). Its version is taken out of the file's head, so
# that another one gives the same file. Where there is no compiler the committed file stays.
set -eu

if ! command -v protoc >/dev/null; then
	echo "onnxpb: not generated again: install the Debian package protobuf-compiler" >&2
	exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
protoc -I . --plugin="$work/protoc-gen-go" --go_out=paths=source_relative:"$work" onnx.proto
sed '/^\/\/ \tprotoc  *v/d' "$work/onnx.pb.go" >onnx.pb.go
