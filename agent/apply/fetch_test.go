package apply_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/update"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
	"github.com/swellfleet/swell/protocol/twin"
)

// shop is a release server that counts what it sends of the model.
type shop struct {
	*rig
	sent int
}

func newShop(t *testing.T, r agenttest.Release, answer func(w http.ResponseWriter, req *http.Request, n int, content []byte) bool) *shop {
	s := &shop{}
	n := 0
	serve := func(w http.ResponseWriter, req *http.Request, _ int, content []byte) bool {
		if !strings.HasSuffix(req.URL.Path, "model.onnx") {
			return false
		}
		n++
		c := &counting{ResponseWriter: w}
		defer func() { s.sent += c.n }()
		if answer != nil && answer(c, req, n, content) {
			return true
		}
		http.ServeContent(c, req, "", epoch, bytes.NewReader(content))
		return true
	}
	s.rig = &rig{t: t, p: &plant{releases: map[artifact.Digest]agenttest.Release{r.Manifest: r}}, s: &story{serve: serve}, hub: &hub{}}
	return s
}

type counting struct {
	http.ResponseWriter
	n int
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += n
	return n, err
}

// stagerOn is what a run of an agent fetches with.
func stagerOn(t *testing.T, d disk.FS, press *agenttest.Press, s *shop, budget int64) *apply.Stager {
	t.Helper()
	roots, err := trust.ParseRoots([]byte(press.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.MkdirAll("slots"); err != nil {
		t.Fatal(err)
	}
	return apply.NewStager(apply.StagerConfig{
		Disk: d, Roots: func() trust.Roots { return roots }, Kind: artifact.Model, Class: "pump", Arch: runtime.GOARCH, Folder: "slots",
		Log: slog.New(slog.DiscardHandler), Base: "http://hub", Client: &http.Client{Transport: s}, ByteBudget: budget,
	})
}

const modelBytes = 100_000

func large(press *agenttest.Press) agenttest.Release {
	return press.Release(agenttest.Order{Counter: 1, Bytes: bytes.Repeat([]byte("0123456789"), modelBytes/10), Golden: []byte("{}")})
}

func fetch(s *apply.Stager, r agenttest.Release) error {
	return s.Fetch(context.Background(), r.Manifest, func(int64, int64) {})
}

func TestADownloadGoesOnWhereItBrokeOff(t *testing.T) {
	half := func(w http.ResponseWriter, _ *http.Request, n int, content []byte) bool {
		if n == 1 {
			_, _ = w.Write(content[:modelBytes/2])
		}
		return n == 1
	}
	for _, tc := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request, n int, content []byte) bool
		want   int // bytes of the model that came in all
	}{
		{"by range", half, modelBytes},
		{"a server that ignores the range sends all again", func(w http.ResponseWriter, r *http.Request, n int, content []byte) bool {
			if n > 1 {
				_, _ = w.Write(content)
				return true
			}
			return half(w, r, n, content)
		}, modelBytes * 3 / 2},
		{"a server that sends another range is asked again", func(w http.ResponseWriter, r *http.Request, n int, content []byte) bool {
			if n == 2 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", modelBytes-1, modelBytes))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(content)
				return true
			}
			return half(w, r, n, content)
		}, modelBytes * 2},
		{"what does not fit together is fetched from the start", func(w http.ResponseWriter, r *http.Request, n int, content []byte) bool {
			if n == 1 {
				_, _ = w.Write(bytes.Repeat([]byte{'x'}, modelBytes/2))
				return true
			}
			return false
		}, modelBytes * 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			press := agenttest.NewPress()
			r := large(press)
			d, shop := &disk.Mem{}, newShop(t, r, tc.answer)
			s := stagerOn(t, d, press, shop, 1<<20)
			var err error
			for range 4 { // the machine's retries
				if err = fetch(s, r); err == nil {
					break
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Verify(r.Manifest, artifact.Held{}); err != nil {
				t.Fatal(err)
			}
			if shop.sent != tc.want {
				t.Errorf("%d bytes of the model were sent, want %d", shop.sent, tc.want)
			}
		})
	}
}

func TestABudgetHoldsAcrossRetriesAndRestarts(t *testing.T) {
	broken := func(w http.ResponseWriter, req *http.Request, _ int, content []byte) bool {
		_, _ = w.Write(content[:modelBytes/10]) // never a range, never the end
		return true
	}
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarts %t", restarts), func(t *testing.T) {
			press := agenttest.NewPress()
			r := large(press)
			d, shop := &disk.Mem{}, newShop(t, r, broken)
			const budget = 5 * modelBytes / 2
			s := stagerOn(t, d, press, shop, budget)
			var err error
			tries := 0
			for ; tries < 100; tries++ {
				if err = fetch(s, r); err != nil && strings.Contains(err.Error(), "passed its budget") {
					break
				}
				if restarts {
					d = d.Crash(nil)
					s = stagerOn(t, d, press, shop, budget)
				}
			}
			if tries == 100 {
				t.Fatal("the budget never ran out")
			}
			if shop.sent > budget {
				t.Errorf("%d bytes came, the budget is %d", shop.sent, budget)
			}
			if !strings.Contains(err.Error(), "hub.byte_budget_mib") {
				t.Errorf("says %v", err)
			}
			var failed string
			runner := apply.NewRunner(slog.New(slog.DiscardHandler))
			answerTo(runner, func() error { return fetch(s, r) }, func(code twin.Code, retry bool) { failed = fmt.Sprint(code, retry) })
			if failed != fmt.Sprint(twin.CodeFetch, false) {
				t.Errorf("the machine hears %s", failed)
			}
			// Another offer, after this one was dropped, begins anew.
			s.Clean(nil)
			shop.s.serve = nil
			if err := fetch(s, r); err != nil {
				t.Errorf("after it was dropped: %v", err)
			}
		})
	}
}

func TestAReleaseLargerThanItsBudgetIsNotBegun(t *testing.T) {
	press := agenttest.NewPress()
	r := large(press)
	shop := newShop(t, r, nil)
	s := stagerOn(t, &disk.Mem{}, press, shop, modelBytes/2)
	if err := fetch(s, r); err == nil || !strings.Contains(err.Error(), "budget") {
		t.Errorf("got %v", err)
	}
	if shop.sent > 0 {
		t.Errorf("%d bytes came", shop.sent)
	}
}

// answerTo runs one action and hands on how it failed.
func answerTo(runner *apply.Runner, perform func() error, heard func(twin.Code, bool)) {
	runner.Start(context.Background(), update.Action{ID: 1, Kind: update.ActFetch}, func(e update.Event) {
		if f, ok := e.(update.Failed); ok {
			heard(f.Code, f.Retryable)
		}
	}, func(context.Context) (update.Release, error) { return update.Release{}, perform() })
	runner.Wait()
}
