// Package mutation_test shows that the simulator finds what it looks for: the
// product's sources are broken in one place, the simulator is built from them,
// and it has to find the fault. The product itself has no switch for that: the
// change is an overlay that only the compiler sees.
package mutation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// mutations are faults of a rollout seen elsewhere, or feared here. old is
// there exactly once in its file.
var mutations = []struct{ name, file, old, new string }{
	{
		"the budget ignores offline devices", "cloud/rollout/status.go",
		"s.set(away, !here || d.Degraded ||", "s.set(away, d.Degraded ||",
	},
	{
		"an empty wave passes", "cloud/rollout/decide.go",
		"if i > 0 && left == 0 {", "if i > 0 && left >= 0 {",
	},
	{
		"missing data passes", "cloud/rollout/gates.go",
		"v.Reason = \"no counting window has come in yet\"", "v.Result, v.Reason = Pass, \"no counting window has come in yet\"",
	},
	{
		"no scores are sound scores", "cloud/rollout/gates.go",
		"v.Reason = \"no windows yet\"", "v.Result, v.Reason = Pass, \"no windows yet\"",
	},
	{
		"a retry overwrites the release to go back to", "agent/update/step.go",
		"\n\ts.Champion = s.Trial\n", "\n\tif s.Champion = s.Trial; s.Attempts > 1 {\n\t\ts.LastGood = s.Trial\n\t}\n",
	},
	{
		"silence is not counted", "cloud/rollout/standing.go",
		"return s == DeviceSilent || s == DeviceFailed", "return s == DeviceFailed",
	},
	{
		"the first by name are the canaries", "cloud/rollout/draw.go",
		"number: mix(seed, d.ID.Site, d.ID.Node)", "number: uint64(s) + 0*uint64(len(d.ID.Node))",
	},
	{
		"a pause goes on", "cloud/rollout/decide.go",
		"\t\td.pause()\n", "\t\td.waves()\n",
	},
	{
		"the floor is ignored", "cloud/rollout/standing.go",
		"return belowFloor", "return pending",
	},
	{
		"a freeze is ignored", "cloud/rollout/status.go",
		"if len(u.o.Freezes) == 0 {", "if true {",
	},
	{
		"windows are ignored", "cloud/rollout/status.go",
		"if len(u.p.Windows) == 0 {", "if true {",
	},
	{
		"an interlock that cannot be read permits", "agent/update/step.go",
		"r.retryAt = m.now.Mono + m.backoff(0)", "if m.leased() {\n\t\t\tm.activate(\"lease and interlocks permit\")\n\t\t\treturn\n\t\t}",
	},
}

const (
	root  = "../.."
	seeds = 200
	hunts = 2 // mutations tried at a time
)

// build makes the hunter, from a source in which old is replaced by new; file
// "" changes nothing.
func build(t *testing.T, file, old, new string) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"build", "-o", filepath.Join(dir, "hunt")}
	if file != "" {
		path, err := filepath.Abs(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), old); n != 1 {
			t.Fatalf("%s has %q %d times: a mutation replaces what is there once; bring the table up to date", file, old, n)
		}
		mutant := filepath.Join(dir, "mutant.go")
		overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{mutant: strings.Replace(string(source), old, new, 1), filepath.Join(dir, "overlay.json"): string(overlay)} {
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, "-overlay", filepath.Join(dir, "overlay.json"))
	}
	cmd := exec.Command("go", append(args, "./cmd/hunt")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the mutant cannot be built: %v\n%s", err, out)
	}
	return filepath.Join(dir, "hunt")
}

// hunt plays seeds until one breaks a property, and returns what was found.
func hunt(t *testing.T, program string, n int) (found bool, said string) {
	t.Helper()
	out, err := exec.Command(program, "-file", "night.txt", "-workers", "1", "-seeds", fmt.Sprint(n)).CombinedOutput()
	said = strings.TrimSpace(string(out))
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false, said
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return true, said
	}
	t.Fatalf("the hunt itself failed: %v\n%s", err, said)
	return false, ""
}

func TestEveryMutationIsCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the simulator once for every mutation")
	}
	began := time.Now()
	room := make(chan struct{}, hunts)
	var wg sync.WaitGroup
	try := func(name string, f func(t *testing.T)) {
		wg.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			t.Run(name, f)
		})
	}
	try("nothing is found in the product as it is", func(t *testing.T) {
		if found, said := hunt(t, build(t, "", "", ""), 40); found {
			t.Errorf("without a mutation: %s", said)
		}
	})
	for _, m := range mutations {
		try(m.name, func(t *testing.T) {
			found, said := hunt(t, build(t, m.file, m.old, m.new), seeds)
			if !found {
				t.Fatalf("not caught by %d seeds: %s", seeds, said)
			}
			t.Logf("caught: %s", said)
		})
	}
	wg.Wait()
	t.Logf("%d mutations in %s", len(mutations), time.Since(began).Round(time.Second))
}
