package apply

import (
	"context"
	"fmt"
	"path"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/health"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// maxModelBytes is what the graph checks and the loader take at most.
const maxModelBytes = 64 << 20

// loadFactor is how much memory a session may need for each byte of its model:
// the bytes, the parsed graph, the optimized copy of the weights.
const loadFactor = 4

// guard looks into a verified model before any native code does: what its graph
// may do, whether it reads what this device delivers, and whether there is
// memory for it.
func (a *Applier) guard(ctx context.Context, d artifact.Digest) error {
	_, v, err := a.stager.Verified(d)
	if err != nil {
		return err
	}
	model, err := a.model(d, v)
	if err != nil {
		return err
	}
	c, err := onnx.Check(model, onnx.Limits{Bytes: maxModelBytes})
	if err != nil {
		return Refuse(twin.CodeGuard, err)
	}
	if err := a.config.Pipeline.Fits(c); err != nil {
		return Refuse(twin.CodeGuard, err)
	}
	need := loadFactor * int64(len(model))
	if limit := int64(v.Limits.MemoryMiB) << 20; limit > 0 && need > limit {
		return Refuse(twin.CodeMemory, fmt.Errorf("loading may take %d MiB, the release allows %d MiB", need>>20, limit>>20))
	}
	if available, ok := health.MemoryAvailable(); ok && available-need < a.config.MemoryReserve {
		return Retry(twin.CodeMemory, fmt.Errorf("loading may take %d MiB and would leave less than %d MiB of the %d MiB available", need>>20+1, a.config.MemoryReserve>>20, available>>20))
	}
	if a.config.Rehearse != nil {
		if err := a.config.Rehearse(ctx, a.stager.slot(d)); err != nil {
			return Refuse(twin.CodeLoad, fmt.Errorf("rehearsal in another process: %w", err))
		}
	}
	return nil
}

// model reads the model of a slot and hashes the very bytes it returns.
func (a *Applier) model(d artifact.Digest, v artifact.Variant) ([]byte, error) {
	f, ok := v.File(artifact.RoleModel)
	if !ok {
		return nil, Refuse(twin.CodeContent, fmt.Errorf("the release has no model for this device"))
	}
	if f.Size > maxModelBytes {
		return nil, Refuse(twin.CodeMemory, fmt.Errorf("model %s has %d MiB: at most %d MiB are loaded", f.Path, f.Size>>20, maxModelBytes>>20))
	}
	b, err := disk.ReadFile(a.config.Disk, path.Join(a.stager.slot(d), f.Path), maxModelBytes)
	if err != nil {
		return nil, err
	}
	if got := artifact.Of(b); got != f.Digest {
		return nil, Refuse(twin.CodeContent, fmt.Errorf("model %s on the disk is %s, signed was %s", f.Path, got.Short(), f.Digest.Short()))
	}
	return b, nil
}
