// Package feedback keeps what people say of what devices saw: the frames that
// devices uploaded because a model was unsure of them, and the labels that
// operators give to frames and to stretches of a device's time.
//
// The parties are the devices, whose frames cloud/frames hands in once their
// bytes are durable; people, who label through cloud/api; and the night
// (cloud/retrain), which learns from both. Storage is behind Store, implemented
// by cloud/store; Service is the door for people and checks what they say.
//
// It promises that a label names a device or a frame that exists, that every
// act of labelling is in the audit log before it counts, and that the newest
// word of a person on a target replaces that person's older one. The bytes of
// frames are in object storage under Frame.Key. cloud packages may import it.
package feedback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Frame is one image that a device uploaded, without its bytes. The same
// picture of the same device is one frame, however often it is sent.
type Frame struct {
	Device topic.ID        `json:"device"`
	Class  artifact.Class  `json:"class"` // device class at that time
	Row    uint64          `json:"row"`   // index in the device's stream
	At     time.Time       `json:"at"`
	Digest artifact.Digest `json:"digest"` // of the encoded bytes
	Bytes  int             `json:"bytes"`  // encoded
	Width  int             `json:"width"`  // pixels
	Height int             `json:"height"`
	Format string          `json:"format"` // "jpg" or "png"
	Why    string          `json:"why"`    // why the device sent it: "all", "sample", "uncertain" or "flagged"
	// Release scored it; empty: none did, and what follows means nothing.
	Release string  `json:"release,omitempty"`
	Score   float64 `json:"score,omitempty"` // 1 is the threshold
	// Top is the most probable class; empty for a model that knows good parts only.
	Top            string  `json:"top,omitempty"`
	TopProbability float64 `json:"top_probability,omitempty"`
}

// Key is the name of the frame's bytes in object storage.
func (f Frame) Key() string {
	ext := "jpg"
	if f.Format == "png" {
		ext = "png"
	}
	return FramePrefix + f.Digest.Hex() + "." + ext
}

// FramePrefix begins the key of every frame.
const FramePrefix = "frames/"

// Cursor is the place of the frame in the order of Store.Frames, for Query.After.
func (f Frame) Cursor() string { return cursor(f.At, f.Identity()) }

// Identity orders frames of one moment and tells them apart.
func (f Frame) Identity() string { return f.Digest.Hex() + " " + f.Device.String() }

// The values of a label beside the names of image classes.
const (
	Anomaly = "anomaly"
	Normal  = "normal"
	Unsure  = "unsure" // looked at and not decided; nothing is learned from it
)

// Label is what a person said of a stretch of time of a device, or of a frame.
type Label struct {
	Device topic.ID        `json:"device"` // of a frame: the device that sent it first
	Class  artifact.Class  `json:"class"`  // device class at that time; Service fills it in
	From   time.Time       `json:"from"`   // of a frame: when it was taken, as To
	To     time.Time       `json:"to"`
	Frame  artifact.Digest `json:"frame,omitempty"` // empty: a stretch of time
	Value  string          `json:"value"`           // Anomaly, Normal, Unsure or, for frames, a class name
	By     string          `json:"by"`              // as in the ledger: "user:NAME"
	Reason string          `json:"reason,omitempty"`
	At     time.Time       `json:"at"` // when it was said
}

// Target says what the label is about and who said it: labels with equal
// targets replace one another.
func (l Label) Target() string {
	if l.Frame != "" {
		return "frame " + l.Frame.Hex() + " " + l.By
	}
	return fmt.Sprintf("stretch %s %d %d %s", l.Device, l.From.UnixNano(), l.To.UnixNano(), l.By)
}

// Cursor is the place of the label in the order of Store.Labels, for Query.After.
func (l Label) Cursor() string { return cursor(l.From, l.Target()) }

func cursor(at time.Time, key string) string {
	return strconv.FormatInt(at.UnixNano(), 10) + "." + key
}

// Query selects frames or labels. The zero value selects all, up to MaxPage.
type Query struct {
	Device     *topic.ID        // nil: every device
	Classes    []artifact.Class // device classes; empty: all
	From, To   time.Time        // overlapping this interval; To is not part of it; zero: open
	Unlabelled bool             // only frames without any label; Labels ignores it
	After      string           // a Cursor: only what comes behind it; Queue ignores it
	Limit      int              // 0 or more than MaxPage: MaxPage
}

// MaxPage bounds the answers of a Store.
const MaxPage = 10_000

// Place reads After. An empty one is before everything.
func (q Query) Place() (at time.Time, key string, err error) {
	if q.After == "" {
		return time.Time{}, "", nil
	}
	ns, key, ok := strings.Cut(q.After, ".")
	n, err := strconv.ParseInt(ns, 10, 64)
	if err != nil || !ok {
		return time.Time{}, "", fmt.Errorf("%w: cursor %q was not given by an earlier page", ErrInvalid, q.After)
	}
	return time.Unix(0, n).UTC(), key, nil
}

// Page is Limit within its bounds.
func (q Query) Page() int {
	if q.Limit <= 0 {
		return MaxPage
	}
	return min(q.Limit, MaxPage)
}

// Errors a caller branches on.
var (
	// ErrNoFrame means that no frame has the digest.
	ErrNoFrame = errors.New("no such frame")
	// ErrInvalid wraps what is wrong with a label or a query; the text says how
	// to mend it.
	ErrInvalid = errors.New("not a usable label")
)

// Store keeps frames and labels. Every method is atomic and durable on return,
// and safe for concurrent use. It passes feedbacktest.Exercise.
type Store interface {
	// AddFrame catalogues a frame whose bytes are durable. fresh is false when
	// the device sent this picture before; the first stays.
	AddFrame(ctx context.Context, f Frame) (fresh bool, err error)
	// Frame returns the first frame with a digest, or ErrNoFrame.
	Frame(ctx context.Context, d artifact.Digest) (Frame, error)
	// Frames lists frames by At, then Identity.
	Frames(ctx context.Context, q Query) ([]Frame, error)
	// RemoveFrames forgets frames; what is gone already is no error. Labels stay.
	RemoveFrames(ctx context.Context, ds []artifact.Digest) error
	// AddLabels stores labels, all or none. The newest of a person on a target
	// replaces the older; an older one changes nothing.
	AddLabels(ctx context.Context, ls []Label) error
	// Labels lists labels by From, then Target.
	Labels(ctx context.Context, q Query) ([]Label, error)
	// Queue returns unlabelled frames, the most instructive first; see Order.
	Queue(ctx context.Context, q Query) ([]Frame, error)
}

// CompareFrames is the order of Store.Frames.
func CompareFrames(a, b Frame) int {
	return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Identity(), b.Identity()))
}

// CompareLabels is the order of Store.Labels.
func CompareLabels(a, b Label) int {
	return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Target(), b.Target()))
}
