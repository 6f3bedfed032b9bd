package apply_test

import (
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/enroll"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/trust"
)

func TestAReleaseMayOnlyReplaceWhatTheDeviceHoldsIfItIsNewer(t *testing.T) {
	press := agenttest.NewPress()
	hub := agenttest.NewHub(t, topic.ID{Site: "hall-1", Node: "pump-03"})
	roots, err := trust.ParseRoots([]byte(press.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	d := &disk.Mem{}
	if err := d.MkdirAll("slots"); err != nil {
		t.Fatal(err)
	}
	identity, err := enroll.Open(enroll.Config{Disk: d, ID: hub.ID, CAPEM: []byte(hub.CA), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	s := apply.NewStager(apply.StagerConfig{
		Disk: d, Roots: func() trust.Roots { return roots }, Kind: artifact.Model, Class: "pump", Arch: runtime.GOARCH, Folder: "slots",
		Log: slog.New(slog.DiscardHandler), Base: hub.URL, Client: identity.Client(), ByteBudget: 1 << 20,
	})
	r := press.Release(agenttest.Order{Counter: 6})
	other := press.Release(agenttest.Order{Counter: 6, Model: agenttest.Model{Note: "other"}})
	hub.Stock(r)
	if err := s.Fetch(t.Context(), r.Manifest, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		held    artifact.Held
		refusal string // "": admitted
	}{
		{"nothing is held", artifact.Held{}, ""},
		{"an older one is held", artifact.Held{Floor: 3, Counter: 5, Digest: other.Manifest}, ""},
		{"the very same is held", artifact.Held{Counter: 6, Digest: r.Manifest}, ""},
		{"the same counter with other contents is held", artifact.Held{Counter: 6, Digest: other.Manifest}, "other contents"},
		{"a newer one is held", artifact.Held{Counter: 7, Digest: other.Manifest}, "older than the one held"},
		{"the floor is above it", artifact.Held{Floor: 7}, "below the lowest allowed counter 7"},
		{"the hub ordered a return and the floor allows it", artifact.Held{Floor: 6}, ""},
	} {
		got, err := s.Verify(r.Manifest, c.held)
		switch {
		case c.refusal == "" && (err != nil || got.Counter != 6):
			t.Errorf("%s: %+v, %v", c.name, got, err)
		case c.refusal != "" && (err == nil || !strings.Contains(err.Error(), c.refusal)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.refusal)
		}
	}
}
