// Package slot decides which of two slots a device boots.
//
// The parties are the program loader (`swell-agent boot`), which asks Boot
// before it starts anything; the agent, which installs an image into the slot
// that is not committed and calls Commit once the new one has proved itself; and
// the disk, which keeps Pair. A new image gets a bounded number of boots to
// commit; when they are used up the old slot is booted again, for good.
//
// It promises that a slot which was committed stays bootable until the other
// one is committed, and that a power cut between any two saves leaves a pair
// whose Boot names an installed slot. The package is pure.
package slot

import (
	"errors"
	"fmt"

	"github.com/swellfleet/swell/protocol/artifact"
)

// Name is a slot: A or B.
type Name string

// The slots.
const (
	A Name = "a"
	B Name = "b"
)

// Other returns the slot that n is not.
func (n Name) Other() Name {
	if n == A {
		return B
	}
	return A
}

// Image is what a slot holds.
type Image struct {
	Name     string          `json:"name,omitempty"`     // release family; empty when installed by a package
	Manifest artifact.Digest `json:"manifest,omitempty"` // release it came with; empty when installed by a package
	File     artifact.Digest `json:"file,omitempty"`     // of the image file the program came in; empty as above
	Digest   artifact.Digest `json:"digest"`             // of the program's bytes
	Counter  uint64          `json:"counter"`            // release counter; 0 when installed by a package
	Version  string          `json:"version"`
}

// Pair is the state of both slots, saved after every change. The zero value is
// a device without any image.
type Pair struct {
	Good    Name            `json:"good"`              // the committed slot; empty: none yet
	Images  map[Name]*Image `json:"images"`            // nil entry: empty slot
	Trying  bool            `json:"trying,omitempty"`  // the other slot is on trial
	Boots   int             `json:"boots,omitempty"`   // boots the trial has left
	Running Name            `json:"running,omitempty"` // what Boot named last
	// Failed is the image that was given up last, with the reason; it is not
	// taken again.
	Failed *Failure `json:"failed,omitempty"`
}

// Failure says which image was given up and why.
type Failure struct {
	Image  Image  `json:"image"`
	Reason string `json:"reason"`
}

// MaxBoots is how often a new image may be booted before it has to commit.
const MaxBoots = 3

// Errors of Install and Commit.
var (
	ErrOld     = errors.New("its counter is not above the one that runs")
	ErrRefused = errors.New("it was given up on this device before")
	ErrBusy    = errors.New("another image is on trial")
	ErrNoTrial = errors.New("no image is on trial")
)

// clone returns p with an image table of its own.
func (p Pair) clone() Pair {
	images := map[Name]*Image{}
	for n, i := range p.Images {
		if i != nil {
			c := *i
			images[n] = &c
		}
	}
	p.Images = images
	return p
}

// First returns the pair of a device whose program was put there by hand or by
// a package.
func First(i Image) Pair { return Pair{Good: A, Images: map[Name]*Image{A: &i}} }

// Spare returns the slot a new image is written to: never the one that runs or
// the committed one.
func (p Pair) Spare() Name {
	if p.Good == "" {
		return A
	}
	return p.Good.Other()
}

// Install says that the spare slot now holds i, verified and synced, and puts
// it on trial.
func (p Pair) Install(i Image) (Pair, error) {
	if good := p.Images[p.Good]; good != nil && i.Counter <= good.Counter {
		return p, fmt.Errorf("install image %s with counter %d: %w (%d)", i.Version, i.Counter, ErrOld, good.Counter)
	}
	return p.Return(i)
}

// Return is Install for an image that the hub ordered back by name: its counter
// may be lower than that of the image that runs.
func (p Pair) Return(i Image) (Pair, error) {
	if err := i.Digest.Validate(); err != nil {
		return p, fmt.Errorf("install image: %w", err)
	}
	if p.Trying {
		return p, fmt.Errorf("install image %s: %w", i.Version, ErrBusy)
	}
	if p.Failed != nil && p.Failed.Image.Digest == i.Digest {
		return p, fmt.Errorf("install image %s: %w (%s)", i.Version, ErrRefused, p.Failed.Reason)
	}
	next := p.clone()
	spare := p.Spare()
	next.Images[spare] = &i
	if p.Good == "" { // the first image of all has nothing to fall back to
		next.Good = spare
		return next, nil
	}
	next.Trying, next.Boots = true, MaxBoots
	return next, nil
}

// Boot names the slot to start and returns the pair to save before starting
// it: a boot that was not saved would not be counted.
func (p Pair) Boot() (Name, Pair, error) {
	if p.Good == "" || p.Images[p.Good] == nil {
		return "", p, errors.New("no slot holds an image: install the package again")
	}
	next := p.clone()
	if p.Trying && p.Boots <= 0 {
		next = next.giveUp(fmt.Sprintf("it did not commit within %d boots", MaxBoots))
	}
	next.Running = next.Good
	if next.Trying {
		next.Boots--
		next.Running = next.Good.Other()
	}
	return next.Running, next, nil
}

// Commit keeps the image on trial.
func (p Pair) Commit() (Pair, error) {
	if !p.Trying {
		return p, fmt.Errorf("commit: %w", ErrNoTrial)
	}
	if p.Running != p.Good.Other() {
		return p, errors.New("commit: the image on trial is not the one that runs")
	}
	next := p.clone()
	next.Good, next.Trying, next.Boots = p.Good.Other(), false, 0
	return next, nil
}

// Fail gives the image on trial up; the next Boot names the good slot.
func (p Pair) Fail(reason string) (Pair, error) {
	if !p.Trying {
		return p, fmt.Errorf("give up: %w", ErrNoTrial)
	}
	return p.clone().giveUp(reason), nil
}

// Withdraw ends the trial without blame: the next Boot names the good slot, and
// the image may come again.
func (p Pair) Withdraw() (Pair, error) {
	if !p.Trying {
		return p, fmt.Errorf("withdraw: %w", ErrNoTrial)
	}
	next := p.clone()
	delete(next.Images, p.Good.Other())
	next.Trying, next.Boots = false, 0
	return next, nil
}

// Image returns what n holds, the zero Image for an empty slot.
func (p Pair) Image(n Name) Image {
	if i := p.Images[n]; i != nil {
		return *i
	}
	return Image{}
}

// Trial returns the image on trial, and false when there is none.
func (p Pair) Trial() (Image, bool) {
	if !p.Trying {
		return Image{}, false
	}
	return p.Image(p.Good.Other()), true
}

// giveUp works on a clone.
func (p Pair) giveUp(reason string) Pair {
	if i := p.Images[p.Good.Other()]; i != nil {
		p.Failed = &Failure{Image: *i, Reason: reason}
	}
	delete(p.Images, p.Good.Other())
	p.Trying, p.Boots = false, 0
	return p
}
