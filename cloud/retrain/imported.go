package retrain

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/swellfleet/swell/cloud/garden"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// A policy names a model of the garden as a kind that competes: garden:NAME,
// or garden:NAME:raw for a network that wants engineering units.
const (
	importedPrefix = "garden:"
	rawSuffix      = ":raw"
)

// importedOf returns the model of the garden that a kind names.
func importedOf(kind string) (name string, raw, imported bool) {
	name, imported = strings.CutPrefix(kind, importedPrefix)
	name, raw = strings.CutSuffix(name, rawSuffix)
	return name, raw, imported
}

// validImport says what is wrong with a kind that names a model of the garden.
func validImport(kind string) error {
	name, _, _ := importedOf(kind)
	if err := topic.ValidName(name); err != nil {
		return fmt.Errorf("detector %q: want %sNAME or %sNAME%s: %w", kind, importedPrefix, importedPrefix, rawSuffix, err)
	}
	return nil
}

// imported is the newest version of a model of the garden.
func (s *Service) imported(ctx context.Context, name string) (registry.Version, error) {
	vs, err := s.cfg.Registry.Versions(ctx, name, 0, 1)
	if err != nil {
		return registry.Version{}, fmt.Errorf("find %s in the model garden: %w", name, err)
	}
	if len(vs) == 0 || vs[0].Import == nil || len(vs[0].Models) == 0 {
		return registry.Version{}, fmt.Errorf("%w: %s is not in the model garden: import it first", zoo.ErrData, name)
	}
	return vs[0], nil
}

// usableImport says why a policy's kind cannot be used for sensors.
func (s *Service) usableImport(ctx context.Context, kind string) error {
	name, _, _ := importedOf(kind)
	v, err := s.imported(ctx, name)
	if err == nil && v.Models[0].Kind == garden.Backbone {
		err = fmt.Errorf("%s reads pictures: name it as images.backbone", name)
	}
	return err
}

// fitImported makes a candidate of a model of the garden: a network is
// adapted, a model with a contract is taken as it is.
func (s *Service) fitImported(ctx context.Context, o Order, snap Snapshot, c ClassData, kind string, d artifact.Digest, cfg zoo.Config) (*zoo.Fitted, error) {
	name, raw, _ := importedOf(kind)
	model, err := s.getModel(ctx, d)
	if err != nil {
		return nil, err
	}
	ds, err := s.dataset(ctx, snap, c, 0, false)
	if err != nil {
		return nil, err
	}
	var f *zoo.Fitted
	if _, own := contractOf(model); own == nil {
		f, err = adopt(model, ds)
	} else {
		cfg.Network, cfg.RawValues = model, raw
		f, err = s.fitModel(ctx, o, zoo.Network, ds, cfg)
	}
	if err != nil {
		return nil, err
	}
	f.Kind = kind
	if f.Card == nil {
		f.Card = map[string]any{}
	}
	f.Card["garden"] = map[string]any{"name": name, "digest": d}
	return f, nil
}

// adopt checks that a model with a contract fits the class's devices.
func adopt(model []byte, ds zoo.Dataset) (*zoo.Fitted, error) {
	c, err := onnx.Check(model, onnx.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", zoo.ErrData, err)
	}
	if err := reads(c, ds); err != nil {
		return nil, fmt.Errorf("%w: %w", zoo.ErrData, err)
	}
	if err := warmRun(model, c, ds); err != nil {
		return nil, fmt.Errorf("%w: %w", zoo.ErrData, err)
	}
	return &zoo.Fitted{ONNX: model, Contract: c, Threshold: c.Threshold}, nil
}

// reads says why a model with contract c is not one for devices with the
// channels and the rate of ds.
func reads(c contract.Contract, ds zoo.Dataset) error {
	if c.Image != nil || len(c.Channels) != len(ds.Channels) {
		return fmt.Errorf("it reads %d channels, the dataset has %d", len(c.Channels), len(ds.Channels))
	}
	for i, ch := range ds.Channels {
		if c.Channels[i] != ch {
			return fmt.Errorf("its channel %d is %q in %q, the dataset has %q in %q", i, c.Channels[i].Name, c.Channels[i].Unit, ch.Name, ch.Unit)
		}
	}
	if c.SampleRateHz > 0 && ds.SampleRateHz > 0 && math.Abs(c.SampleRateHz-ds.SampleRateHz) > ds.SampleRateHz/100 {
		return fmt.Errorf("it is for %g rows a second, the dataset has %g", c.SampleRateHz, ds.SampleRateHz)
	}
	return nil
}
