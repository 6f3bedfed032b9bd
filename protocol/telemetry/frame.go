package telemetry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// MaxFrameBytes is the most a picture of a Frame may have, encoded.
const MaxFrameBytes = 2 << 20

// maxFrameMessage leaves room for what goes with the picture.
const maxFrameMessage = MaxFrameBytes + 4<<10

// Why a frame was sent.
const (
	WhyAll       = "all"       // the device sends every frame
	WhySample    = "sample"    // an even share, whatever is on it
	WhyUncertain = "uncertain" // the model could hardly tell
	WhyFlagged   = "flagged"   // the model called it anomalous
)

// Formats of a picture.
const (
	JPEG = "jpeg"
	PNG  = "png"
)

// Frame is one message on topic kind frames: a picture of a camera, and what
// the device concluded of it. The digest of Encoded names it: sending it again
// changes nothing.
type Frame struct {
	Boot uint64 // random per installation of the spool
	Row  uint64 // of the stream raw, whose signals hold the picture's brightness and the like
	At   int64  // nanoseconds since 1970 UTC, as the row's
	// Device is the device's class; never empty.
	Device string

	Width, Height int    // pixels
	Format        string // JPEG or PNG
	Why           string // one of the Why constants

	// What the model that acted said; all zero where none did.
	Release     string  // "name-counter"
	Score       float64 // higher is stranger; finite
	Class       string  // the likeliest class; empty: the model knows none
	Probability float64 // of Class

	Encoded []byte // the picture's file, 1 to MaxFrameBytes
}

// Names of a frame's metrics besides those that blocks have too.
const (
	headRow         = headerPrefix + "row"
	headAt          = headerPrefix + "at_ns"
	headDevice      = headerPrefix + "device_class"
	headWidth       = headerPrefix + "width"
	headHeight      = headerPrefix + "height"
	headFormat      = headerPrefix + "format"
	headWhy         = headerPrefix + "why"
	headRelease     = headerPrefix + "release"
	headScore       = headerPrefix + "score"
	headClass       = headerPrefix + "class"
	headProbability = headerPrefix + "probability"
	headDigest      = headerPrefix + "sha256"
	headFrame       = headerPrefix + "frame"
)

// maxFrameText bounds the names in a frame: those of image classes may be longer
// than those of signals.
const maxFrameText = 256

// maxSide bounds what a frame may say of its size in pixels.
const maxSide = 1 << 16

// Validate says what is wrong with f; Append and DecodeFrame both insist on it.
func (f *Frame) Validate() error {
	if len(f.Encoded) == 0 || len(f.Encoded) > MaxFrameBytes {
		return fmt.Errorf("frame of %d bytes: want 1 to %d", len(f.Encoded), MaxFrameBytes)
	}
	if f.Width < 1 || f.Height < 1 || f.Width > maxSide || f.Height > maxSide {
		return fmt.Errorf("frame of %d by %d pixels: want 1 to %d", f.Width, f.Height, maxSide)
	}
	if f.Format != JPEG && f.Format != PNG {
		return fmt.Errorf("frame format %q: want %q or %q", f.Format, JPEG, PNG)
	}
	switch f.Why {
	case WhyAll, WhySample, WhyUncertain, WhyFlagged:
	default:
		return fmt.Errorf("frame sent for %q, which nobody knows", f.Why)
	}
	if f.Device == "" {
		return errors.New("frame of no device class")
	}
	for _, text := range []string{f.Device, f.Release, f.Class} {
		if len(text) > maxFrameText || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			return fmt.Errorf("frame's %.40q is not text of at most %d bytes on one line", text, maxFrameText)
		}
	}
	if math.IsNaN(f.Score) || math.IsInf(f.Score, 0) {
		return fmt.Errorf("frame score is %v", f.Score)
	}
	if f.Row > math.MaxInt64 {
		return fmt.Errorf("frame row %d is beyond what a device can count", f.Row)
	}
	if f.At > math.MaxInt64-2*maxSpan || f.At < math.MinInt64+2*maxSpan {
		return fmt.Errorf("frame time %d ns is out of range", f.At)
	}
	if !(f.Probability >= 0 && f.Probability <= 1) {
		return fmt.Errorf("frame probability %v: want 0 to 1", f.Probability)
	}
	return nil
}

// Append appends the encoded frame to dst. It refuses a frame that Validate
// refuses; dst is then returned as it was.
func (f Frame) Append(dst []byte) ([]byte, error) {
	if err := f.Validate(); err != nil {
		return dst, err
	}
	sum := sha256.Sum256(f.Encoded)
	out := dst
	if f.At > 0 {
		out = appendVarint(out, payloadTimestamp, uint64(f.At/1e6))
	}
	out = appendNumber(out, headBoot, UInt64, f.Boot)
	out = appendNumber(out, headRow, UInt64, f.Row)
	out = appendNumber(out, headAt, Int64, uint64(f.At))
	out = appendText(out, headDevice, f.Device)
	out = appendNumber(out, headWidth, UInt32, uint64(f.Width))
	out = appendNumber(out, headHeight, UInt32, uint64(f.Height))
	out = appendText(out, headFormat, f.Format)
	out = appendText(out, headWhy, f.Why)
	if f.Release != "" {
		out = appendText(out, headRelease, f.Release)
	}
	if f.Score != 0 {
		out = appendReal(out, headScore, f.Score)
	}
	if f.Class != "" {
		out = appendText(out, headClass, f.Class)
	}
	if f.Probability != 0 {
		out = appendReal(out, headProbability, f.Probability)
	}
	out = appendBlob(out, headDigest, sum[:])
	return appendBlob(out, headFrame, f.Encoded), nil
}

func appendText(dst []byte, name, text string) []byte {
	return nested(dst, payloadMetric, func(p []byte) []byte {
		p = appendString(p, metricName, name)
		p = appendVarint(p, metricType, uint64(String))
		return appendString(p, metricString, text)
	})
}

func appendReal(dst []byte, name string, v float64) []byte {
	return nested(dst, payloadMetric, func(p []byte) []byte {
		p = appendString(p, metricName, name)
		p = appendVarint(p, metricType, uint64(Double))
		p = protowire.AppendTag(p, metricDouble, protowire.Fixed64Type)
		return protowire.AppendFixed64(p, math.Float64bits(v))
	})
}

func appendBlob(dst []byte, name string, b []byte) []byte {
	return nested(dst, payloadMetric, func(p []byte) []byte {
		p = appendString(p, metricName, name)
		p = appendVarint(p, metricType, uint64(Bytes))
		return appendBytes(p, metricBytes, b)
	})
}

// DecodeFrame reads a frame and compares its picture with the digest that the
// device sent along. Encoded points into p. It does not look into the picture.
// The error says what is wrong with the bytes; such a message can never be read
// by trying again.
func DecodeFrame(p []byte) (Frame, error) {
	var f Frame
	if err := f.decode(p); err != nil {
		return Frame{}, fmt.Errorf("decode frame: %w", err)
	}
	return f, nil
}

func (f *Frame) decode(p []byte) error {
	if len(p) > maxFrameMessage {
		return fmt.Errorf("%d bytes are more than %d", len(p), maxFrameMessage)
	}
	var digest []byte
	seen := map[string]bool{}
	for len(p) > 0 {
		raw, rest, err := nextOf(p, payloadMetric)
		if err != nil {
			return err
		}
		if p = rest; raw == nil {
			break
		}
		var m rawMetric
		if err := m.parse(raw); err != nil {
			return err
		}
		name := string(m.name)
		if seen[name] {
			return fmt.Errorf("metric %.40q comes twice", name)
		}
		known := true
		switch name {
		case headBoot:
			f.Boot = m.number
		case headRow:
			f.Row = m.number
		case headAt:
			f.At = int64(m.number)
		case headDevice:
			f.Device = string(m.data)
		case headWidth:
			f.Width = int(min(m.number, maxSide+1))
		case headHeight:
			f.Height = int(min(m.number, maxSide+1))
		case headFormat:
			f.Format = string(m.data)
		case headWhy:
			f.Why = string(m.data)
		case headRelease:
			f.Release = string(m.data)
		case headScore:
			f.Score, known = m.asDouble()
		case headClass:
			f.Class = string(m.data)
		case headProbability:
			f.Probability, known = m.asDouble()
		case headDigest:
			digest = m.data
		case headFrame:
			f.Encoded = m.data
		default:
			continue // of a newer device
		}
		if !known {
			return fmt.Errorf("metric %q is not a number", name)
		}
		seen[name] = true
	}
	for _, name := range []string{headBoot, headRow, headAt} {
		if !seen[name] {
			return fmt.Errorf("metric %q is missing", name)
		}
	}
	if err := f.Validate(); err != nil {
		return err
	}
	if sum := sha256.Sum256(f.Encoded); !bytes.Equal(digest, sum[:]) {
		return errors.New("the picture is not the one that was sent: its SHA-256 differs")
	}
	return nil
}
