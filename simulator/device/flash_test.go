package device

import (
	"errors"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/simulator/world"
)

func release(n byte) Release {
	head, body := []byte{'h', n}, []byte{'b', n}
	return Release{
		Release: update.Release{Name: "pump-anomaly", Counter: uint64(n), Manifest: artifact.Of(head), Model: artifact.Of(body)},
		Head:    head, Body: body,
	}
}

func TestAPowerCutInAnyWriteLeavesTheOldJournalOrTheNewOne(t *testing.T) {
	first, second := release(1), release(2)
	rand := world.New(1, time.Time{}).Rand("cut")
	for n := 1; ; n++ {
		f := newFlash(&first)
		f.tear(n, time.Second)
		err := errors.Join(f.fetch(&second), f.stage(&second))
		if err == nil {
			err = f.save(&update.Journal{Schema: 1, Releases: []update.Release{first.Release, second.Release}, State: update.State{Champion: 2, LastGood: 1}})
		}
		f.cut(rand)
		j, broken := f.load()
		if broken != nil || j == nil {
			t.Fatalf("cut in write %d: no journal: %v", n, broken)
		}
		if err := f.check(&first); err != nil {
			t.Fatalf("cut in write %d: the release that ran is gone: %v", n, err)
		}
		if j.State.Champion == 2 && f.check(&second) != nil {
			t.Fatalf("cut in write %d: the journal names a release that is not there whole", n)
		}
		if err == nil {
			t.Logf("%d writes", n-1)
			return
		}
		if !errors.Is(err, disk.ErrPowerCut) {
			t.Fatalf("cut in write %d: %v", n, err)
		}
	}
}

func TestADiskThatLiesForgetsAndOneThatRotsIsCaught(t *testing.T) {
	first, second := release(1), release(2)
	rand := world.New(2, time.Time{}).Rand("cut")
	f := newFlash(&first)
	f.lie()
	if err := errors.Join(f.fetch(&second), f.stage(&second)); err != nil {
		t.Fatal(err)
	}
	f.cut(rand)
	if f.check(&first) != nil || !errors.Is(f.check(&second), errMissing) {
		t.Fatal("a disk that lied kept what it was told, or lost what was there before")
	}
	if f.rot(rand) == "" || !errors.Is(f.check(&first), errContent) {
		t.Fatal("a flipped bit is not seen")
	}
}

func TestAFullDiskTakesNothingUntilThereIsRoom(t *testing.T) {
	first, second := release(1), release(2)
	f := newFlash(&first)
	f.fill()
	if err := f.fetch(&second); !errors.Is(err, disk.ErrFull) {
		t.Fatalf("a full disk answers %v", err)
	}
	f.empty()
	if err := errors.Join(f.fetch(&second), f.stage(&second), f.check(&second)); err != nil {
		t.Fatal(err)
	}
}
