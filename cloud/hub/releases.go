package hub

import (
	"context"
	"errors"

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

// Verify implements api.Releases: the check of the stored files by the code
// that devices run.
func (r releases) Verify(ctx context.Context, d artifact.Digest) ([]apimodel.VerifyCheck, error) {
	check := apimodel.VerifyCheck{Name: "stored release", Ok: true, Message: "digests, signatures and the ledger's receipts of every stored file hold, and no file is missing or extra"}
	if err := release.Verify(ctx, r.objects, r.builder.Roots(), d); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		check.Ok, check.Message = false, err.Error()
	}
	return []apimodel.VerifyCheck{check}, nil
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

// Command implements api.Releases.
func (r releases) Command(artifact.Digest) string {
	return "cosign verify-blob-attestation --bundle " + trust.SignatureFile + " --key " + trust.PublicKeyFile + " --trusted-root " + trust.TrustedRootFile +
		" --type https://model_signing/signature/v1.0 " + trust.DigestsFile
}

// PublishModel signs, records and publishes a candidate that did not come from
// a night of this hub, under its real key. It proposes no rollout.
func (h *Hub) PublishModel(ctx context.Context, c release.Candidate) (release.Release, error) {
	return h.builder.Build(ctx, c)
}
