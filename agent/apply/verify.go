package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// Verify checks a slot under construction from the signature down to the last
// byte and, when all holds, gives it its name. A slot that has its name already
// is checked again; one whose bytes have rotted goes back to construction, so
// that only what is missing is fetched. A release that may not replace what the
// device holds is refused.
func (s *Stager) Verify(d artifact.Digest, held artifact.Held) (update.Release, error) {
	where := s.slot(d)
	staged, err := disk.Exists(s.config.Disk, where)
	if err != nil {
		return update.Release{}, err
	}
	if !staged {
		where = s.part(d)
	}
	m, v, err := s.verifyAt(where, d)
	if err != nil {
		var rotten *rot
		switch {
		case errors.As(err, &rotten):
			return update.Release{}, errors.Join(Retry(twin.CodeContent, err), s.reopen(d, staged, rotten.name))
		case errors.Is(err, fs.ErrNotExist):
			return update.Release{}, errors.Join(Retry(twin.CodeContent, err), s.reopen(d, staged, ""))
		}
		return update.Release{}, err
	}
	if err := held.Admit(m, d); err != nil {
		return update.Release{}, Refuse(twin.CodeCounter, err)
	}
	if !staged {
		err = s.stage(d, v)
	} else {
		// An earlier attempt may have named it and failed to make that durable.
		err = s.config.Disk.SyncDir(s.config.Folder)
	}
	if err != nil {
		return update.Release{}, err
	}
	return update.Release{Name: m.Name, Counter: m.Counter, Manifest: d, Limits: v.Limits}, nil
}

// stage gives a verified slot its name. Files were synced as they were written;
// their names in their folders are synced here, before the slot can be seen.
func (s *Stager) stage(d artifact.Digest, v artifact.Variant) error {
	folders := map[string]bool{s.part(d): true}
	for _, f := range v.Files {
		folders[path.Join(s.part(d), path.Dir(f.Path))] = true
	}
	for folder := range folders {
		if err := s.config.Disk.SyncDir(folder); err != nil {
			return err
		}
	}
	if err := s.config.Disk.Rename(s.part(d), s.slot(d)); err != nil {
		return err
	}
	return s.config.Disk.SyncDir(s.config.Folder)
}

// reopen puts a slot back under construction without the file at name.
func (s *Stager) reopen(d artifact.Digest, staged bool, name string) error {
	if staged {
		if err := errors.Join(s.config.Disk.RemoveAll(s.part(d)), s.config.Disk.Rename(s.slot(d), s.part(d))); err != nil {
			return err
		}
	}
	if name == "" {
		return nil
	}
	return s.config.Disk.RemoveAll(path.Join(s.part(d), name))
}

// rot says that a file on the disk is not what was signed.
type rot struct {
	name string
	err  error
}

func (r *rot) Error() string { return r.err.Error() }
func (r *rot) Unwrap() error { return r.err }

// verifyAt believes a slot or says why not: the manifest is the one asked for,
// the signature is by a trusted key and covers it, the variant is for this
// device, and every file has its digest.
func (s *Stager) verifyAt(where string, d artifact.Digest) (artifact.Manifest, artifact.Variant, error) {
	fail := func(err error) (artifact.Manifest, artifact.Variant, error) {
		return artifact.Manifest{}, artifact.Variant{}, err
	}
	bundle, err := disk.ReadFile(s.config.Disk, path.Join(where, trust.SignatureFile), trust.MaxBundleBytes)
	if err != nil {
		return fail(err)
	}
	manifest, err := disk.ReadFile(s.config.Disk, path.Join(where, trust.ManifestFile), artifact.MaxManifestBytes)
	if err != nil {
		return fail(err)
	}
	if got := artifact.Of(manifest); got != d {
		return fail(&rot{trust.ManifestFile, fmt.Errorf("manifest on the disk is %s, want %s", got.Short(), d.Short())})
	}
	m, v, err := s.believe(d, bundle, manifest)
	if err != nil {
		// The signature held when it was fetched, and the manifest is the same: it
		// has rotted, or its key is believed no more. Fetching it again tells.
		if f := failure(err); f.code == twin.CodeSignature {
			err = &rot{trust.SignatureFile, err}
		}
		return fail(err)
	}
	for _, f := range v.Files {
		if err := s.checkFile(path.Join(where, f.Path), f); errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		} else if err != nil {
			return fail(&rot{f.Path, err})
		}
	}
	return m, v, nil
}

// believe checks signature, kind and class.
func (s *Stager) believe(d artifact.Digest, bundle, manifest []byte) (artifact.Manifest, artifact.Variant, error) {
	m, err := trust.VerifyRelease(s.config.Roots(), bundle, manifest)
	if err != nil {
		return artifact.Manifest{}, artifact.Variant{}, Refuse(twin.CodeSignature, err)
	}
	if m.Kind != s.config.Kind {
		return artifact.Manifest{}, artifact.Variant{}, Refuse(twin.CodeContent, fmt.Errorf("release %s is a %s, not a %s", m.ID(), m.Kind, s.config.Kind))
	}
	v, err := m.Select(s.config.Class, s.config.Arch)
	if err != nil {
		return artifact.Manifest{}, artifact.Variant{}, Refuse(twin.CodeClass, err)
	}
	return m, v, nil
}

// Clean removes every slot that is not in keep, and forgets what it downloaded:
// the next offer of the same release begins with a whole budget.
func (s *Stager) Clean(keep []artifact.Digest) {
	kept := map[string]bool{}
	for _, d := range keep {
		kept[path.Base(s.slot(d))], kept[path.Base(s.part(d))], kept[path.Base(s.count(d))] = true, true, true
	}
	s.mu.Lock()
	for d := range s.spent {
		if !slices.Contains(keep, d) {
			delete(s.spent, d)
			delete(s.counted, d)
		}
	}
	s.mu.Unlock()
	names, err := s.config.Disk.List(s.config.Folder)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, name := range names {
		if !kept[name] {
			err = errors.Join(err, s.config.Disk.RemoveAll(path.Join(s.config.Folder, name)))
		}
	}
	if err != nil {
		// The next clean tries again; until then it only costs room.
		s.config.Log.Warn("old releases could not be removed", "error", err)
	}
}
