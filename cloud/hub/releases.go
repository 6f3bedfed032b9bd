package hub

import (
	"context"
	"errors"
	"fmt"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// releases shows what was released to the API.
type releases struct {
	store   release.Store
	objects objects.Store
	builder *release.Builder
}

// Manifest implements api.Releases.
func (r releases) Manifest(ctx context.Context, d artifact.Digest) (artifact.Manifest, error) {
	rel, err := r.store.LoadRelease(ctx, d)
	if errors.Is(err, release.ErrNotFound) {
		return artifact.Manifest{}, registry.ErrNoVersion
	}
	return rel.Manifest, err
}

// Verify implements api.Releases: the checks of the stored files by the code
// that devices run.
func (r releases) Verify(ctx context.Context, d artifact.Digest) ([]apimodel.VerifyCheck, error) {
	checks, err := release.Verify(ctx, r.objects, r.builder.Roots(), d)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return []apimodel.VerifyCheck{{Name: "stored release", Message: err.Error()}}, nil
	}
	out := make([]apimodel.VerifyCheck, len(checks))
	for i, c := range checks {
		out[i] = apimodel.VerifyCheck{Name: c.Name, Ok: c.Err == nil, Message: c.Held}
		if c.Err != nil {
			out[i].Message = c.Err.Error()
		}
	}
	return out, nil
}

// Signatures implements api.Releases.
func (r releases) Signatures(ctx context.Context, d artifact.Digest) ([]apimodel.Signature, error) {
	rel, err := r.store.LoadRelease(ctx, d)
	if err != nil {
		return nil, err
	}
	out := []apimodel.Signature{}
	index := int64(rel.Event)
	for _, k := range r.builder.Roots().Keys() {
		for _, f := range []struct{ form, bundle string }{{"model_signing/v1", trust.SignatureFile}, {"lineage", trust.LineageFile}, {"slsa/v1", trust.SLSAFile}} {
			bundle, signer := f.bundle, "hub"
			out = append(out, apimodel.Signature{KeyID: k.Hint, Form: f.form, Signer: &signer, At: rel.Manifest.Created, Bundle: &bundle, LedgerIndex: &index})
		}
	}
	return out, nil
}

// Command implements api.Releases, as docs/verify.md explains it.
func (r releases) Command(artifact.Digest) string {
	return "cosign verify-blob-attestation --offline --key " + trust.PublicKeyFile + " --trusted-root " + trust.TrustedRootFile +
		" --bundle " + trust.SignatureFile + " --type " + trust.PredicateRelease + " " + trust.DigestsFile
}

// PublishModel signs, records, publishes and registers a candidate that did not
// come from a night of this hub, under its real key. It proposes no rollout.
// Whether the model is sound is not looked at: the gates and the devices do.
func (h *Hub) PublishModel(ctx context.Context, c release.Candidate) (release.Release, error) {
	made, err := h.builder.Build(ctx, c)
	if err != nil {
		return release.Release{}, err
	}
	v := registry.Version{
		Family: c.Name, Counter: made.Manifest.Counter, Release: made.Digest, Stage: registry.Released, Created: made.Manifest.Created, Reason: c.Reason,
		Lineage: registry.Lineage{Lineage: c.Lineage}, Card: c.Card, Expected: c.Expected,
	}
	for _, variant := range made.Manifest.Variants {
		if f, ok := variant.File(artifact.RoleModel); ok {
			v.Models = append(v.Models, registry.Model{Classes: variant.Classes, Kind: "imported", Digest: f.Digest, Bytes: f.Size})
		}
	}
	if err := h.db.Registry().SaveVersion(ctx, v); err != nil {
		return release.Release{}, fmt.Errorf("register %s: %w", made.Manifest.ID(), err)
	}
	return made, nil
}
