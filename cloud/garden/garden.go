// Package garden takes ONNX models in from outside: backbones for image models
// and networks for sensor values that were trained elsewhere, and whole models
// that carry Swell's contract.
//
// The parties are people, who bring a file or an address; the place the file
// comes from, which is not trusted; the registry, where an import becomes a
// version of stage candidate; and nights, which may learn from it. A device
// never gets an import: only a release reaches devices.
//
// It promises that a file is bounded before it is parsed and parsed before any
// native code sees it, that a model which cannot be run here is refused with
// the reason, that the bytes are stored as they came, and that what was found
// and who brought it is on the card. cloud/hub imports it.
package garden

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/onnx"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/train"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// ErrInvalid wraps what is wrong with an import; the text says how to mend it.
var ErrInvalid = errors.New("the model cannot be taken in")

// MaxBytes is the largest file that is taken in.
const MaxBytes = 64 << 20

// limits bound what a file may hold and how much one run of it may take.
var limits = onnx.Limits{Bytes: MaxBytes, Activations: 512 << 20}

// Config names the parties. Registry and Objects are required.
type Config struct {
	Registry registry.Store
	Objects  objects.Store
	Now      func() time.Time // nil: time.Now
	// Private allows addresses that are not public.
	Private bool
	Roots   *x509.CertPool // nil: the system's
}

// Garden takes models in, one at a time.
type Garden struct {
	cfg    Config
	client *http.Client
	mu     sync.Mutex // held by an import: two of one name would get one counter
}

// New returns a Garden.
func New(cfg Config) *Garden {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Garden{cfg: cfg, client: client(cfg.Private, cfg.Roots)}
}

// Source is a model that somebody brings.
type Source struct {
	Name   string // family it is kept as
	URL    string // https; empty: Bytes
	Bytes  []byte
	By     string // as in the ledger
	Reason string // where it is from and under which licence, in the person's words
}

// Import checks a model, runs it once and keeps it as a candidate. The same
// bytes under the same name again are the version there is. What is wrong with
// the file wraps ErrInvalid.
func (g *Garden) Import(ctx context.Context, s Source) (registry.Version, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := topic.ValidName(s.Name); err != nil {
		return registry.Version{}, fmt.Errorf("%w: name: %w", ErrInvalid, err)
	}
	newest, err := g.cfg.Registry.Versions(ctx, s.Name, 0, 1)
	if err != nil {
		return registry.Version{}, err
	}
	if len(newest) > 0 && newest[0].Import == nil {
		return registry.Version{}, fmt.Errorf("%w: %s is a family that is trained here: choose another name", ErrInvalid, s.Name)
	}
	from := "a file"
	if s.URL != "" {
		from = s.URL
		if s.Bytes, err = g.fetch(ctx, s.URL, MaxBytes); err != nil {
			return registry.Version{}, err
		}
	}
	d := artifact.Of(s.Bytes)
	if len(newest) > 0 && newest[0].Models[0].Digest == d {
		return newest[0], nil
	}
	found, err := Inspect(s.Bytes)
	if err != nil {
		return registry.Version{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	v := registry.Version{
		Family: s.Name, Counter: 1, Stage: registry.Candidate, Reason: "imported by " + s.By, Created: g.cfg.Now().UTC(),
		Lineage: registry.Lineage{Lineage: artifact.Lineage{Run: "import-" + d.Hex()}},
		Import:  &registry.Import{Source: from, By: s.By, Reason: s.Reason, Input: found.Input, Outputs: found.Outputs, Notes: found.Notes},
		Models:  []registry.Model{{Kind: found.Kind, Digest: d, Bytes: int64(len(s.Bytes)), Window: found.window, Threshold: found.threshold, Metrics: map[string]float64{}, Why: "imported"}},
	}
	if len(newest) > 0 {
		v.Counter = newest[0].Counter + 1
	}
	v.Card = card(v)
	key := "models/" + d.Hex() + ".onnx"
	if err := g.cfg.Objects.PutIfAbsent(ctx, key, bytes.NewReader(s.Bytes), int64(len(s.Bytes))); err != nil && !errors.Is(err, objects.ErrExists) {
		return registry.Version{}, fmt.Errorf("store %s: %w", key, err)
	}
	if err := g.cfg.Registry.SaveVersion(ctx, v); err != nil {
		return registry.Version{}, fmt.Errorf("register %s: %w", s.Name, err)
	}
	return v, nil
}

// List returns the newest version of every import, by name.
func (g *Garden) List(ctx context.Context) ([]registry.Version, error) {
	families, err := g.cfg.Registry.Families(ctx)
	if err != nil {
		return nil, err
	}
	var out []registry.Version
	for _, f := range families {
		vs, err := g.cfg.Registry.Versions(ctx, f, 0, 1)
		if err != nil {
			return nil, err
		}
		if len(vs) > 0 && vs[0].Import != nil {
			out = append(out, vs[0])
		}
	}
	return out, nil
}

// card is the import's card in Markdown.
func card(v registry.Version) string {
	var b strings.Builder
	m, i := v.Models[0], v.Import
	fmt.Fprintf(&b, "# %s, version %d\n\nImported from %s by %s.\n", v.Family, v.Counter, i.Source, i.By)
	if i.Reason != "" {
		fmt.Fprintf(&b, "Origin and licence, in their words: %s\n", i.Reason)
	} else {
		b.WriteString("Nobody said where it is from, nor under which licence.\n")
	}
	fmt.Fprintf(&b, "\n- digest: `%s`, %d bytes\n- kind: %s\n- reads: %s\n", m.Digest, m.Bytes, m.Kind, i.Input)
	for _, o := range i.Outputs {
		fmt.Fprintf(&b, "- gives: %s\n", o)
	}
	for _, n := range i.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	b.WriteString("\nIt was run once and not evaluated: only a night's gates judge what is made from it.\n")
	return b.String()
}

// Found is what a look at a file found.
type Found struct {
	Kind    string // of the contract it carries, or Backbone
	Input   string // "float [batch,3,224,224]"
	Outputs []string
	Notes   []string // for people, a sentence each

	window    int
	threshold float64
}

// Kinds of networks that carry no contract.
const (
	Backbone = "backbone"  // it reads pictures
	Network  = zoo.Network // it reads windows of sensor values
)

// Inspect bounds, parses, checks and runs a model. The error says what keeps it
// from being used here.
func Inspect(b []byte) (Found, error) {
	m, err := onnx.ReadForeign(b, limits)
	if err != nil {
		return Found{}, err
	}
	var f Found
	for _, p := range m.MetadataProps {
		if strings.HasPrefix(p.GetKey(), "swell.") {
			return inspectOwn(b)
		}
	}
	if readsWindows(m.GetGraph()) {
		n, err := zoo.TryNetwork(b)
		return Found{Kind: Network, Input: n.Input, Outputs: n.Outputs, Notes: n.Notes, window: n.Rows}, err
	}
	w, err := wrap(m)
	if err != nil {
		return Found{}, err
	}
	f.Kind, f.Input, f.Outputs, f.window = Backbone, w.input, w.outputs, 1
	f.Notes = append(f.Notes, w.notes...)
	if ops := train.Untrainable(m.GetGraph()); len(ops) > 0 {
		f.Notes = append(f.Notes, "it can be a frozen backbone and not be fine-tuned: there is no gradient for "+strings.Join(ops, ", "))
	}
	if err := run(w.model); err != nil {
		return Found{}, err
	}
	return f, nil
}

// inspectOwn looks at a model that carries Swell's contract.
func inspectOwn(b []byte) (Found, error) {
	c, err := onnx.Check(b, limits)
	if err != nil {
		return Found{}, err
	}
	f := Found{Kind: c.Kind, window: c.Window, threshold: c.Threshold, Outputs: []string{contract.Score, contract.Anomaly}}
	if i := c.Image; i != nil {
		f.Input = fmt.Sprintf("u8 [batch,%d,%d,3]", i.Height, i.Width)
		if len(i.Classes) > 0 {
			f.Outputs = append(f.Outputs, contract.Probs)
		}
	} else {
		f.Input = fmt.Sprintf("float [batch,%d,%d]", len(c.Channels), c.Window)
	}
	f.Notes = []string{"it carries Swell's contract: a policy names it as garden:NAME for devices with the same channels, and the night judges it as it is"}
	if c.Image != nil {
		f.Notes = []string{"it carries Swell's contract: a policy names it as images.backbone, with the detector as-is"}
	}
	return f, run(b)
}

// run scores one grey picture, or one window of zeros: a model that crashes or
// gives no number is refused here.
func run(model []byte) error {
	s, err := runtime.Load(model, runtime.Options{})
	if err != nil {
		return fmt.Errorf("it cannot be loaded: %w", err)
	}
	c := s.Contract()
	var r runtime.Result
	if c.Image != nil {
		err = s.ScoreImage(bytes.Repeat([]byte{128}, c.Image.Bytes()), &r)
	} else {
		err = s.Score(make([]float32, c.Cells()), &r)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("it cannot be run: %w", err)
	}
	if r.Score-r.Score != 0 {
		return fmt.Errorf("its first run gives %v", r.Score)
	}
	return nil
}
