package slot

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/swellfleet/swell/protocol/artifact"
)

func img(counter uint64) Image {
	return Image{Digest: artifact.Of(fmt.Append(nil, counter)), Counter: counter, Version: fmt.Sprintf("1.%d", counter)}
}

func boot(t *testing.T, p Pair) (Name, Pair) {
	t.Helper()
	n, next, err := p.Boot()
	if err != nil {
		t.Fatal(err)
	}
	return n, next
}

func TestNewImageThatCommitsIsKept(t *testing.T) {
	p, err := First(img(1)).Install(img(2))
	if err != nil {
		t.Fatal(err)
	}
	n, p := boot(t, p)
	if n != B {
		t.Fatalf("booted %s, want the trial in b", n)
	}
	if p, err = p.Commit(); err != nil {
		t.Fatal(err)
	}
	if n, _ = boot(t, p); n != B || p.Images[A].Counter != 1 {
		t.Errorf("after commit booted %s with %+v", n, p.Images)
	}
}

func TestImageThatNeverCommitsFallsBack(t *testing.T) {
	p, _ := First(img(1)).Install(img(2))
	var n Name
	for i := range MaxBoots {
		if n, p = boot(t, p); n != B {
			t.Fatalf("boot %d went to %s", i, n)
		}
	}
	if n, p = boot(t, p); n != A {
		t.Fatalf("after %d boots without commit: %s, want the old slot", MaxBoots, n)
	}
	if _, err := p.Install(img(2)); !errors.Is(err, ErrRefused) {
		t.Errorf("installing what was given up: %v, want ErrRefused", err)
	}
	if _, err := p.Install(img(3)); err != nil {
		t.Errorf("a newer image is welcome: %v", err)
	}
}

func TestImageOrderedBackIsOnTrialLikeANewOne(t *testing.T) {
	p, err := First(img(5)).Return(img(2))
	if err != nil {
		t.Fatal(err)
	}
	n, p := boot(t, p)
	if n != B {
		t.Fatalf("booted %s, want what was ordered back", n)
	}
	if p, err = p.Commit(); err != nil || p.Image(p.Good).Counter != 2 {
		t.Errorf("committed %+v, %v", p, err)
	}
}

func TestWithdrawnImageMayComeAgain(t *testing.T) {
	p, _ := First(img(1)).Install(img(2))
	_, p = boot(t, p)
	p, err := p.Withdraw()
	if err != nil {
		t.Fatal(err)
	}
	n, p := boot(t, p)
	if n != A || p.Failed != nil {
		t.Errorf("booted %s, failed %+v: want the good slot, and no blame", n, p.Failed)
	}
	if _, err := p.Install(img(2)); err != nil {
		t.Errorf("offered again: %v", err)
	}
	if _, err := p.Withdraw(); !errors.Is(err, ErrNoTrial) {
		t.Errorf("withdrawn without a trial: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	trying, _ := First(img(2)).Install(img(3))
	for name, tc := range map[string]struct {
		p    Pair
		i    Image
		want error
	}{
		"older counter":   {First(img(2)), img(1), ErrOld},
		"same counter":    {First(img(2)), img(2), ErrOld},
		"trial under way": {trying, img(4), ErrBusy},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := tc.p.Install(tc.i); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := trying.Return(img(1)); !errors.Is(err, ErrBusy) {
		t.Errorf("a return while a trial is under way: %v", err)
	}
	if _, err := First(img(1)).Commit(); !errors.Is(err, ErrNoTrial) {
		t.Errorf("commit without a trial: %v", err)
	}
	if _, _, err := (Pair{}).Boot(); err == nil {
		t.Error("a device without images booted")
	}
}

// TestThereIsAlwaysSomethingToBoot plays random histories in which any save
// may be lost to a power cut, and looks for a state that cannot boot, or that
// has lost the image last committed.
func TestThereIsAlwaysSomethingToBoot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		saved := First(img(1))
		counter := uint64(1)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			p := saved
			var err error
			switch rapid.SampledFrom([]string{"install", "return", "boot", "commit", "fail", "withdraw"}).Draw(t, "do") {
			case "install":
				counter++
				p, err = p.Install(img(counter))
			case "return":
				p, err = p.Return(img(rapid.Uint64Range(1, counter).Draw(t, "counter")))
			case "withdraw":
				p, err = p.Withdraw()
			case "boot":
				_, p, err = p.Boot()
				if err != nil {
					t.Fatalf("cannot boot %+v: %v", saved, err)
				}
			case "commit":
				p, err = p.Commit()
			case "fail":
				p, err = p.Fail("health check")
			}
			if err == nil && rapid.IntRange(0, 9).Draw(t, "power") > 0 {
				saved = p
			}
			if saved.Images[saved.Good] == nil {
				t.Fatalf("the good slot is empty: %+v", saved)
			}
			n, _, err := saved.Boot()
			if err != nil || saved.Images[n] == nil {
				t.Fatalf("boot names %q with images %+v: %v", n, saved.Images, err)
			}
		}
	})
}
