package contract

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func pump() Contract {
	return Contract{
		Version: 1, Kind: "pca", Channels: []Channel{{Name: "pressure", Unit: "bar"}, {Name: "flow", Unit: "L/min"}},
		Window: 24, Stride: 1, SampleRateHz: 1, Threshold: 1, DatasetDigest: "sha256:ab", TrainingConfig: `{"seed":1}`,
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-zA-Z][a-zA-Z0-9 _/µ°²-]{0,40}`)
		c := Contract{
			Version: Version, Kind: name.Draw(t, "kind"),
			Window: rapid.IntRange(1, 4096).Draw(t, "window"), Stride: rapid.IntRange(1, 4096).Draw(t, "stride"),
			SampleRateHz:  rapid.Float64Range(0, 1e6).Draw(t, "rate"),
			Threshold:     rapid.Float64Range(-1e30, 1e30).Draw(t, "threshold"),
			DatasetDigest: name.Draw(t, "dataset"), ParentModel: name.Draw(t, "parent"), TrainingConfig: name.Draw(t, "config"),
		}
		for _, n := range rapid.SliceOfNDistinct(name, 1, 20, rapid.ID[string]).Draw(t, "channels") {
			c.Channels = append(c.Channels, Channel{Name: n, Unit: name.Draw(t, "unit")})
		}
		if rapid.Bool().Draw(t, "deciles") {
			c.ScoreDeciles = rapid.SliceOfNDistinct(rapid.Float64Range(-1e30, 1e30), Deciles, Deciles, rapid.ID).Draw(t, "edges")
			slices.Sort(c.ScoreDeciles)
		}
		got, err := Parse(c.Metadata())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Fatalf("wrote %+v, read %+v", c, got)
		}
	})
}

func TestOptionalFieldsMayBeAbsent(t *testing.T) {
	c := pump()
	c.DatasetDigest, c.TrainingConfig = "", ""
	m := c.Metadata()
	if len(m) != 7 {
		t.Errorf("metadata has %d entries: %v", len(m), m)
	}
	if got, err := Parse(m); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("read %+v, %v", got, err)
	}
}

func TestUnknownKeysAreIgnored(t *testing.T) {
	m := pump().Metadata()
	m["exporter"] = "somebody else"
	if _, err := Parse(m); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, c := range map[string]struct{ key, value, want string }{
		"no contract":          {keyVersion, "", "carries no Swell contract"},
		"newer version":        {keyVersion, "2", "version 2 is not supported"},
		"no kind":              {keyKind, "", "kind is empty"},
		"channels not JSON":    {keyChannels, "pressure", `"swell.channels"`},
		"no channels":          {keyChannels, "[]", "0 channels"},
		"unknown channel part": {keyChannels, `[{"name":"a","gain":2}]`, "unknown field"},
		"channel twice":        {keyChannels, `[{"name":"a"},{"name":"a"}]`, "appears twice"},
		"nameless channel":     {keyChannels, `[{"name":""}]`, "has no name"},
		"line break in a name": {keyChannels, `[{"name":"a\nb"}]`, "control characters"},
		"huge channel list":    {keyChannels, "[" + strings.Repeat(" ", MaxChannels*2*maxName) + "]", "too long"},
		"window of zero":       {keyWindow, "0", "window of 0"},
		"absurd window":        {keyWindow, "4000000000", "window of 4000000000"},
		"too many cells":       {keyWindow, "1048577", "window of"},
		"too few deciles":      {keyDeciles, "[1,2,3]", "3 score deciles: want 9 or none"},
		"deciles that fall":    {keyDeciles, "[1,2,3,4,5,6,7,8,8]", "number 9 is 8"},
		"deciles not JSON":     {keyDeciles, "1,2", `"swell.score_deciles"`},
		"stride missing":       {keyStride, "", `"swell.stride"`},
		"negative rate":        {keyRate, "-1", "sample rate of -1"},
		"rate not a number":    {keyRate, "NaN", "sample rate of NaN"},
		"infinite threshold":   {keyThreshold, "+Inf", "threshold is +Inf"},
		"huge config":          {keyConfig, strings.Repeat("x", MaxText+1), "training config"},
	} {
		t.Run(name, func(t *testing.T) {
			m := pump().Metadata()
			m[c.key] = c.value
			_, err := Parse(m)
			if err == nil {
				t.Fatal("was accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	err := Contract{Window: -1, Threshold: math.NaN()}.Validate()
	if err == nil {
		t.Fatal("was accepted")
	}
	for _, want := range []string{"kind", "0 channels", "window of -1", "stride of 0", "threshold is NaN"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not mention %q: %v", want, err)
		}
	}
}

func eye() Contract {
	return Contract{
		Version: 1, Kind: "cnn", Window: 1, Stride: 1, Threshold: 1,
		Image: &Image{Height: 100, Width: 80, Classes: []string{"ok", "scratch"}, Normal: []string{"ok"}, Embedding: 64},
	}
}

func TestAModelOfImagesIsReadAsItWasWritten(t *testing.T) {
	for name, c := range map[string]Contract{
		"a classifier":    eye(),
		"good parts only": {Version: 1, Kind: "mahalanobis", Window: 1, Stride: 1, Threshold: 1, Image: &Image{Height: MinSide, Width: MaxSide}},
	} {
		got, err := Parse(c.Metadata())
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%s: wrote %+v, read %+v, %v", name, c, got, err)
		}
	}
	if n := eye().Image.Bytes(); n != 24000 {
		t.Errorf("100 by 80 pixels are %d bytes", n)
	}
}

func TestImagesThatNoAgentShouldHaveToRead(t *testing.T) {
	for want, change := range map[string]func(*Contract){
		"want sides of":          func(c *Contract) { c.Image.Height = MaxSide + 1 },
		"by 0 pixels":            func(c *Contract) { c.Image.Width = 0 },
		"1 image classes":        func(c *Contract) { c.Image.Classes, c.Image.Normal = []string{"ok"}, nil },
		"appears twice":          func(c *Contract) { c.Image.Classes = []string{"ok", "ok"} },
		"is no image class":      func(c *Contract) { c.Image.Normal = []string{"fine"} },
		"every image class":      func(c *Contract) { c.Image.Normal = []string{"ok", "scratch"} },
		"embedding of -1 values": func(c *Contract) { c.Image.Embedding = -1 },
		"channels":               func(c *Contract) { c.Channels = []Channel{{Name: "pressure"}} },
		"window":                 func(c *Contract) { c.Window = 2 },
	} {
		c := eye()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q: %v", want, err)
		}
		if _, err := Parse(c.Metadata()); err == nil && c.Channels == nil { // which are not written beside an image
			t.Errorf("%s: was read", want)
		}
	}
}
