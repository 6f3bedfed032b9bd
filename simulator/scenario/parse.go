package scenario

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Limits of what a file may ask for.
const (
	maxDevices = 1_000_000
	maxLines   = 10_000           // of text
	maxSpan    = 2400 * time.Hour // of any duration: exact in nanoseconds as a float, too
)

// Files reads what a scenario names beside itself. nil functions: such lines
// are refused.
type Files struct {
	// Policy reads the policy file that `policy FILE` names, and the selector
	// of the devices it is for.
	Policy func(name string) (p rollout.Policy, fleet string, err error)
	// Fleet reads the device list that `fleet from FILE` names.
	Fleet func(name string) ([]Group, error)
}

// Parse reads a scenario that needs no other file. Anything it does not know is
// an error with its line.
func Parse(name string, r io.Reader) (Scenario, error) { return Files{}.Parse(name, r) }

// Parse reads a scenario and what it names.
func (f Files) Parse(name string, r io.Reader) (Scenario, error) {
	s, err := f.parse(name, r)
	if err != nil {
		return Scenario{}, err
	}
	if len(s.Policy.Waves) == 0 && s.Policy.Growth == nil {
		return Scenario{}, fmt.Errorf("%s: say in which waves the release moves, as \"wave all\", or name a file: policy careful.yaml", name)
	}
	return s, s.valid()
}

// ParseFleet reads a file that only says which devices there are and how they
// are connected.
func (f Files) ParseFleet(name string, r io.Reader) (Scenario, error) {
	s, err := f.parse(name, r)
	if err != nil {
		return Scenario{}, err
	}
	if len(s.Policy.Waves)+len(s.Policy.Gates)+len(s.Steps)+len(s.Expect) > 0 {
		return Scenario{}, fmt.Errorf("%s: a fleet file says only fleet, device, network, fault, for, seed and start", name)
	}
	return s, s.validFleet()
}

func (f Files) parse(name string, r io.Reader) (Scenario, error) {
	s := Scenario{Name: name, Seed: 1, For: 6 * time.Hour}
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		if n > maxLines {
			return Scenario{}, fmt.Errorf("%s: more than %d lines", name, maxLines)
		}
		words, err := split(in.Text())
		if err == nil && len(words) > 0 {
			l := &reader{words: words[1:]}
			err = s.line(f, words[0].text, l)
			if err == nil && len(l.words) > 0 {
				err = fmt.Errorf("cannot read %q", l.rest())
			}
		}
		if err != nil {
			return Scenario{}, fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if err := in.Err(); err != nil {
		return Scenario{}, fmt.Errorf("read %s: %w", name, err)
	}
	s.Policy.Name = name
	return s, nil
}

func (s *Scenario) validFleet() error {
	if n := s.Devices(); n < 1 || n > maxDevices {
		return fmt.Errorf("%s: say how many devices there are, 1 to %d: fleet 24 lines 3", s.Name, maxDevices)
	}
	numbered := map[[2]string]int{} // by site and class
	for _, g := range s.Fleet {
		if g.Node == "" {
			g = g.withDefaults()
			numbered[[2]string{g.Site, string(g.Class)}] += g.Devices
		}
	}
	named := map[string]bool{}
	for _, g := range s.Fleet {
		if g.Node == "" {
			continue
		}
		name := g.Site + "/" + g.Node
		taken := named[name]
		for key, n := range numbered {
			text, ok := strings.CutPrefix(g.Node, key[1]+"-")
			i, err := strconv.Atoi(text)
			taken = taken || key[0] == g.Site && ok && err == nil && i < n && g.Node == nodeName(key[1], i)
		}
		if taken {
			return fmt.Errorf("%s: there are two devices %s", s.Name, name)
		}
		named[name] = true
	}
	return nil
}

func (s *Scenario) valid() error {
	if err := s.validFleet(); err != nil {
		return err
	}
	if err := s.Policy.Expand(s.Devices()).Validate(); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

// word is one word of a line; a quoted one is never taken for a keyword.
type word struct {
	text   string
	quoted bool
}

// split cuts a line into words. A word in double quotes may hold anything, with
// \" and \\ for quote and backslash; # outside of quotes begins a comment.
func split(line string) ([]word, error) {
	var out []word
	for {
		line = strings.TrimLeft(line, " \t\r")
		switch {
		case line == "" || line[0] == '#':
			return out, nil
		case line[0] == '"':
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, errors.New("a quote has no end")
			}
			text, err := strconv.Unquote(q)
			if err != nil {
				return nil, fmt.Errorf("cannot read %s", q)
			}
			out = append(out, word{text, true})
			line = line[len(q):]
		default:
			n := strings.IndexAny(line, " \t\r#\"")
			if n < 0 {
				n = len(line)
			}
			out = append(out, word{text: line[:n]})
			line = line[n:]
		}
	}
}

// reader takes words off a line.
type reader struct {
	words []word
	err   error
}

// next returns the next word, "" after the last.
func (l *reader) next() string {
	if len(l.words) == 0 {
		return ""
	}
	w := l.words[0]
	l.words = l.words[1:]
	return w.text
}

// has takes a word off if it comes next.
func (l *reader) has(text string) bool {
	if len(l.words) > 0 && !l.words[0].quoted && l.words[0].text == text {
		l.words = l.words[1:]
		return true
	}
	return false
}

// more says whether there is something left to read that makes sense so far.
func (l *reader) more() bool { return len(l.words) > 0 && l.err == nil }

// rest takes all words.
func (l *reader) rest() string {
	var out []string
	for _, w := range l.words {
		out = append(out, w.text)
	}
	l.words = nil
	return strings.Join(out, " ")
}

func (l *reader) fail(format string, args ...any) {
	if l.err == nil {
		l.err = fmt.Errorf(format, args...)
	}
}

// name takes a word that must be there.
func (l *reader) name(what string) string {
	w := l.next()
	if w == "" {
		l.fail("%s is missing", what)
	}
	return w
}

func read[T any](l *reader, parse func(string) (T, error), what string) T {
	w := l.next()
	v, err := parse(w)
	if err != nil {
		l.fail("%q: want %s", w, what)
	}
	return v
}

func (l *reader) integer() int {
	return read(l, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err == nil && (n < 0 || n > 1_000_000_000) {
			err = strconv.ErrRange
		}
		return n, err
	}, "a number such as 3")
}

func (l *reader) span() time.Duration {
	return read(l, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err == nil && (d < 0 || d > maxSpan) {
			err = strconv.ErrRange
		}
		return d, err
	}, "a duration such as 90s, 10m or 2h, at most 2400h")
}

func (l *reader) seconds() float64 { return l.span().Seconds() }

// share reads 0.25 or 25%.
func (l *reader) share() float64 { return read(l, parseShare, "a share such as 0.25 or 25%") }

func parseShare(s string) (float64, error) {
	n, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(n, 64)
	if percent {
		v /= 100
	}
	if err == nil && !(v >= 0 && v <= 1) {
		err = strconv.ErrRange
	}
	return v, err
}

// number reads 1.5 or x2.
func (l *reader) number() float64 {
	return read(l, func(s string) (float64, error) {
		v, err := strconv.ParseFloat(strings.TrimPrefix(s, "x"), 64)
		if err == nil && !(v >= 0 && v <= 1e12) {
			err = strconv.ErrRange
		}
		return v, err
	}, "a number such as 1.5 or x2")
}

// scaled reads a number with its unit, rounded to whole ones of the smallest.
func (l *reader) scaled(what string, units map[string]float64) float64 {
	return read(l, func(s string) (float64, error) {
		for u, f := range units {
			if n, ok := strings.CutSuffix(s, u); ok {
				v, err := strconv.ParseFloat(n, 64)
				if err == nil && !(v > 0 && v <= 1e9) {
					err = strconv.ErrRange
				}
				return math.Round(v * f), err
			}
		}
		return 0, strconv.ErrSyntax
	}, what)
}

func (l *reader) selector() string {
	return read(l, func(s string) (string, error) {
		sel, err := selector.Parse(s)
		return sel.String(), err
	}, `a selector such as line=L1, or in quotes "line in (L1, L2)"`)
}

// list reads a|b|c.
func (l *reader) list(what string) []string {
	var out []string
	for _, w := range strings.Split(l.name(what), "|") {
		if w == "" {
			l.fail("%s: words separated by |", what)
		}
		out = append(out, w)
	}
	return out
}

// label reads key=value into m.
func (l *reader) label(m *map[string]string) bool {
	if len(l.words) == 0 {
		return false
	}
	k, v, ok := strings.Cut(l.words[0].text, "=")
	if !ok {
		return false
	}
	l.words = l.words[1:]
	if err := errors.Join(selector.ValidWord(k), selector.ValidWord(v)); err != nil {
		l.fail("%w", err)
	}
	if k == "site" || k == "class" {
		l.fail("write %s %s: a device's %s is no label", k, v, k)
	}
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[k] = v
	return true
}

// unknown says what a word may be instead.
func (l *reader) unknown(of string, words ...string) error {
	return fmt.Errorf("%s has no %q: there are %s", of, l.words[0].text, strings.Join(words, ", "))
}

func (s *Scenario) line(f Files, verb string, l *reader) error {
	read, ok := lines[verb]
	if !ok {
		return fmt.Errorf("unknown word %q: there are %s", verb, strings.Join(slices.Sorted(maps.Keys(lines)), ", "))
	}
	if err := read(s, f, l); err != nil {
		return err
	}
	return l.err
}

// lines are the first words of the language.
var lines map[string]func(*Scenario, Files, *reader) error

func init() {
	lines = map[string]func(*Scenario, Files, *reader) error{
		"seed":    (*Scenario).seed,
		"start":   (*Scenario).start,
		"fleet":   (*Scenario).fleet,
		"device":  (*Scenario).device,
		"select":  func(s *Scenario, _ Files, l *reader) error { s.Select = l.selector(); return nil },
		"for":     func(s *Scenario, _ Files, l *reader) error { s.For = l.span(); return nil },
		"network": (*Scenario).network,
		"fault":   (*Scenario).fault,
		"release": func(s *Scenario, _ Files, l *reader) error { return s.Release.read(l) },
		"at":      (*Scenario).at,
		"expect":  (*Scenario).expect,
		"policy":  (*Scenario).policy,
	}
	maps.Copy(lines, policyLines)
}

func (s *Scenario) seed(_ Files, l *reader) error {
	s.Seed = read(l, func(w string) (uint64, error) { return strconv.ParseUint(w, 10, 64) }, "a number such as 7")
	return nil
}

func (s *Scenario) start(_ Files, l *reader) error {
	const shape = "2006-01-02 15:04"
	text := l.next() + " " + l.next()
	zone := time.UTC
	if len(l.words) > 0 {
		z, err := time.LoadLocation(l.next())
		if err != nil {
			return fmt.Errorf("unknown time zone: %w", err)
		}
		zone = z
	}
	at, err := time.ParseInLocation(shape, text, zone)
	if err != nil {
		return fmt.Errorf("%q: want a date and a time such as 2026-11-22 22:00 Europe/Berlin", text)
	}
	if at.Year() < 1990 || at.Year() > 2200 {
		return fmt.Errorf("%q: want a year from 1990 to 2200", text)
	}
	s.Start = at.UTC()
	return nil
}

// fleet reads a group: fleet 24 lines 3 site hall-2 class press zone=Europe/Berlin.
func (s *Scenario) fleet(f Files, l *reader) error {
	if l.has("from") {
		file := l.name("the file")
		if f.Fleet == nil {
			return fmt.Errorf("cannot read %s here: give the devices themselves", file)
		}
		groups, err := f.Fleet(file)
		s.Fleet = append(s.Fleet, groups...)
		return err
	}
	g := Group{Devices: l.integer()}
	for l.more() {
		switch {
		case l.has("lines"):
			if g.Lines = l.integer(); g.Lines < 1 && l.err == nil {
				return errors.New("a group has at least one line")
			}
		case l.has("empty"):
			s.First = true
		case g.read(l):
		default:
			return l.unknown("a fleet", "lines N", "site NAME", "class NAME", "joins T", "empty", "exact", "labels as hardware=v2")
		}
	}
	if g.Devices < 1 && l.err == nil {
		return errors.New("a group has at least one device")
	}
	s.Fleet = append(s.Fleet, g)
	if s.Devices() > maxDevices {
		return fmt.Errorf("a fleet has at most %d devices", maxDevices)
	}
	return nil
}

// device reads a single one: device hall-1/pump-7 class pump line=L1.
func (s *Scenario) device(_ Files, l *reader) error {
	site, node, ok := strings.Cut(l.next(), "/")
	if !ok || node == "" {
		return errors.New("name a device by site and node: device hall-1/pump-7 line=L1")
	}
	g := Group{Devices: 1, Node: node, Site: site}
	if err := (topic.ID{Site: site, Node: node}).Validate(); err != nil {
		return err
	}
	for l.more() {
		switch {
		case l.has("empty"):
			s.First = true
		case !g.read(l):
			return l.unknown("a device", "class NAME", "joins T", "empty", "exact", "labels as line=L1")
		}
	}
	s.Fleet = append(s.Fleet, g)
	return nil
}

// read takes what a group and a device share.
func (g *Group) read(l *reader) bool {
	switch {
	case g.Node == "" && l.has("site"):
		g.Site = l.name("the site")
		if err := (topic.ID{Site: g.Site, Node: "x"}).Validate(); err != nil {
			l.fail("%w", err)
		}
	case l.has("class"):
		g.Class = artifact.Class(l.name("the class"))
		if err := selector.ValidWord(string(g.Class)); err != nil {
			l.fail("%w", err)
		}
	case l.has("joins"):
		g.Joins = l.span()
	case l.has("exact"):
		g.Exact = true
	default:
		return l.label(&g.Labels)
	}
	return true
}

func (s *Scenario) network(_ Files, l *reader) error {
	var k Link
	if l.has("on") {
		k.On = l.selector()
	}
	for l.more() {
		switch {
		case l.has("delay"):
			k.MinDelay = l.span()
			k.MaxDelay = k.MinDelay
			if l.has("to") {
				k.MaxDelay = max(l.span(), k.MinDelay)
			}
		case l.has("drop"):
			k.Drop = l.share()
		case l.has("duplicate"):
			k.Duplicate = l.share()
		case l.has("speed"):
			k.BitsPerS = l.scaled("bits a second such as 8Mbit or 64kbit", map[string]float64{"Mbit": 1e6, "kbit": 1e3})
		default:
			return l.unknown("the network", "on SELECTOR (first)", "delay A to B", "drop P", "duplicate P", "speed 8Mbit")
		}
	}
	s.Network = append(s.Network, k)
	return nil
}

func kinds() string { return strings.Join(slices.Sorted(maps.Keys(Kinds)), ", ") }

func (s *Scenario) fault(_ Files, l *reader) error {
	f := Fault{Kind: l.next(), For: time.Minute}
	if Kinds[f.Kind] == "" {
		return fmt.Errorf("unknown fault %q: there are %s", f.Kind, kinds())
	}
	for l.more() {
		switch {
		case l.has("every"):
			f.Every = l.span()
			if f.Every <= 0 && l.err == nil {
				return errors.New("a fault every 0s never lets anything happen")
			}
		case l.has("for"):
			f.For = l.span()
		case l.has("on"):
			f.On = l.selector()
		default:
			return l.unknown("a fault", "every T", "for T", "on SELECTOR")
		}
	}
	if f.Every <= 0 && l.err == nil {
		return fmt.Errorf("say how often: fault %s every 2h for 3m", f.Kind)
	}
	s.Faults = append(s.Faults, f)
	return nil
}

// ParseNature reads how a release behaves, as "flags x2 on line=L1".
func ParseNature(text string) (n Nature, err error) {
	words, err := split(text)
	if err != nil {
		return n, err
	}
	l := &reader{words: words}
	if err := n.read(l); err != nil {
		return n, err
	}
	return n, l.err
}

func (n *Nature) read(l *reader) error {
	for l.more() {
		switch {
		case l.has("sound"):
		case l.has("flags"):
			n.Flags = l.number()
		case l.has("slow"):
			n.LatencyMs = float64(l.span().Microseconds()) / 1000
		case l.has("nan-after"):
			n.NonFinite = l.span()
		case l.has("crash-after"):
			n.CrashAfter = l.span()
		case l.has("memory"):
			n.MemoryMiB = l.scaled("growth in an hour such as 20MiB", map[string]float64{"MiB": 1})
		case l.has("size"):
			n.Bytes = l.scaled("a size such as 20MB or 300kB", map[string]float64{"MB": 1e6, "kB": 1e3})
		case l.has("crash-at-load"):
			n.CrashAtLoad = true
		case l.has("unsigned"):
			n.Unsigned = true
		case l.has("on"):
			n.On = l.selector()
		default:
			return l.unknown("a release", "sound", "flags xN", "slow T", "nan-after T", "crash-after T", "memory NMiB (an hour)", "crash-at-load", "unsigned", "size 20MB", "on SELECTOR")
		}
	}
	return nil
}
