package api

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/protocol/artifact"
)

// PublishFirmware releases a build of the agent.
func (s *Server) PublishFirmware(ctx context.Context, r apigen.PublishFirmwareRequestObject) (apigen.PublishFirmwareResponseObject, error) {
	program, err := io.ReadAll(r.Body)
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, large
	} else if err != nil {
		return nil, invalid("the program did not arrive whole: " + err.Error())
	}
	if len(program) == 0 {
		return nil, invalid("the body is empty: send the program itself", apimodel.FieldError{Field: "body", Message: "empty"})
	}
	f := Firmware{
		Name: "swell-agent", Arch: string(r.Params.Arch), Version: r.Params.Version, Program: program,
		Author: callerOf(ctx).Actor(), Reason: value(r.Params.Reason),
	}
	if r.Params.Name != nil {
		f.Name = *r.Params.Name
	}
	for _, c := range r.Params.Class {
		f.Classes = append(f.Classes, artifact.Class(c))
	}
	ref, err := s.cfg.Releases.PublishFirmware(ctx, f)
	if err != nil {
		return nil, err
	}
	s.cfg.Stream.Publish(Change{Kind: "AuditEvent"})
	return apigen.PublishFirmware201JSONResponse(ref), nil
}
