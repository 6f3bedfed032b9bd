package whatif_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/simulator/scenario"
	"github.com/swellfleet/swell/simulator/whatif"
)

func read(t *testing.T, text string) scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse("plant", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const plant = "fleet 6 lines 2\nfor 2h\nwave canary devices 2 deadline 6h\nwave rest approvals 2 by ada|bert deadline 6h\ngate success\nbudget line 1\nsoak 5m\n"

func TestAPolicyIsPlayedWithGoodAndBadReleases(t *testing.T) {
	runs := 0
	list, err := whatif.Run(context.Background(), whatif.Options{
		Scenario: read(t, plant), Natures: []string{"sound", "nan-after 1m", "crash-at-load"}, Seeds: 3, Workers: 2, Progress: func(done, all int) { runs = all },
	})
	if err != nil {
		t.Fatal(err)
	}
	sound, nan, crash := list[0], list[1], list[2]
	if runs != 9 || sound.Ends[rollout.Promoted] != 3 || len(sound.Finished) != 3 || len(sound.Stopped) != 0 || sound.Tried != 6 || sound.Harmed != 0 {
		t.Errorf("a sound release came to %+v in %d runs", sound, runs)
	}
	if sound.Finished[0] < 59*time.Minute {
		t.Errorf("it took %s, and the people come once an hour", sound.Finished[0])
	}
	if nan.Ends[rollout.Failed] != 3 || nan.Harmed < 1 || nan.Harmed > 2 || nan.Worst.Harm == 0 || len(nan.Stopped) != 3 {
		t.Errorf("a release that yields NaN came to %+v", nan)
	}
	if crash.Tried != 0 || crash.Ends[rollout.Failed] != 3 {
		t.Errorf("a release that crashes came to %+v", crash)
	}
	for _, x := range list {
		for line, n := range x.Least {
			if n < 2 {
				t.Errorf("%s: %d of 3 devices of %s available, the budget wants 2", x.Nature, n, line)
			}
		}
		if x.Violations > 0 {
			t.Errorf("%s: %v", x.Nature, x.Worst.Violations)
		}
	}
}

func TestAPolicyThatIsRefusedSaysWhy(t *testing.T) {
	list, err := whatif.Run(context.Background(), whatif.Options{Scenario: read(t, "fleet 6 lines 2\nfor 10m\nwave all\ngate success\nbudget line available 3\n"), Natures: []string{"sound"}, Seeds: 1})
	if err != nil || !strings.Contains(list[0].Refused, "none may ever be unavailable") {
		t.Errorf("refused with %q, %v", list[0].Refused, err)
	}
}

func TestItEndsWhenItIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	_, err := whatif.Run(ctx, whatif.Options{Scenario: read(t, plant), Seeds: 50, Progress: func(int, int) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
