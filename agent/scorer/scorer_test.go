package scorer_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
)

func TestModelLivesUntilItsLastHolderLetsGo(t *testing.T) {
	var s scorer.Scorer
	model := agenttest.Model{Window: 4}.ONNX()
	m, err := s.Load(model, scorer.Release{Name: "m", Counter: 1}, runtime.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Release.Model != artifact.Of(model) || s.Loaded() != 1 {
		t.Errorf("%+v, %d loaded", m.Release, s.Loaded())
	}
	var work sync.WaitGroup
	for range 8 {
		m.Hold()
		work.Go(func() {
			defer m.Let()
			var out runtime.Result
			for range 200 {
				if err := m.Score(make([]float32, 8), &out); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	m.Let()
	work.Wait()
	s.Wait()
	if s.Loaded() != 0 {
		t.Errorf("%d models are still loaded", s.Loaded())
	}
	defer func() {
		if recover() == nil {
			t.Error("a model was let go of more often than held, and nobody noticed")
		}
	}()
	m.Let()
}

func TestBytesThatAreNoModelAreRefused(t *testing.T) {
	var s scorer.Scorer
	if _, err := s.Load([]byte("x"), scorer.Release{Name: "m", Counter: 7}, runtime.Options{}); err == nil || !strings.Contains(err.Error(), "release m-7") {
		t.Errorf("error %v", err)
	}
	if s.Loaded() != 0 {
		t.Error("it counts as loaded")
	}
}

func TestQuantilesAreWithinABucketOfTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ns := rapid.SliceOfN(rapid.Int64Range(1, int64(time.Minute)), 1, 200).Draw(t, "ns")
		var l scorer.Latencies
		for _, n := range ns {
			l.Add(time.Duration(n))
		}
		var most int64
		for _, n := range ns {
			most = max(most, n)
		}
		top := float64(l.Quantile(1))
		if top < float64(most)*0.99 || top > float64(most)*1.07+16 {
			t.Fatalf("the longest was %d, the histogram says %v", most, top)
		}
		if l.Quantile(0.5) > l.Quantile(0.99) {
			t.Fatalf("median %v, p99 %v", l.Quantile(0.5), l.Quantile(0.99))
		}
	})
}
