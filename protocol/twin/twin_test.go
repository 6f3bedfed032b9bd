package twin_test

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

var (
	id = topic.ID{Site: "hall-1", Node: "pump-3"}
	at = time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
)

func desired() twin.Desired {
	m := artifact.Of([]byte("manifest"))
	return twin.Desired{
		Schema: 1, Site: id.Site, Node: id.Node, Generation: 7, IssuedAt: at, ExpiresAt: at.Add(time.Hour),
		Model:  &twin.Assignment{Rollout: "r-7", Name: "pump-anomaly", Counter: 7, Manifest: m, Mode: twin.ModeTrial, Try: 1, Deadline: at.Add(time.Hour), ShadowS: 60, SoakS: 0.5, MinWindows: 3},
		Lease:  &twin.Lease{ID: "r-7/release/1", Manifest: m, ExpiresAt: at.Add(time.Minute)},
		Floors: map[string]uint64{"pump-anomaly": 5},
	}
}

func reported() twin.Reported {
	m := artifact.Of([]byte("manifest"))
	return twin.Reported{
		Schema: 1, Site: id.Site, Node: id.Node, Boot: "b", Seq: 3, Generation: 7, At: at, Class: "pump", Labels: map[string]string{"line": "L1"},
		Agent:    twin.Agent{Version: "1", Arch: "amd64", Protocol: 1, RSSMiB: 40},
		Champion: &twin.Running{Name: "pump-anomaly", Counter: 6, Manifest: m, Model: m, Since: at, Windows: 100},
		Trial: &twin.Trial{Rollout: "r-7", Name: "pump-anomaly", Counter: 7, Manifest: m, Mode: twin.ModeTrial, Try: 1, Phase: twin.PhaseShadowing, Since: at, Attempts: 1,
			Shadow: &twin.Shadow{Items: 60, OnlyChallenger: 1, Index: 4, Windows: []twin.ShadowWindow{{OnlyChallenger: 1, Items: 60}}}},
		Conditions: []twin.Condition{{Type: "ClockSkew", Status: true, Since: at}},
	}
}

func TestDocumentsAreReadAsTheyWereWritten(t *testing.T) {
	b, err := json.Marshal(desired())
	if err != nil {
		t.Fatal(err)
	}
	if d, err := twin.ParseDesired(b, id); err != nil || !reflect.DeepEqual(d, desired()) {
		t.Fatalf("%+v, %v", d, err)
	}
	b, err = json.Marshal(reported())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := twin.ParseReported(b, id); err != nil || !reflect.DeepEqual(r, reported()) {
		t.Fatalf("%+v, %v", r, err)
	}
}

// The files in testdata are what the first version wrote: they have to be read
// for ever.
func TestDocumentsOfTheFirstVersionAreRead(t *testing.T) {
	b, err := os.ReadFile("testdata/desired-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := twin.ParseDesired(b, id); err != nil || !reflect.DeepEqual(d, desired()) {
		t.Fatalf("%+v, %v", d, err)
	}
	if b, err = os.ReadFile("testdata/reported-v1.json"); err != nil {
		t.Fatal(err)
	}
	if r, err := twin.ParseReported(b, id); err != nil || !reflect.DeepEqual(r, reported()) {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestANewerHubMaySayMore(t *testing.T) {
	d, err := twin.ParseDesired([]byte(`{"schema":1,"site":"hall-1","node":"pump-3","generation":2,"colour":"blue"}`), id)
	if err != nil || d.Generation != 2 || d.Model != nil || d.Lease != nil {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestBadDocumentsAreRefusedWithTheReason(t *testing.T) {
	windows := strings.TrimSuffix(strings.Repeat(`{"a":0,"b":0,"n":1},`, twin.MaxShadowWindows+1), ",")
	head := `{"schema":1,"site":"hall-1","node":"pump-3"`
	for name, tc := range map[string]struct{ doc, want string }{
		"not JSON":                   {`{`, "unexpected EOF"},
		"bytes after it":             {head + `} x`, "bytes after the document"},
		"another schema":             {`{"schema":2,"site":"hall-1","node":"pump-3"}`, "schema 2: this version reads 1"},
		"another device":             {`{"schema":1,"site":"hall-1","node":"pump-4"}`, "hall-1/pump-4"},
		"too long":                   {strings.Repeat(" ", twin.MaxDocumentBytes+1), "are over"},
		"a wrong type":               {head + `,"generation":"x"}`, "generation"},
		"too many windows":           {head + `,"trial":{"shadow":{"windows":[` + windows + `]}}}`, "shadow windows"},
		"too many metrics":           {head + `,"metrics":{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1,"l":1,"m":1,"n":1,"o":1,"p":1,"q":1}}`, "17 metrics: at most 16"},
		"a metric without a name":    {head + `,"metrics":{"":1}}`, "metric \"\""},
		"a metric with a long name":  {head + `,"metrics":{"` + strings.Repeat("a", 41) + `":1}}`, "at most 40"},
		"a metric of another script": {head + `,"metrics":{"Öl":1}}`, "small letters"},
		"a manifest that is not one": {head + `,"model":{"manifest":"md5:1","mode":"trial"}}`, "want sha256:"},
		"an unknown mode":            {head + `,"firmware":{"manifest":"sha256:` + strings.Repeat("0", 64) + `","mode":"now"}}`, `unknown mode "now"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, derr := twin.ParseDesired([]byte(tc.doc), id)
			_, rerr := twin.ParseReported([]byte(tc.doc), id)
			if (derr == nil || !strings.Contains(derr.Error(), tc.want)) && (rerr == nil || !strings.Contains(rerr.Error(), tc.want)) {
				t.Fatalf("errors %v and %v, want %q", derr, rerr, tc.want)
			}
		})
	}
}

func TestFourPhasesEndATrial(t *testing.T) {
	n := 0
	for _, p := range []twin.Phase{
		twin.PhaseNone, twin.PhaseFetching, twin.PhaseVerifying, twin.PhaseGuarding, twin.PhaseLoading, twin.PhaseTesting, twin.PhaseShadowing,
		twin.PhaseReady, twin.PhaseActivating, twin.PhaseSoaking, twin.PhaseConfirmed, twin.PhaseFailed, twin.PhaseRolledBack, twin.PhaseDropped,
	} {
		if p.Final() {
			n++
		}
	}
	if n != 4 {
		t.Fatalf("%d", n)
	}
}

func FuzzDocuments(f *testing.F) {
	for _, v := range []any{desired(), reported(), map[string]any{"schema": 1}} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := twin.ParseDesired(b, id); err == nil {
			again, err := json.Marshal(d)
			if err != nil {
				t.Fatalf("accepted what cannot be written: %v", err)
			}
			if _, err := twin.ParseDesired(again, id); err != nil && len(again) <= twin.MaxDocumentBytes {
				t.Fatalf("cannot read its own document: %v", err)
			}
		}
		if r, err := twin.ParseReported(b, id); err == nil {
			if _, err := json.Marshal(r); err != nil {
				t.Fatalf("accepted what cannot be written: %v", err)
			}
		}
	})
}
