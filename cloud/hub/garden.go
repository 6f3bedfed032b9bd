package hub

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/garden"
	"github.com/swellfleet/swell/cloud/registry"
)

// plant takes in the models that the configuration names.
func (h *Hub) plant(ctx context.Context) error {
	for _, m := range h.cfg.Training.Garden {
		b, err := os.ReadFile(m.File)
		if err != nil {
			return fmt.Errorf("training.garden: %s: %w", m.Name, err)
		}
		v, err := h.garden.Import(ctx, garden.Source{Name: m.Name, Bytes: b, By: "configuration", Reason: m.Reason})
		if err != nil {
			return fmt.Errorf("training.garden: %s (%s): %w", m.Name, m.File, err)
		}
		h.log.Info("model of the garden", "name", m.Name, "version", v.Counter, "kind", v.Models[0].Kind, "reads", v.Import.Input)
	}
	return nil
}

// imports answers api.Garden in the contract's words.
type imports struct{ garden *garden.Garden }

// List implements api.Garden.
func (i imports) List(ctx context.Context) ([]apimodel.GardenModel, error) {
	vs, err := i.garden.List(ctx)
	out := make([]apimodel.GardenModel, len(vs))
	for n, v := range vs {
		out[n] = gardenModel(v)
	}
	return out, err
}

// Import implements api.Garden.
func (i imports) Import(ctx context.Context, in api.GardenImport) (apimodel.GardenModel, error) {
	v, err := i.garden.Import(ctx, garden.Source{Name: in.Name, URL: in.URL, Bytes: in.Bytes, By: in.By, Reason: in.Reason})
	if errors.Is(err, garden.ErrInvalid) {
		err = fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	if err != nil {
		return apimodel.GardenModel{}, err
	}
	return gardenModel(v), nil
}

func gardenModel(v registry.Version) apimodel.GardenModel {
	m := v.Models[0]
	out := apimodel.GardenModel{
		Name: v.Family, At: v.Created, By: given(v.Import.By), Bytes: m.Bytes, Digest: apimodel.Digest(m.Digest), Source: given(v.Import.Source),
		Input: given(v.Import.Input), Outputs: list(v.Import.Outputs), Stage: string(v.Stage), Notes: []string{"kind: " + m.Kind},
	}
	out.Notes = append(out.Notes, v.Import.Notes...)
	return out
}
