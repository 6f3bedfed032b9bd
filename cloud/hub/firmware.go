package hub

import (
	"context"
	"errors"
	"fmt"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/cloud/store"
)

// PublishFirmware implements api.Releases.
func (r releases) PublishFirmware(ctx context.Context, f api.Firmware) (apimodel.ReleaseRef, error) {
	rel, err := r.builder.Publish(ctx, release.Program{
		Name: f.Name, Classes: f.Classes, Arch: f.Arch, Bytes: f.Program, Version: f.Version, Actor: f.Author, Reason: f.Reason,
	})
	if errors.Is(err, release.ErrOtherKind) {
		err = fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	if err != nil {
		return apimodel.ReleaseRef{}, err
	}
	m := rel.Manifest
	return apimodel.ReleaseRef{Kind: apimodel.ReleaseKindFirmware, ID: m.ID(), Name: m.Name, Counter: int64(m.Counter), Digest: string(rel.Digest)}, nil
}
