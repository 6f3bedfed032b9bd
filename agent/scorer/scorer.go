// Package scorer owns the models a device has loaded: it loads them, scores
// with them, measures how long that takes, and frees each when its last user
// has let go.
//
// The parties are agent/apply, which loads and tests a model, and the pipeline,
// which holds the champion and perhaps a challenger and scores with them. A
// model is freed, and its memory given back, away from the goroutine that let
// go of it last, so that a swap costs the pipeline a pointer. Scoring allocates
// nothing.
package scorer

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Release says which release a model came from.
type Release struct {
	Name     string
	Counter  uint64
	Manifest artifact.Digest
	Model    artifact.Digest // of the bytes it was loaded from
}

// String returns "name-counter".
func (r Release) String() string { return fmt.Sprintf("%s-%d", r.Name, r.Counter) }

// Scorer is the owner of all models of one device. The zero value is ready.
type Scorer struct {
	closing sync.WaitGroup
	loaded  atomic.Int64
}

// Model is one loaded model. It starts with one holder, who loaded it.
type Model struct {
	Release Release // not to be changed

	owner   *Scorer
	session *runtime.Session
	holders atomic.Int64
}

// Load checks model bytes, makes a session of them and runs it once. The
// digest in the result is that of these very bytes.
func (s *Scorer) Load(model []byte, r Release, o runtime.Options) (*Model, error) {
	r.Model = artifact.Of(model)
	session, err := runtime.Load(model, o)
	if err != nil {
		return nil, fmt.Errorf("load model of release %s-%d: %w", r.Name, r.Counter, err)
	}
	m := &Model{Release: r, owner: s, session: session}
	m.holders.Store(1)
	s.loaded.Add(1)
	return m, nil
}

// Loaded is how many models are in memory.
func (s *Scorer) Loaded() int { return int(s.loaded.Load()) }

// Wait returns when every model that was let go of has been freed.
func (s *Scorer) Wait() { s.closing.Wait() }

// Contract is what the model promises.
func (m *Model) Contract() contract.Contract { return m.session.Contract() }

// Score computes the verdict on one window; see runtime.Session.Score.
func (m *Model) Score(window []float32, out *runtime.Result) error {
	return m.session.Score(window, out)
}

// ScoreImage computes the verdict on one image; see
// runtime.Session.ScoreImage.
func (m *Model) ScoreImage(pixels []byte, out *runtime.Result) error {
	return m.session.ScoreImage(pixels, out)
}

// Hold adds a holder. The caller must be one.
func (m *Model) Hold() *Model {
	m.holders.Add(1)
	return m
}

// Let ends one hold. With the last one the model is freed soon.
func (m *Model) Let() {
	switch n := m.holders.Add(-1); {
	case n < 0:
		panic("scorer: a model was let go of more often than held")
	case n == 0:
		m.owner.closing.Add(1)
		go func() {
			defer m.owner.closing.Done()
			// What Close could report is that native memory was not freed;
			// there is nobody to act on it.
			_ = m.session.Close()
			runtime.TrimMemory()
			m.owner.loaded.Add(-1)
		}()
	}
}

// Latencies is a histogram of durations with buckets at most 6 % wide. The
// zero value is empty. It is not safe for concurrent use.
type Latencies struct {
	count   uint64
	buckets [octaves * perOctave]uint32
}

const (
	perOctave = 16
	octaves   = 36 // up to 68 s
)

// Add counts one duration.
func (l *Latencies) Add(d time.Duration) {
	n := uint64(max(d, 1))
	octave := bits.Len64(n) - 1
	var sub uint64
	if octave >= 4 {
		sub = n >> (octave - 4) & (perOctave - 1)
	} else {
		sub = n << (4 - octave) & (perOctave - 1)
	}
	i := min(octave*perOctave+int(sub), len(l.buckets)-1)
	l.buckets[i]++
	l.count++
}

// Quantile returns the upper edge of the bucket that holds quantile q in (0, 1];
// 0 when empty.
func (l *Latencies) Quantile(q float64) time.Duration {
	if l.count == 0 {
		return 0
	}
	rank := uint64(q * float64(l.count))
	if rank >= l.count {
		rank = l.count - 1
	}
	var seen uint64
	for i, n := range l.buckets {
		if seen += uint64(n); seen > rank {
			octave, sub := i/perOctave, i%perOctave
			return time.Duration(float64(uint64(1)<<octave) * (1 + float64(sub+1)/perOctave))
		}
	}
	return 0
}
