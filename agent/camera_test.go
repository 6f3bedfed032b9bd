package agent_test

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/frames"
	"github.com/swellfleet/swell/agent/source/images"
	"github.com/swellfleet/swell/models/frame"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/twin"
)

// camera is a configuration of a device that watches dir.
func camera(hub *agenttest.Hub, press *agenttest.Press, d disk.FS, dir string) agent.Config {
	c := configure(hub, press, d)
	c.Class = "camera"
	c.Source = agent.Source{Kind: "images", Images: images.Config{Dir: dir, Watch: true}}
	c.Frames = frames.Config{Upload: frames.All, BudgetMiBPerDay: -1}
	return c
}

// take lets the camera write a picture of one brightness, by rename, and
// returns its bytes.
func take(t testing.TB, dir, name string, level byte, mark int) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 32, 24))
	for i := range m.Pix {
		m.Pix[i] = level
	}
	// No two pictures are the same.
	m.SetGray(mark%32, mark/32%24, color.Gray{Y: level ^ 1})
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "."+name), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "."+name), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestACameraTakesAModelAndSendsWhatItIsUnsureOf(t *testing.T) {
	hub, press, dir := agenttest.NewHub(t, pump), agenttest.NewPress(), t.TempDir()
	c := camera(hub, press, &disk.Mem{}, dir)
	c.Frames = frames.Config{SampleShare: -1}
	d := boot(t, c)
	take(t, dir, "first.png", 30, 0)
	hub.Until(t, "the even sample of a device without model", func() bool {
		f := hub.Frames()
		return len(f) == 1 && f[0].Why == telemetry.WhySample && f[0].Release == ""
	})

	sensor := press.Release(agenttest.Order{Counter: 1, Class: "camera", Model: agenttest.Model{}})
	hub.Stock(sensor)
	hub.Offer(sensor, true, nil)
	hub.Await(t, "the refusal of a model for sensors", func(r twin.Reported) bool {
		return r.Trial != nil && r.Trial.Manifest == sensor.Manifest && r.Trial.Phase == twin.PhaseFailed && strings.Contains(r.Trial.Reason, "camera")
	})
	seeing := press.Release(agenttest.Order{Counter: 2, Class: "camera", Model: agenttest.Model{Side: 16, Threshold: 0.9}})
	hub.Stock(seeing)
	hub.Offer(seeing, true, nil)
	hub.Phase(t, seeing, twin.PhaseSoaking) // until it has scored pictures

	take(t, dir, "sure.png", 10, 1)     // dark
	take(t, dir, "unsure.png", 130, 2)  // half and half
	take(t, dir, "strange.png", 250, 3) // above the threshold
	r := hub.Await(t, "all pictures scored", func(r twin.Reported) bool {
		return r.Frames != nil && r.Champion != nil && r.Champion.Windows == 3 && r.Frames.Sent == 3
	})
	hub.Phase(t, seeing, twin.PhaseConfirmed)
	if r.Frames.Chosen != 3 || r.Frames.Refused != 0 || r.Frames.Dropped != 0 || r.Frames.SpoolFrames != 0 || r.Frames.BudgetBytes == nil || r.Stream.WindowsLost != 0 {
		t.Errorf("report %+v, stream %+v", r.Frames, r.Stream)
	}
	why := map[string]telemetry.Frame{}
	for _, f := range hub.Frames() {
		why[f.Why] = f
	}
	if f := why[telemetry.WhyUncertain]; f.Class != "bright" || f.Probability < 0.5 || f.Probability > 0.52 || f.Release != "pump-anomaly-2" || f.Device != "camera" {
		t.Errorf("the unsure one: %+v", f)
	}
	if f := why[telemetry.WhyFlagged]; f.Class != "bright" || f.Score < 0.9 || f.Width != 32 || f.Height != 24 || f.Format != telemetry.PNG {
		t.Errorf("the strange one: %+v", f)
	}
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	raw, _ := hub.Blocks(telemetry.Raw)
	rows := 0
	for _, b := range raw {
		rows += b.Rows()
		if b.Signals[0].Name != frame.FeatureChannels()[0].Name {
			t.Errorf("signal %q", b.Signals[0].Name)
		}
	}
	verdicts, _ := hub.Blocks(telemetry.Verdicts)
	var classes []float32
	for _, b := range verdicts {
		for _, s := range b.Signals {
			if s.Name == telemetry.Class {
				classes = append(classes, s.Values...)
			}
		}
	}
	slices.Sort(classes) // pictures taken within a moment have no order
	if rows != 4 || !slices.Equal(classes, []float32{0, 1, 1}) {
		t.Errorf("%d rows and classes %v", rows, classes)
	}
}

func TestACameraSaysWhatItsBudgetRefusedAndWhatItCouldNotRead(t *testing.T) {
	hub, press, dir := agenttest.NewHub(t, pump), agenttest.NewPress(), t.TempDir()
	c := camera(hub, press, &disk.Mem{}, dir)
	size := len(take(t, dir, "0.png", 100, 0))
	c.Frames.BudgetMiBPerDay = 2.5 * float64(size) / (1 << 20)
	d := boot(t, c)
	for i := 1; i < 5; i++ {
		take(t, dir, strconv.Itoa(i)+".png", 100, i)
	}
	r := hub.Await(t, "five pictures", func(r twin.Reported) bool { return r.Frames != nil && r.Frames.Chosen == 5 && r.Frames.Sent == 2 })
	if r.Frames.Refused != 3 || *r.Frames.BudgetBytes > int64(size) {
		t.Errorf("report %+v with %d bytes left", r.Frames, *r.Frames.BudgetBytes)
	}
	old := filepath.Join(dir, "torn.png")
	if err := os.WriteFile(old, []byte("\x89PNG\r\n\x1a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	long := d.Reported().At.AddDate(0, 0, -1)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	hub.Await(t, "a finding that names the torn picture", func(r twin.Reported) bool {
		return r.Frames.Unreadable == 1 && slices.ContainsFunc(r.Conditions, func(c twin.Condition) bool {
			return c.Type == "PicturesUnreadable" && strings.Contains(c.Message, "torn.png")
		})
	})
	for path, want := range map[string]string{"/": "5 chosen for the hub, 3 over the budget, 2 sent", "/metrics": "swell_agent_pictures_refused_total 3"} {
		w := httptest.NewRecorder()
		d.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s lacks %q:\n%s", path, want, w.Body)
		}
	}
}

func TestPicturesOutliveAKillAndAnAbsentHubAndComeOnce(t *testing.T) {
	hub, press, dir := agenttest.NewHub(t, pump), agenttest.NewPress(), t.TempDir()
	d := &disk.Mem{}
	first := boot(t, camera(hub, press, d, dir))
	hub.Until(t, "the device", func() bool { return len(hub.Reports()) > 0 })
	hub.Online(false)
	taken := map[string]bool{}
	for i := range 6 {
		taken[string(take(t, dir, strconv.Itoa(i)+".png", 50, i))] = true
	}
	hub.Until(t, "pictures that wait on disk", func() bool { r := first.Reported(); return r.Frames != nil && r.Frames.SpoolFrames == 6 })
	// What is on the disk now is what a killed device finds, with the newest
	// seconds of what was not synced.
	hub.Until(t, "the memory of the folder", func() bool {
		n, err := d.Size("source/images")
		return err == nil && n >= 8*5
	})
	dead := d.Crash(func(_ string, n int) int { return n })
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}

	hub.Online(true)
	second := boot(t, camera(hub, press, dead, dir))
	hub.Until(t, "six pictures", func() bool { return len(hub.Frames()) >= 6 && second.Reported().Frames.SpoolFrames == 0 })
	seven := take(t, dir, "6.png", 50, 6)
	taken[string(seven)] = true
	hub.Until(t, "the seventh", func() bool {
		return slices.ContainsFunc(hub.Frames(), func(f telemetry.Frame) bool { return bytes.Equal(f.Encoded, seven) })
	})
	rows, twice := map[uint64]string{}, 0
	for _, f := range hub.Frames() {
		if was, ok := rows[f.Row]; ok && was != string(f.Encoded) {
			t.Errorf("row %d is two pictures", f.Row)
		}
		rows[f.Row] = string(f.Encoded)
		if !taken[string(f.Encoded)] {
			twice++
		}
		delete(taken, string(f.Encoded))
	}
	if len(taken) > 0 || twice > 1 {
		t.Errorf("%d pictures are missing and %d came twice: at most the one in hand may", len(taken), twice)
	}
}
