package apply

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/swellfleet/swell/agent/scorer"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

// Rehearse loads the model of the slot in folder and computes its golden
// vectors. It is what a child process does with a release before the agent
// lets it into its own: if it crashes or hangs here, it takes nothing with it.
// The parent has verified the slot; nothing here decides about trust.
func Rehearse(ctx context.Context, folder string, class artifact.Class, o runtime.Options) error {
	b, err := os.ReadFile(filepath.Join(folder, trust.ManifestFile))
	if err != nil {
		return err
	}
	m, err := artifact.Parse(b)
	if err != nil {
		return err
	}
	v, err := m.Select(class, goruntime.GOARCH)
	if err != nil {
		return err
	}
	content := map[artifact.Role][]byte{}
	for _, role := range []artifact.Role{artifact.RoleModel, artifact.RoleGolden} {
		f, ok := v.File(role)
		if !ok {
			return fmt.Errorf("release %s has no %s for this device", m.ID(), role)
		}
		if content[role], err = os.ReadFile(filepath.Join(folder, filepath.FromSlash(f.Path))); err != nil {
			return err
		}
	}
	var s scorer.Scorer
	defer s.Wait()
	model, err := s.Load(content[artifact.RoleModel], scorer.Release{Name: m.Name, Counter: m.Counter}, o)
	if err != nil {
		return err
	}
	defer model.Let()
	return Golden(ctx, model, content[artifact.RoleGolden])
}
