package device

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/simulator/world"
)

// Names on the flash, as the agent has them.
const (
	journalFile = "update/journal.json"
	slotFolder  = "slots"
	headFile    = "manifest.json"
	bodyFile    = "model.onnx"
)

// flash is a device's disk: the agent's own disk in memory, with what a device
// keeps on it.
type flash struct {
	mem  *disk.Mem
	past *disk.Mem // what a power cut leaves while the drive lies; nil: it is honest
	torn int       // the power fails in so many writes; 0: it does not
	dark time.Duration
	full bool
}

var (
	errMissing = errors.New("nothing is staged")
	errContent = errors.New("bytes on the disk are not what was signed")
)

// newFlash returns the disk of a device on which first is confirmed; nil: an
// empty one.
func newFlash(first *Release) *flash {
	f := &flash{mem: &disk.Mem{}}
	err := errors.Join(f.mem.MkdirAll(path.Dir(journalFile)), f.mem.MkdirAll(slotFolder))
	if first != nil {
		err = errors.Join(err, f.fetch(first), f.stage(first), f.save(&update.Journal{
			Schema: 1, Releases: []update.Release{first.Release}, State: update.State{Champion: 1, LastGood: 1},
		}))
	}
	if err != nil {
		panic(fmt.Sprintf("device: an empty disk in memory: %v", err))
	}
	return f
}

func slot(d artifact.Digest) string { return path.Join(slotFolder, d.Hex()) }
func part(d artifact.Digest) string { return slot(d) + ".part" }

func (f *flash) load() (*update.Journal, error) { return apply.LoadJournal(f.mem, journalFile) }

// save makes a journal durable, as the agent does.
func (f *flash) save(j *update.Journal) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return disk.WriteAtomic(f.mem, journalFile, b)
}

// fetch writes a release where it is under construction.
func (f *flash) fetch(r *Release) error {
	where := part(r.Manifest)
	if err := f.mem.MkdirAll(where); err != nil {
		return err
	}
	for _, x := range []struct {
		name    string
		content []byte
	}{{headFile, r.Head}, {bodyFile, r.Body}} {
		out, err := f.mem.Create(path.Join(where, x.name))
		if err != nil {
			return err
		}
		if _, err = out.Write(x.content); err == nil {
			err = out.Sync()
		}
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
	return nil
}

// stage checks the bytes of a release, under construction or in its slot, and
// gives the slot its name.
func (f *flash) stage(r *Release) error {
	if err := f.check(r); !errors.Is(err, errMissing) {
		if err != nil {
			err = errors.Join(err, f.mem.RemoveAll(slot(r.Manifest)))
		}
		return err
	}
	if err := f.checkAt(part(r.Manifest), r); err != nil {
		return errors.Join(err, f.mem.RemoveAll(part(r.Manifest)))
	}
	return errors.Join(f.mem.SyncDir(part(r.Manifest)), f.mem.Rename(part(r.Manifest), slot(r.Manifest)), f.mem.SyncDir(slotFolder))
}

// check hashes a slot.
func (f *flash) check(r *Release) error { return f.checkAt(slot(r.Manifest), r) }

func (f *flash) checkAt(where string, r *Release) error {
	for _, x := range []struct {
		name string
		want artifact.Digest
	}{{headFile, r.Manifest}, {bodyFile, r.Model}} {
		b, err := disk.ReadFile(f.mem, path.Join(where, x.name), 1<<20)
		if err != nil {
			return errMissing
		}
		if artifact.Of(b) != x.want {
			return fmt.Errorf("%s: %w", x.name, errContent)
		}
	}
	return nil
}

// clean removes every slot that is not in keep.
func (f *flash) clean(keep []artifact.Digest) {
	names, err := f.mem.List(slotFolder)
	if err != nil {
		return
	}
next:
	for _, name := range names {
		for _, k := range keep {
			if strings.HasPrefix(name, k.Hex()) {
				continue next
			}
		}
		if f.mem.RemoveAll(path.Join(slotFolder, name)) != nil {
			return // the next clean tries again
		}
	}
}

// cut leaves what was durable, and of the tails of files what chance wants.
func (f *flash) cut(r *world.Rand) {
	left := f.past
	if left == nil {
		left = f.mem.Crash(func(_ string, n int) int { return r.IntN(n + 1) })
	}
	f.mem, f.past, f.torn = left, nil, 0
	f.limit()
}

// tear lets the power fail in the middle of write number n from now.
func (f *flash) tear(n int, dark time.Duration) {
	f.torn, f.dark = n, dark
	f.mem.Fault(func(disk.Op, string) error {
		if f.torn--; f.torn == 0 {
			return disk.ErrPowerCut
		}
		return nil
	})
}

func (f *flash) fill()  { f.full = true; f.limit() }
func (f *flash) empty() { f.full = false; f.limit() }

// limit takes the room away, or gives it back.
func (f *flash) limit() {
	if f.full {
		f.mem.Limit(1)
	} else {
		f.mem.Limit(0)
	}
}

func (f *flash) lie()    { f.past = f.mem.Crash(nil) }
func (f *flash) honest() { f.past = nil }

// rot flips a bit of a model in a slot and returns its name; "" when there is
// nothing to rot.
func (f *flash) rot(r *world.Rand) string {
	slots, err := f.mem.List(slotFolder)
	if err != nil || len(slots) == 0 {
		return ""
	}
	name := path.Join(slotFolder, slots[r.IntN(len(slots))], bodyFile)
	b, err := disk.ReadFile(f.mem, name, 1<<20)
	if err != nil || len(b) == 0 {
		return ""
	}
	b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	out, err := f.mem.Create(name)
	if err != nil {
		return ""
	}
	if _, err = out.Write(b); err == nil {
		err = out.Sync()
	}
	if err != nil {
		return ""
	}
	return name
}
