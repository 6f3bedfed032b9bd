package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/frames"
	"github.com/swellfleet/swell/agent/source/images"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

// shoot writes a picture of about one brightness into a camera's folder, by
// rename, and returns its digest.
func shoot(t *testing.T, dir, name string, level byte, seed uint64) artifact.Digest {
	t.Helper()
	r, m := rand.New(rand.NewPCG(seed, 7)), image.NewGray(image.Rect(0, 0, 40, 30))
	for i := range m.Pix {
		m.Pix[i] = level + byte(r.IntN(3))
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "."+name), b.String())
	if err := os.Rename(filepath.Join(dir, "."+name), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	return artifact.Of(b.Bytes())
}

// catalogue returns the digests of the frames that the hub shows of a device.
func catalogue(ctx context.Context, h *local.Hub, id topic.ID) (map[artifact.Digest]apimodel.Frame, error) {
	name := id.String()
	resp, err := h.API.ListFramesWithResponse(ctx, &apimodel.ListFramesParams{Device: &name})
	if err != nil {
		return nil, err
	}
	if resp.JSON200 == nil {
		return nil, fmt.Errorf("frames of %s: the hub answers %d: %s", id, resp.StatusCode(), resp.Body)
	}
	out := map[artifact.Digest]apimodel.Frame{}
	for _, f := range resp.JSON200.Items {
		out[artifact.Digest(f.Digest)] = f
	}
	return out, nil
}

// TestACamerasPicturesReachTheCatalogueAndItsModelNamesThem runs a real hub and
// a real agent over MQTT: pictures in a watched folder become frames that
// people can list and see; a rollout gives the camera an image model without
// losing a picture; a restart sends nothing twice.
func TestACamerasPicturesReachTheCatalogueAndItsModelNamesThem(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	h, err := local.Start(ctx, hub.Config{DataDir: filepath.Join(dir, "hub"), Rollouts: hub.Rollouts{Policies: local.AtOnce("at-once")}}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	id, pictures := topic.ID{Site: "hall-1", Node: "camera-1"}, filepath.Join(dir, "pictures")
	if err := os.Mkdir(pictures, 0o755); err != nil {
		t.Fatal(err)
	}
	device := fleet.Device{ID: id, Class: class}
	token, err := h.Fleet().Token(ctx, device)
	if err != nil {
		t.Fatal(err)
	}
	at := h.Fleet()
	start := func() (a *agent.Agent, stop func()) {
		a, err := agent.New(agent.Config{
			Site: id.Site, Node: id.Node, Class: class, StateDir: filepath.Join(dir, "device"),
			Hub:    agent.Hub{URL: at.URL, MQTT: at.MQTT, CAPEM: at.CAPEM, Token: token, ReconnectMinS: 0.05, ReconnectMaxS: 0.5},
			Trust:  agent.Trust{KeysPEM: at.KeysPEM, LedgerKey: at.LedgerKey},
			Source: agent.Source{Kind: "images", Images: images.Config{Dir: pictures, Watch: true}},
			Frames: frames.Config{Upload: frames.All}, Telemetry: agent.Telemetry{BlockS: 0.2}, Spool: agent.Spool{SyncS: 0.05}, HeartbeatS: 0.3, Status: "off",
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		stopped := false
		stop = func() {
			if stopped {
				return
			}
			stopped = true
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		t.Cleanup(stop)
		return a, stop
	}
	kept := func(want []artifact.Digest) map[artifact.Digest]apimodel.Frame {
		t.Helper()
		var found map[artifact.Digest]apimodel.Frame
		until(t, 60*time.Second, fmt.Sprintf("%d pictures in the catalogue", len(want)), func() (bool, error) {
			var err error
			found, err = catalogue(ctx, h, id)
			return err == nil && !slices.ContainsFunc(want, func(d artifact.Digest) bool { _, ok := found[d]; return !ok }), err
		})
		if len(found) != len(want) {
			t.Errorf("%d pictures are in the catalogue, %d were taken", len(found), len(want))
		}
		return found
	}

	a, stop := start()
	var taken []artifact.Digest
	for i := range 3 {
		taken = append(taken, shoot(t, pictures, fmt.Sprintf("before-%d.png", i), 40, uint64(i)))
	}
	for d, f := range kept(taken) {
		if f.Why != "all" || f.Release != nil || f.Width != 40 || f.Height != 30 || f.Format != "png" || f.Class != string(class) {
			t.Errorf("frame %+v", f)
		}
		resp, err := h.API.GetFrameImageWithResponse(ctx, string(d))
		if err != nil {
			t.Fatal(err)
		}
		if artifact.Of(resp.Body) != d {
			t.Errorf("the hub shows another picture for %s: it answers %d", d.Short(), resp.StatusCode())
		}
	}

	made, err := h.PublishModel(ctx, candidate(agenttest.Model{Side: 16, Threshold: 0.9}, nil))
	if err != nil {
		t.Fatal(err)
	}
	name, err := propose(ctx, h, made.Manifest.ID(), "at-once")
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	until(t, 60*time.Second, "the camera to take the model", func() (bool, error) {
		r := a.Reported()
		if r.Trial != nil && (r.Trial.Phase == twin.PhaseFailed || r.Trial.Phase == twin.PhaseRolledBack) {
			return false, fmt.Errorf("the model was refused: %s", r.Trial.Reason)
		}
		return r.Champion != nil, nil
	})
	for ; i < 3; i++ { // the soak wants pictures
		taken = append(taken, shoot(t, pictures, fmt.Sprintf("after-%d.png", i), byte(20+100*i), uint64(100+i)))
	}
	if err := h.Promoted(ctx, name, func(string) {}); err != nil {
		t.Fatal(err)
	}
	tops := map[string]int{}
	for _, f := range kept(taken) {
		if f.Release != nil && f.Top != nil {
			tops[*f.Top]++
		}
	}
	if tops["dark"] != 2 || tops["bright"] != 1 {
		t.Errorf("the model named %v", tops)
	}
	until(t, 30*time.Second, "verdicts with classes", func() (bool, error) {
		vs, err := h.Verdicts(ctx, id)
		var classes []int
		for _, v := range vs {
			if v.Probability < 0.5 {
				return false, fmt.Errorf("verdict %+v", v)
			}
			classes = append(classes, v.Class)
		}
		slices.Sort(classes)
		return slices.Equal(classes, []int{0, 0, 1}), err
	})

	stop()
	again, _ := start()
	taken = append(taken, shoot(t, pictures, "later.png", 50, 1000))
	kept(taken)
	if f := again.Reported().Frames; f == nil || f.Sent != uint64(len(taken)) || f.Chosen != uint64(len(taken)) || f.Refused != 0 {
		t.Errorf("the device reports %+v of %d pictures", f, len(taken))
	}
	if r := again.Reported(); r.Stream.Samples != uint64(len(taken)) || r.Stream.WindowsLost != 0 {
		t.Errorf("stream %+v", r.Stream)
	}
}
