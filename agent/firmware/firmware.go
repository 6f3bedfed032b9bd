// Package firmware replaces the agent's own program by the same signed path as
// a model: it performs what the update machine asks for a firmware release, and
// it is the loader that decides which program starts.
//
// The parties are `swell-agent boot`, which systemd starts and which calls Boot
// before it becomes the chosen program; the running agent, which opens the same
// folder with Open, lets an Installer fill the spare slot and settles what its
// update machine has decided; firmware/slot, which owns the A/B rules; and
// agent/apply, which fetches and verifies releases of any kind.
//
// It promises that a program is run only if its bytes are those of a release
// whose signature held, or the one the package installed; that a new program
// gets slot.MaxBoots starts to prove itself and the old one comes back after
// them; that a power cut at any write leaves something to boot; and that an
// image which was given up is not taken again. What "proved itself" means is
// the update machine's soak: see agent.
//
// # Files
//
//	firmware/slots.json       State
//	firmware/journal.json     the update machine's journal for firmware
//	firmware/a/program        what slot a holds, unless that is the package's
//	firmware/b/program
//	firmware/releases/{hex}/  releases as fetched: manifest, signature, image
package firmware

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/firmware/slot"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Names on the disk.
const (
	JournalFile = "firmware/journal.json"
	Releases    = "firmware/releases"
	stateFile   = "firmware/slots.json"
)

const maxStateBytes = 64 << 10

// program is where a slot's program lies.
func program(n slot.Name) string { return path.Join("firmware", string(n), "program") }

// State is what the loader and the agent share.
type State struct {
	Schema int       `json:"schema"` // 1
	Pair   slot.Pair `json:"pair"`
	// Package is the digest of the packaged program as of the newest boot. When
	// it changes, somebody has installed another package, and that one runs.
	Package artifact.Digest `json:"package"`
}

func load(d disk.FS) (State, error) {
	b, err := disk.ReadFile(d, stateFile, maxStateBytes)
	if err != nil {
		return State{}, err
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("read %s: %w", stateFile, err)
	}
	if s.Schema != 1 {
		return State{}, fmt.Errorf("read %s: schema %d: this version reads 1", stateFile, s.Schema)
	}
	return s, nil
}

func (s State) save(d disk.FS) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return disk.WriteAtomic(d, stateFile, b)
}

// Slots are a device's two slots, seen from the program in one of them. Its
// methods may be called from any goroutine.
type Slots struct {
	disk disk.FS

	mu    sync.Mutex
	state State
}

// Open reads the slots for a program that Boot has started in slot running.
func Open(d disk.FS, running slot.Name) (*Slots, error) {
	s, err := load(d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the loader left no slots: start the agent by its boot command")
	}
	if err != nil {
		return nil, err
	}
	if s.Pair.Images[running] == nil {
		return nil, fmt.Errorf("slot %q, from which this program runs, holds nothing", running)
	}
	// The loader starts the committed slot even if it cannot write that down.
	s.Pair.Running = running
	if err := d.MkdirAll(Releases); err != nil {
		return nil, err
	}
	return &Slots{disk: d, state: s}, nil
}

// Running is the slot this program runs from and what it holds.
func (s *Slots) Running() (slot.Name, slot.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Pair.Running, s.state.Pair.Image(s.state.Pair.Running)
}

// Fact is what this start has shown, for the update machine's journal.
func (s *Slots) Fact() update.Fact {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.state.Pair
	i := p.Image(p.Running)
	f := update.Fact{Runs: update.Release{Name: i.Name, Counter: i.Counter, Manifest: i.Manifest, Model: i.File}}
	if i.Manifest == "" {
		f.Runs = update.Release{}
	}
	if p.Failed != nil {
		f.GivenUp, f.Reason = p.Failed.Image.Manifest, p.Failed.Reason
	}
	return f
}

// Settle brings the slots in line with what the update machine has decided and
// saved: it commits, gives up or withdraws the image on trial. healthy says
// that this program does its work. restart is true when another program is to
// run than this one.
func (s *Slots) Settle(v View, healthy bool) (restart bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := settle(s.state.Pair, v, healthy)
	if err != nil {
		return false, err
	}
	if next.changed {
		state := s.state
		state.Pair = next.pair
		if err := state.save(s.disk); err != nil {
			return false, err
		}
		s.state = state
	}
	return next.runs != s.state.Pair.Running, nil
}

// install puts i on trial in the spare slot, whose program is written. back
// says that it was ordered back.
func (s *Slots) install(i slot.Image, back bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.state.Pair
	if t, ok := p.Trial(); ok && t.Manifest == i.Manifest {
		return nil // a repeat
	}
	put := p.Install
	if back {
		put = p.Return
	}
	next, err := put(i)
	if err != nil {
		return err
	}
	state := s.state
	state.Pair = next
	if err := state.save(s.disk); err != nil {
		return err
	}
	s.state = state
	return nil
}

// spare is the slot a new image goes to. It is an error while another image
// is on trial there, or runs there until the restart.
func (s *Slots) spare(manifest artifact.Digest) (slot.Name, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.state.Pair
	if t, ok := p.Trial(); ok && t.Manifest != manifest {
		return "", slot.ErrBusy
	}
	return p.Spare(), nil
}

// hash returns the digest of a file.
func hash(d disk.FS, name string) (artifact.Digest, error) {
	f, err := d.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return artifact.FromSum([32]byte(h.Sum(nil))), nil
}

// View is what the update machine has decided about firmware.
type View struct {
	Champion    artifact.Digest // of the release that is to run; empty: the package
	Trial       *twin.Trial     // nil: never had one
	Quarantined []artifact.Digest
}

// ViewOf takes from a machine's status what the slots follow.
func ViewOf(s update.Status) View {
	v := View{Trial: s.Trial, Quarantined: s.Quarantined}
	if s.Champion != nil {
		v.Champion = s.Champion.Manifest
	}
	return v
}
