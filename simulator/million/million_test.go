package million

import (
	"os"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
)

func TestTry(t *testing.T) {
	r, err := Run(Config{Devices: 4_000, Window: 20 * time.Second, Bad: 0.02, Offline: 0.05, Power: 0.0005, Watch: 77, Progress: func(at time.Duration, r rollout.Rollout, c rollout.Counts) {
		t.Logf("%s %s %+v %s", at, r.State, c, r.Reason)
	}, Life: func(l string) { t.Log(l) }})
	if err != nil {
		t.Fatal(err)
	}
	r.Print(os.Stdout)
}
