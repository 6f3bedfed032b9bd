package hub_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/series/influx/influxtest"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// secret writes a file that only the hub reads.
func secret(t *testing.T, s string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(s+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// until looks until it is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// rows is a block of n rows of pressure from begin on, a row a tenth of a second.
func rows(t *testing.T, begin time.Time, n int) []byte {
	t.Helper()
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(i)
	}
	b, err := telemetry.Block{Boot: 1, Seq: 1, Stream: telemetry.Raw, T0: begin.UnixNano(), RateHz: 10, Signals: []telemetry.Signal{{Name: "pressure", Unit: "bar", Values: values}}}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChartsComeFromInfluxDBWhereThereIsOne(t *testing.T) {
	db := influxtest.New(t)
	cfg := onFreePorts(t.TempDir())
	cfg.Series.Influx = &hub.Influx{URL: db.URL, TokenFile: secret(t, influxtest.Token), Org: influxtest.Org, Bucket: influxtest.Bucket}
	r := start(t, cfg, "")
	d := r.enrol(t, topic.ID{Site: "hall-1", Node: "pump-1"})
	d.connect(t, r.Addrs().MQTT)
	begin := time.Now().Add(-10 * time.Minute).UTC().Truncate(time.Minute)
	d.publish(t, topic.Blocks, rows(t, begin, 2400)) // four minutes
	until(t, "rollups in InfluxDB", func() bool { return db.Writes() > 0 })
	points := 4
	s, err := r.api.QuerySeriesWithResponse(t.Context(), &apimodel.QuerySeriesParams{Node: "hall-1/pump-1", Signal: "pressure", From: begin, To: begin.Add(4 * time.Minute), MaxPoints: &points})
	if err != nil || s.JSON200 == nil || s.JSON200.ResolutionMs == 0 || len(s.JSON200.Mean) == 0 || s.JSON200.Mean[0] < 200 || s.JSON200.Mean[0] > 400 {
		t.Errorf("chart: %v, %s", err, s.Body)
	}
	health, err := r.api.GetHealthWithResponse(t.Context())
	if err != nil || !strings.Contains(string(health.Body), `"influx"`) || !health.JSON200.Ok {
		t.Errorf("health: %v, %s", err, health.Body)
	}
}

func TestAnInfluxDBThatCannotBeUsedIsSaidToPeopleAndStopsNothing(t *testing.T) {
	db := influxtest.New(t)
	cfg := onFreePorts(t.TempDir())
	cfg.Series.Influx = &hub.Influx{URL: db.URL, TokenFile: secret(t, influxtest.Token), Org: influxtest.Org, Bucket: "no-such-bucket"}
	r := start(t, cfg, "")
	d := r.enrol(t, topic.ID{Site: "hall-1", Node: "pump-1"})
	d.connect(t, r.Addrs().MQTT)
	d.publish(t, topic.Blocks, rows(t, time.Now().Add(-time.Minute), 10)) // acknowledged all the same
	o, err := r.api.GetOverviewWithResponse(t.Context())
	if err != nil || o.JSON200 == nil {
		t.Fatalf("overview: %v", err)
	}
	for _, need := range o.JSON200.NeedsMe {
		if need.Kind == "Hub" && need.Name == "influx" && strings.Contains(need.Message, `bucket "no-such-bucket"`) {
			return
		}
	}
	t.Errorf("nobody is told of the missing bucket: %s", o.Body)
}

func TestDevicesReachTheHubThroughAnotherBroker(t *testing.T) {
	addr := mosquitto(t)
	cfg := onFreePorts(t.TempDir())
	cfg.Broker.External = &hub.ExternalBroker{URL: "tcp://" + addr}
	r := start(t, cfg, "")
	d := r.enrol(t, topic.ID{Site: "hall-1", Node: "pump-1"})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	d.session(t, conn)
	begin := time.Now().Add(-time.Minute).UTC()
	block := rows(t, begin, 10)
	// The broker acknowledges whether or not the hub listens already, so that
	// the block is sent until the hub has it, as a device's spool would.
	until(t, "the rows at the hub", func() bool {
		d.publish(t, topic.Blocks, block)
		s, err := r.api.QuerySeriesWithResponse(t.Context(), &apimodel.QuerySeriesParams{Node: "hall-1/pump-1", Signal: "pressure", From: begin.Add(-time.Second), To: begin.Add(time.Minute)})
		return err == nil && s.JSON200 != nil && len(s.JSON200.Mean) == 10
	})
}

// mosquitto runs the broker of Debian's package for one test.
func mosquitto(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		if bin = "/usr/sbin/mosquitto"; !exists(bin) {
			t.Skip("mosquitto is not installed: apt-get install mosquitto")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	file := secret(t, fmt.Sprintf("user root\nlistener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\npersistence false", port))
	cmd := exec.Command(bin, "-c", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	until(t, "mosquitto", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return addr
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestWhatMattersOfADevicesWordsIsInTheAuditLogBeforeItIsAcknowledged(t *testing.T) {
	r := start(t, onFreePorts(t.TempDir()), "")
	d := r.enrol(t, topic.ID{Site: "hall-1", Node: "pump-1"})
	d.connect(t, r.Addrs().MQTT)
	report := func(seq uint64, trial *twin.Trial) {
		b, err := json.Marshal(twin.Reported{Schema: 1, Site: "hall-1", Node: "pump-1", Boot: "b", Seq: seq, Class: "pump", Trial: trial})
		if err != nil {
			t.Fatal(err)
		}
		d.publish(t, topic.Reported, b)
	}
	seven := twin.Trial{Name: "pump-anomaly", Counter: 7, Manifest: artifact.Of([]byte("7")), Rollout: "r-7", Mode: twin.ModeTrial, Attempts: 1}
	report(1, nil)
	seven.Phase = twin.PhaseVerifying
	report(2, &seven)
	seven.Phase, seven.Code, seven.Reason = twin.PhaseFailed, twin.CodeSignature, "signed by a key this device does not trust"
	report(3, &seven)
	d.publish(t, topic.Events, []byte(`{"type":"quarantine","severity":"warning","message":"pump-anomaly-6 will not be tried again","release":"pump-anomaly-6"}`))
	d.publish(t, topic.Events, []byte(`{"type":"door","message":"somebody opened it"}`))
	// All of it was acknowledged: it is there now.
	actor := "device:hall-1/pump-1"
	audit, err := r.api.ListAuditEventsWithResponse(t.Context(), &apimodel.ListAuditEventsParams{Actor: &actor})
	if err != nil || audit.JSON200 == nil {
		t.Fatalf("%v, %s", err, audit.Body)
	}
	var got []string
	for _, e := range audit.JSON200.Items {
		got = append(got, e.Action+" "+*e.Reason)
	}
	if want := "device.quarantine pump-anomaly-6 will not be tried again; device.refused pump-anomaly-7 was refused: signed by a key this device does not trust"; strings.Join(got, "; ") != want {
		t.Errorf("audit log: %q, want %q", strings.Join(got, "; "), want)
	}
	line, err := r.api.ListDeviceTimelineWithResponse(t.Context(), "hall-1", "pump-1", nil)
	if err != nil || line.JSON200 == nil || !strings.Contains(string(line.Body), "somebody opened it") {
		t.Errorf("history: %v, %s", err, line.Body)
	}
}
