package telemetry

import "errors"

func (b Block) Append(dst []byte) ([]byte, error) { return dst, errors.New("soon") }
func Decode(p []byte) (Block, error)              { return Block{}, errors.New("soon") }
