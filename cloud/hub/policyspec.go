package hub

import (
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/models/zoo"
)

func rangesSpec(in map[string]retrain.Range) *map[string]apimodel.ValueRange {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]apimodel.ValueRange, len(in))
	for channel, r := range in {
		out[channel] = apimodel.ValueRange{Min: r.Min, Max: r.Max}
	}
	return &out
}

func rangesOf(in *map[string]apimodel.ValueRange) map[string]retrain.Range {
	if in == nil || len(*in) == 0 {
		return nil
	}
	out := make(map[string]retrain.Range, len(*in))
	for channel, r := range *in {
		out[channel] = retrain.Range{Min: r.Min, Max: r.Max}
	}
	return out
}

// imageSpec writes how images are learned; nil when all takes its default.
func imageSpec(p retrain.ImagePolicy) *apimodel.ImageSpec {
	f := p.Fit
	return given(apimodel.ImageSpec{
		Normal: list(p.Normal), MinPerClass: given(p.MinPerClass), MaxUnlabelled: given(p.MaxUnlabelled), HoldOut: given(p.HoldOut), Backbone: given(p.Backbone),
		Fit: given(apimodel.ImageFitSpec{
			Height: given(f.Height), Width: given(f.Width), HoldOut: given(f.HoldOut), FalseAlarms: given(f.FalseAlarms), Channels: given(f.Channels),
			Epochs: given(f.Epochs), BatchSize: given(f.BatchSize), LearningRate: given(f.LearningRate), Smoothing: given(f.Smoothing), Patience: given(f.Patience), Upright: given(f.Upright),
		}),
	})
}

func imagePolicyOf(s apimodel.ImageSpec) retrain.ImagePolicy {
	f := deref(s.Fit)
	return retrain.ImagePolicy{
		Normal: deref(s.Normal), MinPerClass: deref(s.MinPerClass), MaxUnlabelled: deref(s.MaxUnlabelled), HoldOut: deref(s.HoldOut), Backbone: deref(s.Backbone),
		Fit: zoo.ImageConfig{
			Height: deref(f.Height), Width: deref(f.Width), HoldOut: deref(f.HoldOut), FalseAlarms: deref(f.FalseAlarms), Channels: deref(f.Channels),
			Epochs: deref(f.Epochs), BatchSize: deref(f.BatchSize), LearningRate: deref(f.LearningRate), Smoothing: deref(f.Smoothing), Patience: deref(f.Patience), Upright: deref(f.Upright),
		},
	}
}
