package ledger_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/protocol/trust"
)

func open(t testing.TB, dir string) *ledger.Log {
	t.Helper()
	l, err := ledger.Open(context.Background(), ledger.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

func event(i int) ledger.Event {
	return ledger.Event{
		Time:  time.Date(2026, 11, 22, 3, 0, i, 0, time.UTC),
		Actor: []string{"user:anna", "hub", "user:ben"}[i%3], Action: []string{"rollout.pause", "rollout.resume", "device.enroll"}[i%3],
		Object: fmt.Sprintf("Rollout/r-%d", i%5), Reason: fmt.Sprintf("reason %d", i), Detail: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)),
	}
}

// mustProve checks that e is at r.Index with r's proof.
func mustProve(t testing.TB, l *ledger.Log, e ledger.Event, r ledger.Receipt) tlog.Tree {
	t.Helper()
	leaf, err := e.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := trust.VerifyReceipt(l.VerifierKey(), leaf, r)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestAnAppendedEventIsProvenAtOnceAndAfterARestart(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	r, err := l.Append(t.Context(), event(0))
	if err != nil {
		t.Fatal(err)
	}
	then := mustProve(t, l, event(0), r)
	if _, err := l.AppendSignature(t.Context(), []byte(`{"apiVersion":"0.0.2"}`)); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 4; i++ {
		if _, err := l.Append(t.Context(), event(i)); err != nil {
			t.Fatal(err)
		}
	}
	vkey := l.VerifierKey()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), event(9)); err == nil {
		t.Error("a closed ledger took an event")
	}

	l = open(t, dir)
	if l.VerifierKey() != vkey {
		t.Fatal("the key changed with the restart")
	}
	mustProve(t, l, event(0), r) // the old receipt still holds
	again, err := l.Proof(t.Context(), r.Index)
	if err != nil {
		t.Fatal(err)
	}
	now := mustProve(t, l, event(0), again)
	checkpoint, growth, err := l.Growth(t.Context(), uint64(then.N))
	if err != nil || checkpoint != again.Checkpoint {
		t.Fatal(checkpoint, err)
	}
	if err := trust.CheckGrowth(then, now, growth); err != nil || now.N != 5 {
		t.Errorf("growth to %d: %v", now.N, err)
	}
	leaf, e, err := l.Leaf(t.Context(), r.Index)
	want, _ := event(0).Leaf()
	if err != nil || string(leaf) != string(want) || e.Reason != "reason 0" {
		t.Errorf("leaf %s, %+v, %v", leaf, e, err)
	}
	if _, tree, err := l.Head(t.Context()); err != nil || tree != now {
		t.Errorf("head %v, %v", tree, err)
	}
	for _, err := range []error{
		func() error { _, err := l.Proof(t.Context(), 5); return err }(),
		func() error { _, _, err := l.Leaf(t.Context(), 5); return err }(),
	} {
		if !errors.Is(err, ledger.ErrNoEntry) {
			t.Errorf("an entry past the end: %v", err)
		}
	}
	if _, _, err := l.Growth(t.Context(), 6); err == nil {
		t.Error("growth from past the end was proven")
	}
}

func TestASingleEventDoesNotWaitLong(t *testing.T) {
	l := open(t, t.TempDir())
	var worst time.Duration
	for i := range 10 {
		began := time.Now()
		if _, err := l.Append(t.Context(), event(i)); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(began))
	}
	t.Logf("worst of ten single appends: %v", worst)
	if worst > 5*time.Second { // the aim is a quarter of a second; a loaded machine is forgiven
		t.Errorf("an append took %v", worst)
	}
}

func TestEventsAppendedAtOnceAllGetTheirOwnPlace(t *testing.T) {
	l := open(t, t.TempDir())
	const n = 600 // more than two bundles of 256
	receipts := make([]ledger.Receipt, n)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		wg.Go(func() {
			r, err := l.Append(t.Context(), event(i))
			if err != nil {
				t.Error(err)
			}
			receipts[i] = r
		})
	}
	wg.Wait()
	t.Logf("%d events at once: %v", n, time.Since(began))
	seen := map[uint64]bool{}
	for i, r := range receipts {
		if seen[r.Index] || r.Index >= n {
			t.Fatalf("event %d has place %d", i, r.Index)
		}
		seen[r.Index] = true
		mustProve(t, l, event(i), r)
	}
	var all []ledger.Entry
	for cursor := ""; ; {
		page, next, err := l.Events(t.Context(), ledger.Filter{}, cursor, 100)
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, page...); next == "" {
			break
		}
		cursor = next
	}
	if len(all) != n {
		t.Fatalf("%d events listed of %d", len(all), n)
	}
	for i, e := range all {
		if e.Index != uint64(n-1-i) {
			t.Fatalf("place %d of the list holds entry %d", i, e.Index)
		}
	}
}

func TestEventsAreListedNewestFirstAndFiltered(t *testing.T) {
	l := open(t, t.TempDir())
	for i := range 15 {
		var wg sync.WaitGroup
		wg.Go(func() {
			if i%4 == 0 {
				if _, err := l.AppendSignature(t.Context(), fmt.Appendf(nil, `{"apiVersion":"%d"}`, i)); err != nil {
					t.Error(err)
				}
			}
		})
		if _, err := l.Append(t.Context(), event(i)); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	at := func(i int) time.Time { return event(i).Time }
	for _, c := range []struct {
		name   string
		filter ledger.Filter
		want   []int
	}{
		{"all", ledger.Filter{}, []int{14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}},
		{"of an actor", ledger.Filter{Actor: "user:anna"}, []int{12, 9, 6, 3, 0}},
		{"on an object", ledger.Filter{Object: "Rollout/r-2"}, []int{12, 7, 2}},
		{"of an actor on an object", ledger.Filter{Actor: "user:anna", Object: "Rollout/r-2"}, []int{12}},
		{"of an action", ledger.Filter{Action: "device.enroll"}, []int{14, 11, 8, 5, 2}},
		{"of a kind of action", ledger.Filter{Action: "rollout."}, []int{13, 12, 10, 9, 7, 6, 4, 3, 1, 0}},
		{"of part of an action", ledger.Filter{Action: "rollout"}, nil},
		{"since and until", ledger.Filter{Since: at(4), Until: at(7)}, []int{6, 5, 4}},
		{"of nobody", ledger.Filter{Actor: "user:nobody"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, limit := range []int{0, 1, 4} {
				var got []int
				for cursor := ""; ; {
					page, next, err := l.Events(t.Context(), c.filter, cursor, limit)
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range page {
						got = append(got, int(e.Time.Sub(at(0))/time.Second))
					}
					if next == "" {
						break
					}
					cursor = next
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("pages of %d: %v, want %v", limit, got, c.want)
				}
			}
		})
	}
	if _, _, err := l.Events(t.Context(), ledger.Filter{}, "yesterday", 0); err == nil {
		t.Error("a cursor that is none was taken")
	}
}

func TestAnEventUnfitForTheLogIsRefused(t *testing.T) {
	l := open(t, t.TempDir())
	for name, e := range map[string]ledger.Event{
		"no actor":               {Action: "a"},
		"no action":              {Actor: "hub"},
		"a long reason":          {Actor: "hub", Action: "a", Reason: strings.Repeat("x", ledger.MaxFieldBytes+1)},
		"not UTF-8":              {Actor: "hub", Action: "a", Object: "\xff"},
		"a detail that is huge":  {Actor: "hub", Action: "a", Detail: json.RawMessage(`{"x":"` + strings.Repeat("x", ledger.MaxDetailBytes) + `"}`)},
		"a detail that is text":  {Actor: "hub", Action: "a", Detail: json.RawMessage(`"x"`)},
		"a detail that is blank": {Actor: "hub", Action: "a", Detail: json.RawMessage(` `)},
		"a detail that is empty": {Actor: "hub", Action: "a", Detail: json.RawMessage{}},
	} {
		if _, err := l.Append(t.Context(), e); err == nil {
			t.Errorf("%s: was appended", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ctx, event(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that had ended: %v", err)
	}
}

func TestTwoHubsMayShareALedger(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	for i := range 6 {
		l := a
		if i%2 == 1 {
			l = b
		}
		r, err := l.Append(t.Context(), event(i))
		if err != nil {
			t.Fatal(err)
		}
		mustProve(t, a, event(i), r)
	}
	for _, l := range []*ledger.Log{a, b} {
		if page, _, err := l.Events(t.Context(), ledger.Filter{}, "", 0); err != nil || len(page) != 6 {
			t.Errorf("%d events, %v", len(page), err)
		}
	}
}

func TestALogThatIsReplacedUnderARunningHubIsNoticed(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	l := open(t, dir)
	if _, err := l.Append(t.Context(), event(0)); err != nil {
		t.Fatal(err)
	}
	// A log by the same key with another, longer past.
	copyFile(t, filepath.Join(dir, "ledger.key"), filepath.Join(other, "ledger.key"))
	if err := os.Chmod(filepath.Join(other, "ledger.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	forged := open(t, other)
	for i := 1; i < 4; i++ {
		if _, err := forged.Append(t.Context(), event(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := forged.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "tree"), filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "tree"), os.DirFS(filepath.Join(other, "tree"))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), event(5)); err == nil || !strings.Contains(err.Error(), "do not begin with") {
		t.Fatalf("an event went into the forged log: %v", err)
	}
}

func TestAKillBeforeTheFirstCheckpointIsMended(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "tree", "checkpoint")); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir)
	r, err := l.Append(t.Context(), event(0))
	if err != nil {
		t.Fatal(err)
	}
	mustProve(t, l, event(0), r)
}

func TestAChangedPastIsNoticedAtOpening(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
	}{
		{"a word in an old event", func(t *testing.T, dir string) {
			replaceInFiles(t, filepath.Join(dir, "tree", "tile", "entries"), "reason 1", "reason X")
		}},
		{"a checkpoint of another key", func(t *testing.T, dir string) {
			other := t.TempDir()
			l := open(t, other)
			if _, err := l.Append(t.Context(), event(0)); err != nil {
				t.Fatal(err)
			}
			copyFile(t, filepath.Join(other, "tree", "checkpoint"), filepath.Join(dir, "tree", "checkpoint"))
		}},
		{"a lost key", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "ledger.key")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a key others can read", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "ledger.key"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"a broken key", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "ledger.key"), []byte("PRIVATE+KEY+x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir)
			for i := range 3 {
				if _, err := l.Append(t.Context(), event(i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.change(t, dir)
			if _, err := ledger.Open(t.Context(), ledger.Config{Dir: dir}); err == nil {
				t.Fatal("was opened")
			} else {
				t.Log(err)
			}
		})
	}
	if _, err := ledger.Open(t.Context(), ledger.Config{}); err == nil {
		t.Error("no folder was enough")
	}
	if _, err := ledger.Open(t.Context(), ledger.Config{Dir: t.TempDir(), Origin: "Not A Host"}); err == nil {
		t.Error("an origin that is no host name was taken")
	}
}

func replaceInFiles(t *testing.T, dir, from, to string) {
	t.Helper()
	changed := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), from) {
			return err
		}
		changed++
		return os.WriteFile(path, []byte(strings.ReplaceAll(string(b), from, to)), 0o644)
	})
	if err != nil || changed == 0 {
		t.Fatalf("%d files changed, %v", changed, err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// childDir tells a re-executed test binary to append to the ledger there until
// it is killed, printing each receipt's index once it has it.
const childDir = "SWELL_TEST_LEDGER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		appendForever(dir, os.Getenv(childDir+"_RUN"))
	}
	os.Exit(m.Run())
}

func appendForever(dir, run string) {
	l, err := ledger.Open(context.Background(), ledger.Config{Dir: dir})
	if err != nil {
		fmt.Println("cannot open:", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for worker := range 4 {
		go func() {
			for i := 0; ; i++ {
				e := ledger.Event{Time: time.Unix(1, 0), Actor: "hub", Action: "test.append", Object: "Run/" + run, Reason: fmt.Sprintf("%d-%d", worker, i)}
				r, err := l.Append(context.Background(), e)
				if err != nil {
					fmt.Println("cannot append:", err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(r.Index, e.Reason)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// TestNothingAcknowledgedIsLostWhenTheHubIsKilled kills a writing process at
// random moments and looks for every event it had a receipt for.
func TestNothingAcknowledgedIsLostWhenTheHubIsKilled(t *testing.T) {
	kills := 12
	if testing.Short() {
		kills = 3
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	type acked struct {
		index       uint64
		run, reason string
	}
	var all []acked
	var then tlog.Tree
	for k := range kills {
		run := fmt.Sprint(k)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		cmd := exec.CommandContext(ctx, exe)
		cmd.Env = append(os.Environ(), childDir+"="+dir, childDir+"_RUN="+run)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := func(within time.Duration) {
			time.AfterFunc(rand.N(within), func() { _ = cmd.Process.Kill() })
		}
		if k%3 == 0 { // also while it starts
			kill(60 * time.Millisecond)
		}
		lines := bufio.NewScanner(out)
		// After some acknowledgements, at a moment that is not one of them.
		after := rand.IntN(12)
		var once sync.Once
		for n := 0; lines.Scan(); n++ {
			a := acked{run: run}
			if _, err := fmt.Sscan(lines.Text(), &a.index, &a.reason); err != nil {
				t.Fatalf("the child said %q", lines.Text())
			}
			all = append(all, a)
			if n >= after {
				once.Do(func() { kill(150 * time.Millisecond) })
			}
		}
		_ = cmd.Wait() // it was killed
		cancel()

		l := open(t, dir)
		for _, a := range all {
			_, e, err := l.Leaf(t.Context(), a.index)
			if err != nil || e.Object != "Run/"+a.run || e.Reason != a.reason {
				t.Fatalf("after kill %d: entry %d is %+v, %v; acknowledged was %s of run %s", k, a.index, e, err, a.reason, a.run)
			}
		}
		r, err := l.Append(t.Context(), event(k))
		if err != nil {
			t.Fatalf("after kill %d: %v", k, err)
		}
		mustProve(t, l, event(k), r)
		_, growth, err := l.Growth(t.Context(), uint64(then.N))
		if err != nil {
			t.Fatal(err)
		}
		_, now, err := l.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := trust.CheckGrowth(then, now, growth); err != nil {
			t.Fatalf("after kill %d: %v", k, err)
		}
		then = now
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d acknowledged events, log of %d", kills, len(all), then.N)
}
