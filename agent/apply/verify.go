package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// verify checks a slot under construction from the signature down to the last
// byte and, when all holds, gives it its name. A slot that has its name already
// is checked again; one whose bytes have rotted goes back to construction, so
// that only what is missing is fetched.
func (a *Applier) verify(d artifact.Digest, minCounter uint64) (update.Release, error) {
	where := slot(d)
	staged, err := disk.Exists(a.config.Disk, where)
	if err != nil {
		return update.Release{}, err
	}
	if !staged {
		where = part(d)
	}
	m, v, err := a.verifyAt(where, d)
	if err != nil {
		var rotten *rot
		switch {
		case errors.As(err, &rotten):
			return update.Release{}, errors.Join(retry(twin.CodeContent, err), a.reopen(d, staged, rotten.name))
		case errors.Is(err, fs.ErrNotExist):
			return update.Release{}, errors.Join(retry(twin.CodeContent, err), a.reopen(d, staged, ""))
		}
		return update.Release{}, err
	}
	if m.Counter < minCounter {
		return update.Release{}, refuse(twin.CodeCounter, fmt.Errorf("release %s is below counter %d, the lowest that this device may still install", m.ID(), minCounter))
	}
	if !staged {
		if err := a.stage(d, v); err != nil {
			return update.Release{}, err
		}
	}
	return update.Release{Name: m.Name, Counter: m.Counter, Manifest: d, Limits: v.Limits}, nil
}

// stage gives a verified slot its name. Files were synced as they were written;
// their names in their folders are synced here, before the slot can be seen.
func (a *Applier) stage(d artifact.Digest, v artifact.Variant) error {
	folders := map[string]bool{part(d): true}
	for _, f := range v.Files {
		folders[path.Join(part(d), path.Dir(f.Path))] = true
	}
	for folder := range folders {
		if err := a.config.Disk.SyncDir(folder); err != nil {
			return err
		}
	}
	if err := a.config.Disk.Rename(part(d), slot(d)); err != nil {
		return err
	}
	return a.config.Disk.SyncDir("slots")
}

// reopen puts a slot back under construction without the file at name.
func (a *Applier) reopen(d artifact.Digest, staged bool, name string) error {
	if staged {
		if err := errors.Join(a.config.Disk.RemoveAll(part(d)), a.config.Disk.Rename(slot(d), part(d))); err != nil {
			return err
		}
	}
	if name == "" {
		return nil
	}
	return a.config.Disk.RemoveAll(path.Join(part(d), name))
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
func (a *Applier) verifyAt(where string, d artifact.Digest) (artifact.Manifest, artifact.Variant, error) {
	fail := func(err error) (artifact.Manifest, artifact.Variant, error) {
		return artifact.Manifest{}, artifact.Variant{}, err
	}
	bundle, err := disk.ReadFile(a.config.Disk, path.Join(where, trust.SignatureFile), trust.MaxBundleBytes)
	if err != nil {
		return fail(err)
	}
	manifest, err := disk.ReadFile(a.config.Disk, path.Join(where, trust.ManifestFile), artifact.MaxManifestBytes)
	if err != nil {
		return fail(err)
	}
	if got := artifact.Of(manifest); got != d {
		return fail(&rot{trust.ManifestFile, fmt.Errorf("manifest on the disk is %s, want %s", got.Short(), d.Short())})
	}
	m, v, err := a.believe(d, bundle, manifest)
	if err != nil {
		return fail(err)
	}
	for _, f := range v.Files {
		if err := a.checkFile(path.Join(where, f.Path), f); errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		} else if err != nil {
			return fail(&rot{f.Path, err})
		}
	}
	return m, v, nil
}

// believe checks signature, kind and class.
func (a *Applier) believe(d artifact.Digest, bundle, manifest []byte) (artifact.Manifest, artifact.Variant, error) {
	m, err := trust.VerifyRelease(a.config.Roots, bundle, manifest)
	if err != nil {
		return artifact.Manifest{}, artifact.Variant{}, refuse(twin.CodeSignature, err)
	}
	if m.Kind != artifact.Model {
		return artifact.Manifest{}, artifact.Variant{}, refuse(twin.CodeContent, fmt.Errorf("release %s is a %s, not a model", m.ID(), m.Kind))
	}
	v, err := m.Select(a.config.Class, a.config.Arch)
	if err != nil {
		return artifact.Manifest{}, artifact.Variant{}, refuse(twin.CodeClass, err)
	}
	return m, v, nil
}

// clean removes every slot that is not in keep.
func (a *Applier) clean(keep []artifact.Digest) {
	kept := map[string]bool{}
	for _, d := range keep {
		kept[path.Base(slot(d))], kept[path.Base(part(d))] = true, true
	}
	names, err := a.config.Disk.List("slots")
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, name := range names {
		if !kept[name] {
			err = errors.Join(err, a.config.Disk.RemoveAll(path.Join("slots", name)))
		}
	}
	if err != nil {
		// The next clean tries again; until then it only costs room.
		a.config.Log.Warn("old releases could not be removed", "error", err)
	}
}
