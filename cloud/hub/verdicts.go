package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/swellfleet/swell/cloud/segments"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// Verdict is what a device said about one window, as the hub stored it.
type Verdict struct {
	Row     uint64 // of the window's last row in the device's stream
	Time    time.Time
	Score   float64
	Flag    bool
	Release uint64 // counter of the release that said so
	// Class is the place of an image's likeliest class in the model's list, and
	// Probability how likely; -1: the model tells no classes.
	Class       int
	Probability float64
}

// Verdicts calls yield with every verdict of a device that the hub has
// acknowledged, by row; a row that came twice is given once.
func (h *Hub) Verdicts(ctx context.Context, id topic.ID, yield func(Verdict)) error {
	parts, err := h.Stored(ctx, id, telemetry.Verdicts)
	if err != nil {
		return err
	}
	seen := map[uint64]bool{}
	for _, c := range parts {
		column := map[string][]float32{}
		for _, sig := range c.Signals {
			column[sig.Name] = sig.Values
		}
		score, flag, rel := column[telemetry.Score], column[telemetry.Flag], column[telemetry.Release]
		if score == nil || flag == nil || rel == nil {
			return fmt.Errorf("verdicts of %s: a segment has no column %s, %s or %s", id, telemetry.Score, telemetry.Flag, telemetry.Release)
		}
		class, probability := column[telemetry.Class], column[telemetry.Probability]
		for i, row := range c.Rows {
			if seen[row] {
				continue
			}
			seen[row] = true
			v := Verdict{Row: row, Time: time.Unix(0, c.Times[i]).UTC(), Score: float64(score[i]), Flag: flag[i] != 0, Release: uint64(rel[i]), Class: -1}
			if class != nil && probability != nil && class[i] >= 0 { // NaN: a row of another model
				v.Class, v.Probability = int(class[i]), float64(probability[i])
			}
			yield(v)
		}
	}
	return nil
}

// Stored returns every row of a stream of a device that the hub has
// acknowledged and still keeps, a segment a part; a row that came twice may be
// in two of them.
func (h *Hub) Stored(ctx context.Context, id topic.ID, stream telemetry.Stream) ([]segments.Columns, error) {
	if err := h.keeper.Flush(ctx); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", stream, id, err)
	}
	list, err := h.keeper.List(ctx, time.Time{}, time.Now().AddDate(10, 0, 0), segments.Filter{Site: id.Site, Node: id.Node, Stream: string(stream)})
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", stream, id, err)
	}
	out := make([]segments.Columns, len(list))
	for i, s := range list {
		if out[i], err = h.keeper.Read(ctx, s); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", stream, id, err)
		}
	}
	return out, nil
}

// Rows returns how many rows of a device, samples and verdicts together, the
// hub has acknowledged since it started.
func (h *Hub) Rows(ctx context.Context, id topic.ID) (uint64, error) {
	st, err := h.ingest.Stats(ctx, id)
	return st.Rows, err
}

// ModelContract returns what the model of a device class promises, in the
// newest version of a family.
func (h *Hub) ModelContract(ctx context.Context, family string, class artifact.Class) (contract.Contract, error) {
	versions, err := h.db.Registry().Versions(ctx, family, 0, 1)
	if err != nil {
		return contract.Contract{}, fmt.Errorf("model of class %s: %w", class, err)
	}
	if len(versions) == 0 {
		return contract.Contract{}, fmt.Errorf("model of class %s: family %s has no version", class, family)
	}
	m, ok := versions[0].ModelFor(class)
	if !ok {
		return contract.Contract{}, fmt.Errorf("model of class %s: %s-%d has none", class, family, versions[0].Counter)
	}
	r, _, err := h.objects.Get(ctx, "models/"+m.Digest.Hex()+".onnx", 0, -1)
	if err != nil {
		return contract.Contract{}, fmt.Errorf("model of class %s: %w", class, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModelBytes))
	if err = errors.Join(err, r.Close()); err != nil {
		return contract.Contract{}, fmt.Errorf("model of class %s: %w", class, err)
	}
	return onnx.Check(b, onnx.Limits{})
}

// maxModelBytes caps a model read back from object storage.
const maxModelBytes = 256 << 20
