package api

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
)

// Garden takes models in from outside.
type Garden interface {
	List(ctx context.Context) ([]apimodel.GardenModel, error)
	// Import checks, adapts and stores a model. What is wrong with the file
	// wraps ErrInvalid.
	Import(ctx context.Context, i GardenImport) (apimodel.GardenModel, error)
}

// GardenImport is a model that somebody brings: from URL, or as bytes.
type GardenImport struct {
	Name   string
	URL    string // https; empty: Bytes holds the file
	Bytes  []byte
	By     string // as in the ledger
	Reason string
}

// errNoGarden answers on a hub without a garden.
var errNoGarden = problem{status: http.StatusServiceUnavailable, name: "not-this-hub", detail: "this hub takes no models in: ask one that has the role trainer"}

// ListGarden lists imported models.
func (s *Server) ListGarden(ctx context.Context, _ apigen.ListGardenRequestObject) (apigen.ListGardenResponseObject, error) {
	if s.cfg.Garden == nil {
		return nil, errNoGarden
	}
	list, err := s.cfg.Garden.List(ctx)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []apimodel.GardenModel{}
	}
	return apigen.ListGarden200JSONResponse(apimodel.GardenList{Items: list}), nil
}

// ImportGardenModel takes a model in.
func (s *Server) ImportGardenModel(ctx context.Context, r apigen.ImportGardenModelRequestObject) (apigen.ImportGardenModelResponseObject, error) {
	if s.cfg.Garden == nil {
		return nil, errNoGarden
	}
	in := GardenImport{Name: r.Params.Name, URL: value(r.Params.URL), By: callerOf(ctx).Actor(), Reason: value(r.Params.Reason)}
	if r.Body != nil {
		var err error
		in.Bytes, err = io.ReadAll(r.Body)
		if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, large
		} else if err != nil {
			return nil, invalid("the model did not arrive whole: " + err.Error())
		}
	}
	if (in.URL == "") == (len(in.Bytes) == 0) {
		return nil, invalid("give either url or the file as the body", apimodel.FieldError{Field: "url", Message: "one of url and body"})
	}
	if err := s.audit(ctx, "model.import", "GardenModel/"+in.Name, in.Reason, nil); err != nil {
		return nil, err
	}
	m, err := s.cfg.Garden.Import(ctx, in)
	if err != nil {
		return nil, err
	}
	s.cfg.Stream.Publish(Change{Kind: "Model", Name: in.Name})
	return apigen.ImportGardenModel201JSONResponse(m), nil
}
