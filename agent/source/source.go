// Package source is where samples come from: the Source interface that every
// driver implements, and the rows it hands over.
//
// The parties are the drivers below this package (replay, synthetic, images and
// later ones for real buses), which read a sensor, a camera or a recording, and the agent's
// pipeline, which reads rows and never knows what made them. A source owns its
// pace: Next blocks until rows are due. The package reads nothing itself.
package source

import (
	"context"
	"fmt"

	"github.com/swellfleet/swell/models/frame"
)

// Channel is one signal of a source.
type Channel struct {
	Name string // unique within the source
	Unit string // UCUM code; empty: unknown or without unit
}

// Rows is one batch of samples, taken together on all channels.
type Rows struct {
	// First is the index of the first row since the source was opened. A jump
	// means that the source itself lost rows.
	First uint64
	// Times are the sample times in nanoseconds since the Unix epoch, UTC, one
	// per row, never falling.
	Times []int64
	// Values hold one slice per channel, in the order of Channels, each as
	// long as Times. The source may reuse them at the next call of Next.
	Values [][]float32
	// Frames are the rows' pictures as JPEG or PNG, one per row, and Pictures
	// the same decoded; the values are then their frame.FeatureChannels. nil for
	// sources that are no camera.
	Frames   [][]byte
	Pictures []frame.Frame
}

// Len is the number of rows.
func (r Rows) Len() int { return len(r.Times) }

// Source delivers rows. Its methods are called from one goroutine.
type Source interface {
	// Open connects to the sensor or the recording. Channels, rate and
	// everything that can be checked is checked here.
	Open(ctx context.Context) error
	// Channels are the signals, in a fixed order. Valid after Open.
	Channels() []Channel
	// RateHz is the nominal number of rows per second; 0: no fixed rate.
	RateHz() float64
	// Next waits for rows and returns at least one. io.EOF means that the
	// source has ended for good; any other error may be answered by Close and
	// Open again.
	Next(ctx context.Context) (Rows, error)
	// Close frees what Open took. Closing twice is harmless.
	Close() error
}

// Camera is a Source whose rows have Frames.
type Camera interface {
	Source
	// Unreadable is how many pictures could not be read and were skipped since
	// the source was made, and why the newest one; nil: none was. It may be
	// called from any goroutine.
	Unreadable() (uint64, error)
}

// CheckChannels reports a channel list that a source must not deliver.
func CheckChannels(chs []Channel) error {
	if len(chs) == 0 {
		return fmt.Errorf("source has no channels: name at least one")
	}
	seen := map[string]bool{}
	for _, c := range chs {
		if c.Name == "" || seen[c.Name] {
			return fmt.Errorf("source channel %q is empty or named twice", c.Name)
		}
		seen[c.Name] = true
	}
	return nil
}
