package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/cloud/segments"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// nightData gives the night the raw segments, the images of cameras and what
// people said of both.
type nightData struct {
	keeper   *segments.Keeper
	feedback feedback.Store
}

func (d nightData) Flush(ctx context.Context) error { return d.keeper.Flush(ctx) }

func (d nightData) Segments(ctx context.Context, from, to time.Time) ([]retrain.Segment, error) {
	list, err := d.keeper.List(ctx, from, to, segments.Filter{Stream: string(telemetry.Raw)})
	if err != nil {
		return nil, err
	}
	out := make([]retrain.Segment, len(list))
	for i, s := range list {
		out[i] = retrain.Segment{
			Key: s.Key, Digest: artifact.Digest("sha256:" + s.Digest), Device: topic.ID{Site: s.Site, Node: s.Node},
			First: s.First, Rows: s.Rows, From: time.Unix(0, s.From).UTC(), To: time.Unix(0, s.To).UTC(),
		}
	}
	return out, nil
}

func (d nightData) Read(ctx context.Context, s retrain.Segment) (retrain.Columns, error) {
	c, err := d.keeper.Read(ctx, segments.Segment{
		Key: s.Key, Digest: s.Digest.Hex(), Site: s.Device.Site, Node: s.Device.Node, Stream: string(telemetry.Raw),
		First: s.First, Rows: s.Rows, From: s.From.UnixNano(), To: s.To.UnixNano(),
	})
	if errors.Is(err, segments.ErrDamaged) {
		return retrain.Columns{}, fmt.Errorf("%w: %w", retrain.ErrDamaged, err)
	}
	if err != nil {
		return retrain.Columns{}, err
	}
	out := retrain.Columns{Rows: c.Rows, Times: c.Times}
	for _, sig := range c.Signals {
		out.Signals = append(out.Signals, retrain.Signal{Name: sig.Name, Unit: sig.Unit, Values: sig.Values})
	}
	return out, nil
}

func (d nightData) Frames(ctx context.Context, from, to time.Time) (out []feedback.Frame, err error) {
	q := feedback.Query{From: from, To: to}
	for {
		page, err := d.feedback.Frames(ctx, q)
		out = append(out, page...)
		if err != nil || len(page) < q.Page() {
			return out, err
		}
		q.After = page[len(page)-1].Cursor()
	}
}

func (d nightData) Labels(ctx context.Context, from, to time.Time) (out []feedback.Label, err error) {
	q := feedback.Query{From: from, To: to}
	for {
		page, err := d.feedback.Labels(ctx, q)
		out = append(out, page...)
		if err != nil || len(page) < q.Page() {
			return out, err
		}
		q.After = page[len(page)-1].Cursor()
	}
}

// nightFleet gives the night the devices it learns from.
type nightFleet struct{ fleet *fleet.Registry }

func (f nightFleet) Devices(_ context.Context, which string) ([]retrain.Device, error) {
	sel, err := selector.Parse(which)
	if err != nil {
		return nil, err
	}
	var out []retrain.Device
	for d := range f.fleet.All {
		if !d.Retired() && sel.Match(d.Look) {
			line, _ := d.Look("line")
			out = append(out, retrain.Device{ID: d.ID, Class: d.Class, Line: line})
		}
	}
	return out, nil
}

// nightReleaser packages and signs what the night blessed.
type nightReleaser struct{ builder *release.Builder }

func (r nightReleaser) Release(ctx context.Context, p retrain.Package) (retrain.Released, error) {
	c := release.Candidate{
		Name: p.Family, Kind: artifact.Model, Lineage: p.Lineage, Expected: p.Expected, Card: p.Card, Evaluation: p.Evaluation,
		Actor: "hub", Reason: "blessed by run " + p.Run,
	}
	for _, v := range p.Variants {
		golden, err := json.Marshal(v.Golden)
		if err != nil {
			return retrain.Released{}, fmt.Errorf("encode golden vectors: %w", err)
		}
		// One folder a variant, named for its first class.
		folder := string(v.Classes[0])
		c.Variants = append(c.Variants, release.Variant{Classes: v.Classes, Limits: v.Limits, Files: []release.File{
			release.Bytes(folder+"/model.onnx", artifact.RoleModel, v.Model),
			release.Bytes(folder+"/golden.json", artifact.RoleGolden, golden),
		}})
	}
	made, err := r.builder.Build(ctx, c)
	if err != nil {
		return retrain.Released{}, err
	}
	return retrain.Released{Counter: made.Manifest.Counter, Manifest: made.Digest}, nil
}
