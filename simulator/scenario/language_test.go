package scenario_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/simulator/scenario"
)

const everything = `
# every word of the language once
seed 18446744073709551615
start 2026-11-23 06:00 Europe/Berlin
fleet 24 lines 3
fleet 6 lines 2 site hall-2 class press hardware=v9 zone=Asia/Tokyo joins 2h
device hall-3/press-7 class press line=L7 product=a
for 5h30m
network delay 20ms to 500ms drop 1% duplicate 0.5%
network on site=hall-2 delay 300ms speed 64kbit
select site!=hall-9
wave canary devices 3 deadline 4h
wave "second wave" share 7% select "line in (L1, L2)" approvals 2 by ada|bob
wave rest deadline 6h
window night zone Europe/Berlin days mon|tue|sun from 22:00 to 06:00 except 2026-12-24|2026-12-25
window shift select site=hall-2 from 06:00 to 14:00 cycle 8 start 2026-11-02 on 0|1 also 2026-12-26
gate success 0.9 alpha 5% min 3
gate shadow 1.8
gate expr title "few failures" "wave.failed < 3 && latency_p99_ms < 20"
budget line 2
budget hardware 7%
budget site available 3 available 70%
stratify line|hardware
shadow 10m window 30s
soak 5m windows 20
lease 10m grace 90s
stale 2m
retries 3 after 30s
rollback 3h
max-pause 4h
release flags x2.5 slow 30ms nan-after 1m crash-after 2m memory 20MiB crash-at-load unsigned size 300kB on hardware=v1
fault power every 8h for 30s on line=L1
fault torn every 9h
at 20m hub crash
at 21m broker restart
at 22m partition line=L2 for 4m
at 23m dead hall-1/pump-00003
at 24m clock all for 1h
at 25m pause by bob "by the way"
at 26m approve
at 27m release flags x3
at 28m freeze audit select line=L3 for 20m because the auditors are here
at 29m unfreeze audit
at 30m quarantine smells bad
at 31m hold hall-1/pump-00001
at 32m relabel hall-1/pump-00001 line=L3 product=b
expect state = aborted
expect state r-3 = superseded
expect harmed <= 0.5%
expect ended before 3h
expect why contains "wave canary"
`

func parse(t *testing.T, text string) scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse("text", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	texts := map[string]string{"everything": everything, "growing": "fleet 100\ngrow first 5 factor 4 max 25% deadline 12h"}
	for _, pattern := range []string{"testdata/*.txt", "stories/*.txt", "../../docs/examples/*.txt"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), "\nwave ") { // the others name files, or are fleets alone
				texts[f] = string(b)
			}
		}
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			s := parse(t, text)
			if again := parse(t, s.String()); !reflect.DeepEqual(s, again) {
				t.Fatalf("read back as\n%s\nwritten was\n%s", again, s)
			}
		})
	}
}

func TestALineSaysWhatItShould(t *testing.T) {
	s := parse(t, everything)
	if want := time.Date(2026, 11, 23, 5, 0, 0, 0, time.UTC); !s.Start.Equal(want) {
		t.Errorf("it starts at %s, want %s", s.Start, want)
	}
	if s.Devices() != 31 {
		t.Errorf("%d devices, want 31", s.Devices())
	}
	if w := s.Policy.Waves[1]; w.Share != 0.07 || w.Selector != "line in (L1, L2)" || len(w.Approvers) != 2 {
		t.Errorf("the second wave is %+v", w)
	}
	if g := s.Policy.Gates[2]; g.Expr != "wave.failed < 3 && latency_p99_ms < 20" || g.Title != "few failures" {
		t.Errorf("the third gate is %+v", g)
	}
	if k := s.Network[1]; k.BitsPerS != 64e3 || k.MaxDelay != 300*time.Millisecond {
		t.Errorf("the second network is %+v", k)
	}
	if st := s.Steps[3]; st.Verb != "dead" || st.Who != "name=hall-1/pump-00003" {
		t.Errorf("the fourth step is %+v", st)
	}
	if st := s.Steps[5]; st.By != "bob" || st.Arg != "by the way" {
		t.Errorf("the sixth step is %+v", st)
	}
}

func TestAScenarioThatCannotBeReadNamesTheLine(t *testing.T) {
	const good = "fleet 3\nwave all\n"
	for name, tc := range map[string]struct{ text, want string }{
		"unknown word":        {good + "flet 3", `bad:3: unknown word "flet": there are at, budget`},
		"bad number":          {"fleet three", `bad:1: "three": want a number`},
		"bad duration":        {good + "soak 5", `bad:3: "5": want a duration`},
		"endless duration":    {good + "soak 5000h", `at most 2400h`},
		"bad share":           {good + "network drop 120%", `bad:3: "120%": want a share`},
		"word too many":       {good + "soak 5m please", `bad:3: cannot read "please"`},
		"unknown fault":       {good + "fault flood every 1h", `unknown fault "flood": there are clock, dead`},
		"fault without end":   {good + "fault power every 0s", "never lets anything happen"},
		"fault without times": {good + "fault power", "say how often: fault power every"},
		"unknown step":        {good + "at 5m dance", `unknown step "dance": there are abort, approve`},
		"no fleet":            {"wave all", "say how many devices"},
		"no waves":            {"fleet 3", `as "wave all"`},
		"impossible policy":   {good + "gate sucess", `unknown gate "sucess"`},
		"strange wish":        {good + "expect luck = 3", `cannot expect "luck"`},
		"wrong comparison":    {good + "expect state <= promoted", `it takes = and a value`},
		"unknown state":       {good + "expect state = done", `"done" is no state: there are queued`},
		"open quote":          {good + `at 5m abort "because`, "bad:3: a quote has no end"},
		"bad selector":        {good + "at 5m partition line=,", "want a selector"},
		"device named twice":  {good + "device hall-1/pump-00001", "two devices hall-1/pump-00001"},
		"site as a label":     {"fleet 3 site=hall-2", "write site hall-2"},
		"unknown fleet word":  {"fleet 3 rows 2", `a fleet has no "rows": there are lines N`},
		"bad zone":            {good + "start 2026-11-22 22:00 Mars/Base", "unknown time zone"},
		"file in a text":      {"policy careful.yaml", "cannot read careful.yaml here"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := scenario.Parse("bad", strings.NewReader(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(everything)
	f.Add("fleet 3\nwave all devices 1 share 3%\nbudget \"a b\" 3%")
	f.Add("fleet 1 lines 1\ngrow first 1 factor 1e9\nat 1h abort \"\\x00\"")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := scenario.Parse("fuzz", strings.NewReader(text))
		if err != nil || s.Devices() > 10_000 {
			return
		}
		again, err := scenario.Parse("fuzz", strings.NewReader(s.String()))
		if err != nil {
			t.Fatalf("cannot read back: %v\n%s", err, s)
		}
		if !reflect.DeepEqual(s, again) {
			t.Fatalf("read back as\n%s\nwritten was\n%s", again, s)
		}
	})
}
