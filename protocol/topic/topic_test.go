package topic

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var pump = ID{Site: "plant-1", Node: "pump.7"}

func TestTopicsAreReadBackAsWritten(t *testing.T) {
	for _, tc := range []struct {
		topic string
		want  Topic
	}{
		{"swell/v1/plant-1/pump.7/blocks", Topic{ID: pump, Kind: Blocks}},
		{"swell/v1/plant-1/pump.7/desired", Topic{ID: pump, Kind: Desired}},
		{"swell/v1/plant-1/pump.7/reported", Topic{ID: pump, Kind: Reported}},
		{"swell/v1/plant-1/pump.7/events", Topic{ID: pump, Kind: Events}},
		{"spBv1.0/plant-1/NBIRTH/pump.7", Topic{ID: pump, Message: NBIRTH}},
		{"spBv1.0/plant-1/DDATA/pump.7/motor", Topic{ID: pump, Message: DDATA, Device: "motor"}},
	} {
		t.Run(tc.topic, func(t *testing.T) {
			got, err := Parse(tc.topic)
			if err != nil || got != tc.want {
				t.Fatalf("parsed %+v, %v", got, err)
			}
			if s := got.String(); s != tc.topic {
				t.Errorf("written as %q", s)
			}
		})
	}
}

func TestForeignTopicsAreRefused(t *testing.T) {
	for name, s := range map[string]string{
		"empty":                       "",
		"another tree":                "$SYS/broker/load",
		"another version":             "swell/v2/plant-1/pump.7/blocks",
		"too short":                   "swell/v1/plant-1/blocks",
		"too long":                    "swell/v1/plant-1/pump.7/blocks/more",
		"unknown kind":                "swell/v1/plant-1/pump.7/secrets",
		"wildcard":                    "swell/v1/+/pump.7/blocks",
		"empty site":                  "swell/v1//pump.7/blocks",
		"capital letters":             "swell/v1/Plant/pump.7/blocks",
		"dots that climb":             "swell/v1/../pump.7/blocks",
		"hidden name":                 "swell/v1/plant-1/.pump/blocks",
		"zero byte":                   "swell/v1/plant-1/pu\x00mp/blocks",
		"name too long":               "swell/v1/" + strings.Repeat("a", MaxNameLen+1) + "/pump.7/blocks",
		"topic too long":              "swell/v1/plant-1/pump.7/" + strings.Repeat("b", MaxLen),
		"unknown Sparkplug message":   "spBv1.0/plant-1/STATE/pump.7",
		"node message with a device":  "spBv1.0/plant-1/NDATA/pump.7/motor",
		"device message without one":  "spBv1.0/plant-1/DDATA/pump.7",
		"device message, bad device":  "spBv1.0/plant-1/DDATA/pump.7/Motor",
		"Sparkplug of another origin": "spAv1.0/plant-1/NDATA/pump.7",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := Parse(s); err == nil {
				t.Errorf("%q was read as %+v", s, got)
			}
		})
	}
}

func TestIDsAreReadBackAndBadOnesRefused(t *testing.T) {
	if got, err := ParseID(pump.String()); err != nil || got != pump {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "plant", "plant/", "/pump", "a/b/c", "a/B", "a /b", "-a/b", "a/b-"} {
		if got, err := ParseID(bad); err == nil {
			t.Errorf("%q was read as %v", bad, got)
		}
	}
}

func TestOfPanicsForAnIdentityThatWasNeverValidated(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("built a topic with a wildcard in it")
		}
	}()
	Of(ID{Site: "+", Node: "pump"}, Blocks)
}

func TestADeviceReachesItsOwnTopicsAndNoOthers(t *testing.T) {
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9.-]{0,6}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		me := ID{name.Draw(t, "site"), name.Draw(t, "node")}
		it := ID{name.Draw(t, "other site"), name.Draw(t, "other node")}
		f := FiltersFor(me)
		every := func(id ID) []string {
			out := []string{Of(id, Blocks), Of(id, Frames), Of(id, Desired), Of(id, Reported), Of(id, Events)}
			for m := range messages {
				out = append(out, Sparkplug(id, m, "part"))
			}
			return out
		}
		for _, topic := range every(it) {
			for _, filter := range slices.Concat(f.Publish, f.Subscribe) {
				if it != me && Match(filter, topic) {
					t.Fatalf("%s may use %q by %q", me, topic, filter)
				}
			}
		}
		for _, topic := range every(me) {
			p, err := Parse(topic)
			if err != nil {
				t.Fatal(err)
			}
			up := p.Kind != Desired && p.Kind != "" || strings.HasSuffix(string(p.Message), "DATA") || strings.HasSuffix(string(p.Message), "BIRTH") || strings.HasSuffix(string(p.Message), "DEATH")
			may := func(filters []string) bool {
				return slices.ContainsFunc(filters, func(f string) bool { return Match(f, topic) })
			}
			if may(f.Publish) != up || may(f.Subscribe) == up {
				t.Fatalf("%q: publish %v, subscribe %v", topic, may(f.Publish), may(f.Subscribe))
			}
		}
	})
}

func TestWildcardsMatchAsMQTTSays(t *testing.T) {
	for _, tc := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/b/c", false},
		{"a/+", "a/b", true},
		{"a/+", "a", false},
		{"a/+", "a/b/c", false},
		{"a/+/c", "a/b/c", true},
		{"a/#", "a/b/c", true},
		{"a/#", "a", true},
		{"#", "a/b", true},
		{"a/#/c", "a/b/c", false},
		{"+", "#", false},
		{"a/b/+", "a/b/#", false},
		{"a/b/+", "a/b/+", true},
		{All(Blocks), Of(pump, Blocks), true},
		{All(Blocks), Of(pump, Events), false},
	} {
		if got := Match(tc.filter, tc.topic); got != tc.want {
			t.Errorf("Match(%q, %q) = %v", tc.filter, tc.topic, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("swell/v1/plant-1/pump.7/blocks")
	f.Add("spBv1.0/plant-1/DDATA/pump.7/motor")
	f.Add("spBv1.0/a/NCMD/b")
	f.Add("swell/v1/+/#/blocks")
	f.Add("swell/v1/plant-1/camera.7/frames")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(s)
		if err != nil {
			return
		}
		if got.String() != s {
			t.Fatalf("%q is written as %q", s, got.String())
		}
		if strings.ContainsAny(s, "+#\x00 ") {
			t.Fatalf("%q was read", s)
		}
		if err := got.ID.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		Match(filter, topic)
		if !strings.ContainsAny(filter, "+#") && Match(filter, topic) != (filter == topic) {
			t.Fatalf("a filter without wildcards matches %q by %q", topic, filter)
		}
	})
}
