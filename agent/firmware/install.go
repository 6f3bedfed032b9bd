package firmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/firmware/image"
	"github.com/swellfleet/swell/firmware/slot"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// InstallerConfig says what an Installer works with. All fields are required
// unless noted.
type InstallerConfig struct {
	apply.StagerConfig // of kind Firmware, in the folder Releases
	Slots              *Slots
	// Interlock says why the agent may not be restarted now; nil function: it
	// always may.
	Interlock func(ctx context.Context) error
	// Check runs a program, given by its name on the disk, in a way that shows
	// whether it can work here, and returns its version. nil: not done.
	Check func(ctx context.Context, program string) (version string, err error)
}

// Installer performs the actions of an update machine whose champion is the
// program that runs. A swap only puts an image on trial: it acts after a
// restart. Rollback, Confirm and Drop leave the slots to Slots.Settle, which
// follows the saved journal.
type Installer struct {
	config InstallerConfig
	stager *apply.Stager
	runner *apply.Runner
}

// NewInstaller makes an Installer.
func NewInstaller(c InstallerConfig) *Installer {
	return &Installer{config: c, stager: apply.NewStager(c.StagerConfig), runner: apply.NewRunner(c.Log)}
}

// Do starts action, as apply.Applier's does.
func (n *Installer) Do(ctx context.Context, action update.Action, answer func(update.Event)) {
	switch action.Kind {
	case update.ActCancel:
		n.runner.Cancel(action.Cancel)
	case update.ActClean:
		n.stager.Clean(action.Keep)
	case update.ActConfirm, update.ActDrop:
	default:
		n.runner.Start(ctx, action, answer, func(ctx context.Context) (update.Release, error) { return n.perform(ctx, action, answer) })
	}
}

// Wait returns when no action runs any more; call it after their context ended.
func (n *Installer) Wait() { n.runner.Wait() }

func (n *Installer) perform(ctx context.Context, action update.Action, answer func(update.Event)) (r update.Release, err error) {
	d := action.Release.Manifest
	switch action.Kind {
	case update.ActFetch:
		return r, n.stager.Fetch(ctx, d, func(done, total int64) {
			answer(update.Progress{Action: action.ID, BytesDone: done, BytesTotal: total})
		})
	case update.ActVerify:
		return n.stager.Verify(d, action.Held)
	case update.ActGuard:
		_, err := n.inspect(d)
		return r, err
	case update.ActLoad:
		i, err := n.unpack(ctx, d)
		return update.Release{Name: i.Name, Counter: i.Counter, Manifest: d, Model: i.File}, err
	case update.ActTest:
		return r, n.check(ctx, d)
	case update.ActInterlock:
		if n.config.Interlock != nil {
			if err := n.config.Interlock(ctx); err != nil {
				return r, apply.Retry("", fmt.Errorf("interlock: %w", err))
			}
		}
		return r, nil
	case update.ActSwap:
		return r, n.install(d, action.Return)
	case update.ActShadow, update.ActResume, update.ActRollback:
		// A program cannot shadow, and what runs is settled by the loader.
		return r, nil
	}
	return r, apply.Refuse(twin.CodeContent, fmt.Errorf("this agent does not know the step %q", action.Kind))
}

// inspect reads the whole image of a staged release and says what it holds.
func (n *Installer) inspect(d artifact.Digest) (slot.Image, error) {
	i, payload, err := n.open(d)
	if err != nil {
		return i, err
	}
	defer payload.Close()
	if _, err := io.Copy(io.Discard, payload); err != nil {
		return i, apply.Refuse(twin.CodeContent, err)
	}
	return i, nil
}

// payload is an image's program and the file behind it.
type payload struct {
	io.Reader
	io.Closer
	size int64
}

// open verifies a staged release once more and opens the program in its image.
func (n *Installer) open(d artifact.Digest) (slot.Image, *payload, error) {
	m, v, err := n.stager.Verified(d)
	if err != nil {
		return slot.Image{}, nil, err
	}
	f, ok := v.File(artifact.RoleImage)
	if !ok {
		return slot.Image{}, nil, apply.Refuse(twin.CodeContent, fmt.Errorf("release %s has no image for this device", m.ID()))
	}
	file, err := n.stager.Open(d, f)
	if err != nil {
		return slot.Image{}, nil, err
	}
	h, program, err := image.Read(file)
	if err == nil {
		err = n.suits(h, m)
	}
	if err != nil {
		return slot.Image{}, nil, errors.Join(apply.Refuse(twin.CodeContent, err), file.Close())
	}
	i := slot.Image{Name: m.Name, Manifest: d, File: f.Digest, Digest: h.Digest, Counter: m.Counter, Version: h.Version}
	return i, &payload{Reader: program, Closer: file, size: h.Size}, nil
}

// suits says why an image is not for this device, or not of this release.
func (n *Installer) suits(h image.Header, m artifact.Manifest) error {
	switch {
	case h.Arch != n.config.Arch:
		return fmt.Errorf("the image is for %s and this device is %s", h.Arch, n.config.Arch)
	case h.OS != "" && h.OS != "linux":
		return fmt.Errorf("the image is for %s and this device runs linux", h.OS)
	case h.Counter != m.Counter:
		return fmt.Errorf("the image was made for counter %d and came in release %s", h.Counter, m.ID())
	}
	return nil
}

// unpack writes the program of a staged release into the spare slot, where
// nothing starts it yet.
func (n *Installer) unpack(ctx context.Context, d artifact.Digest) (slot.Image, error) {
	i, in, err := n.open(d)
	if err != nil {
		return i, err
	}
	defer in.Close()
	spare, err := n.config.Slots.spare(d)
	if err != nil {
		return i, apply.Retry(twin.CodeLoad, err)
	}
	name := program(spare)
	if got, err := hash(n.config.Disk, name); err == nil && got == i.Digest {
		return i, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return i, err
	}
	if free, _, err := n.config.Disk.Free(); err != nil {
		return i, err
	} else if free < in.size+in.size/8 {
		return i, apply.Retry(twin.CodeDisk, fmt.Errorf("the program needs %d MiB and the disk has %d MiB free: make room", in.size>>20+1, free>>20))
	}
	if err := n.config.Disk.MkdirAll(path.Dir(name)); err != nil {
		return i, err
	}
	return i, n.write(ctx, name, in)
}

// write replaces a program as a whole.
func (n *Installer) write(ctx context.Context, name string, in io.Reader) error {
	temporary := name + ".new"
	out, err := n.config.Disk.Create(temporary)
	if err != nil {
		return err
	}
	if err = n.config.Disk.MakeExecutable(temporary); err == nil {
		_, err = io.Copy(out, &stoppable{ctx, in})
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = n.config.Disk.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, n.config.Disk.RemoveAll(temporary))
	}
	return n.config.Disk.SyncDir(path.Dir(name))
}

// stoppable is a reader that ends with its context.
type stoppable struct {
	ctx context.Context
	in  io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.in.Read(p)
}

// check lets the program in the spare slot say that it can work here.
func (n *Installer) check(ctx context.Context, d artifact.Digest) error {
	if n.config.Check == nil {
		return nil
	}
	i, err := n.inspect(d)
	if err != nil {
		return err
	}
	spare, err := n.config.Slots.spare(d)
	if err != nil {
		return apply.Retry(twin.CodeLoad, err)
	}
	version, err := n.config.Check(ctx, program(spare))
	if err != nil {
		return apply.Refuse(twin.CodeLoad, fmt.Errorf("the new program does not work here: %w", err))
	}
	if version != i.Version {
		return apply.Refuse(twin.CodeContent, fmt.Errorf("the program says it is version %.40q, its image says %q", version, i.Version))
	}
	return nil
}

// install puts the program in the spare slot on trial.
func (n *Installer) install(d artifact.Digest, back bool) error {
	i, err := n.inspect(d)
	if err != nil {
		return err
	}
	spare, err := n.config.Slots.spare(d)
	if err != nil {
		return apply.Retry(twin.CodeLoad, err)
	}
	if got, err := hash(n.config.Disk, program(spare)); err != nil {
		return err
	} else if got != i.Digest {
		return apply.Refuse(twin.CodeContent, fmt.Errorf("the program in slot %s is %s, signed was %s", spare, got.Short(), i.Digest.Short()))
	}
	err = n.config.Slots.install(i, back)
	switch {
	case errors.Is(err, slot.ErrRefused):
		return apply.Refuse(twin.CodeQuarantine, err)
	case errors.Is(err, slot.ErrOld):
		return apply.Refuse(twin.CodeCounter, err)
	}
	return err
}
