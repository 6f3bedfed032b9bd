package firmware

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/firmware/slot"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Package is the program that came by the system's package: what runs when no
// slot holds another.
type Package struct {
	Digest  artifact.Digest
	Version string // empty where it is not known
}

// Start says what to start.
type Start struct {
	Slot slot.Name
	// Program is the name of the program on the disk; empty: the package's.
	Program string
	Image   slot.Image
}

// Boot decides what to start and saves that before it answers: a start that was
// not saved would not be counted. Where the disk takes no write, the committed program starts, never one
// on trial.
func Boot(d disk.FS, pkg Package, log *slog.Logger) (Start, error) {
	state, err := load(d)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		state = State{}
	case err != nil:
		log.Error("the firmware slots cannot be read: the packaged program starts", "error", err)
		state = State{}
	}
	if state.Package != pkg.Digest || state.Pair.Good == "" {
		state = packaged(state, pkg)
	}
	if s, err := settle(state.Pair, decided(d, log), false); err == nil {
		state.Pair = s.pair
	}
	counted := true // a start can be saved
	for {
		name, next, err := state.Pair.Boot()
		if err != nil { // the good slot is empty
			state = packaged(state, pkg)
			continue
		}
		image := next.Image(name)
		start := Start{Slot: name, Image: image}
		if image.Manifest != "" {
			start.Program = program(name)
			if err := intact(d, start); err != nil {
				log.Error("a slot cannot be started", "slot", string(name), "version", image.Version, "error", err)
				state = without(state, next, name, pkg, err)
				continue
			}
		}
		if !counted {
			return start, nil
		}
		saved := State{Schema: 1, Pair: next, Package: pkg.Digest}
		if err := errors.Join(d.MkdirAll("firmware"), saved.save(d)); err != nil {
			log.Error("a boot cannot be saved: the committed program starts", "error", err)
			counted, state.Pair.Trying = false, false
			continue
		}
		return start, nil
	}
}

// GiveUp writes down that start could not be started at all.
func GiveUp(d disk.FS, start Start, pkg Package, reason error) error {
	state, err := load(d)
	if err != nil {
		return err
	}
	return without(state, state.Pair, start.Slot, pkg, reason).save(d)
}

// without returns the state in which the slot that could not be started is not
// tried again: the other committed image, and in the end the package's.
func without(s State, p slot.Pair, name slot.Name, pkg Package, reason error) State {
	if p.Trying && name != p.Good {
		if next, err := p.Fail(reason.Error()); err == nil {
			s.Pair = next
			return s
		}
	}
	if p.Image(name).Manifest == "" { // even the package's program does not start
		s.Pair = p
		return s
	}
	failed := &slot.Failure{Image: p.Image(name), Reason: reason.Error()}
	delete(p.Images, name)
	if other := p.Images[name.Other()]; other != nil && !p.Trying {
		s.Pair = slot.Pair{Good: name.Other(), Images: p.Images, Failed: failed}
		return s
	}
	s.Pair.Failed = failed
	return packaged(s, pkg)
}

// packaged is the state of a device that runs its package's program.
func packaged(s State, pkg Package) State {
	p := slot.First(slot.Image{Digest: pkg.Digest, Version: pkg.Version})
	p.Failed = s.Pair.Failed
	return State{Schema: 1, Pair: p, Package: pkg.Digest}
}

// intact says why a slot's program is not what was installed.
func intact(d disk.FS, s Start) error {
	got, err := hash(d, s.Program)
	if err != nil {
		return err
	}
	if got != s.Image.Digest {
		return fmt.Errorf("the program in slot %s is %s, installed was %s", s.Slot, got.Short(), s.Image.Digest.Short())
	}
	return nil
}

// decided is what the firmware journal says. One that cannot be read says
// nothing: what is committed runs.
func decided(d disk.FS, log *slog.Logger) View {
	journal, err := apply.LoadJournal(d, JournalFile)
	if err == nil && journal != nil {
		var m *update.Machine
		if m, err = update.New(update.Config{}, journal); err == nil {
			return ViewOf(m.Status())
		}
	}
	if err != nil {
		log.Error("the firmware journal cannot be read", "error", err)
	}
	return View{}
}
