package retrain

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/models/contract"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
)

// goldenWindows is how many windows a release carries for devices to check
// their runtime with.
const goldenWindows = 8

// release packages the winners: model, golden vectors, limits, card, lineage.
func (s *Service) release(ctx context.Context, run string, o Order, out *Outcome) (Released, error) {
	snap, err := s.snapshot(ctx, out.Extracted.Snapshot)
	if err != nil {
		return Released{}, err
	}
	config, err := json.Marshal(o.Policy)
	if err != nil {
		return Released{}, err
	}
	p := Package{Run: run, Family: o.Policy.Family, Card: card(run, o, out), Expected: expected(out), Lineage: artifact.Lineage{
		Run: run, Snapshot: out.Extracted.Snapshot, Config: artifact.Of(config), Code: s.cfg.Code, Seed: o.Policy.Seed,
	}}
	reigning, err := s.champions(ctx, o.Policy.Family)
	if err != nil {
		return Released{}, err
	}
	p.Lineage.Parent = reigning.newest.Release
	if p.Evaluation, err = json.Marshal(out.Judged); err != nil {
		return Released{}, err
	}
	for _, w := range out.Blessed.Winners {
		c := w.Score.Candidate
		b, err := s.getModel(ctx, c.Digest)
		if err != nil {
			return Released{}, err
		}
		golden, err := s.golden(ctx, snap, classOf(out.Validated, c.Class), c, b)
		if err != nil {
			return Released{}, fmt.Errorf("golden vectors of class %s: %w", c.Class, err)
		}
		p.Variants = append(p.Variants, Variant{Classes: []artifact.Class{c.Class}, Model: b, Golden: golden, Limits: limits(w)})
	}
	return s.cfg.Releaser.Release(ctx, p)
}

// golden picks windows evenly over the rows that judged the model and scores
// them as a device would.
func (s *Service) golden(ctx context.Context, snap Snapshot, c ClassData, cand Candidate, model []byte) (artifact.Golden, error) {
	if c.Images != nil {
		return s.imageGolden(ctx, c, cand, model)
	}
	contract, err := contractOf(model)
	if err != nil {
		return artifact.Golden{}, err
	}
	ds, err := s.dataset(ctx, snap, c, cand.Window, true)
	if err != nil {
		return artifact.Golden{}, err
	}
	var windows [][]float32
	for i := range goldenWindows {
		sr := ds.Series[i*len(ds.Series)/goldenWindows]
		if rows := sr.Rows(); rows >= cand.Window {
			end := cand.Window + (rows-cand.Window)*i/goldenWindows
			windows = append(windows, sr.AppendWindow(nil, end, cand.Window))
		}
	}
	g, err := zoo.Golden(&zoo.Fitted{Kind: cand.Kind, ONNX: model, Contract: contract, Threshold: cand.Threshold}, windows, "")
	if err == nil && len(g.Windows) == 0 {
		return g, refuse("no window of class %s is far enough from the threshold to test with", cand.Class)
	}
	return g, err
}

// contractOf reads what a model promises.
func contractOf(model []byte) (contract.Contract, error) {
	session, err := runtime.Load(model, runtime.Options{})
	if err != nil {
		return contract.Contract{}, err
	}
	return session.Contract(), session.Close()
}

// limits are what the device's watchdog holds a model to: generous against the
// back-test, since they guard against breakage, while the shadow gate guards
// against being a little worse.
func limits(w Winner) artifact.Limits {
	return artifact.Limits{MemoryMiB: 64 + int(4*w.Score.Candidate.Bytes>>20), LatencyP99Ms: 250, MaxFlagShare: 0.98, MinWatchdogObs: 500}
}

func classOf(v Validated, class artifact.Class) ClassData {
	for _, c := range v.Classes {
		if c.Class == class {
			return c
		}
	}
	return ClassData{}
}

// expected is the shift in behaviour seen in the back-test, over all classes
// that have a champion, each weighed by the windows that both models judged;
// nil when none has. Its interval is in the evaluation and on the card.
func expected(out *Outcome) *artifact.Shift {
	var sh artifact.Shift
	n := 0.0
	for _, w := range out.Blessed.Winners {
		switch p := w.Score.Beside; {
		case p != nil:
			n += float64(p.Windows)
			sh.FlagShareChampion += p.OfChampion * float64(p.Windows)
			sh.FlagShareChallenger += p.FlagShare * float64(p.Windows)
		case w.ChampionFlagShare >= 0: // images, which are judged one by one
			images := 1.0
			if w.Score.Images != nil {
				images = float64(max(w.Score.Images.Images, 1))
			}
			n += images
			sh.FlagShareChampion += w.ChampionFlagShare * images
			sh.FlagShareChallenger += w.Score.FlagShare * images
		}
	}
	if n == 0 {
		return nil
	}
	sh.FlagShareChampion /= n
	sh.FlagShareChallenger /= n
	return &sh
}

// card is the model card for people.
func card(run string, o Order, out *Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Model family %s, trained in run %s under policy %s.\n", o.Policy.Family, run, o.Policy.Name)
	fmt.Fprintf(&b, "Data: %d rows of %d devices in %d segments, snapshot %s.\n", out.Extracted.Rows, out.Extracted.Devices, out.Extracted.Segments, out.Extracted.Snapshot)
	for _, w := range out.Blessed.Winners {
		c := w.Score.Candidate
		d := classOf(out.Validated, c.Class)
		if m := d.Images; m != nil {
			b.WriteString(m.card(c))
			fmt.Fprintf(&b, "Why it won: %s.\n", w.Why)
			continue
		}
		fmt.Fprintf(&b, "\nDevice class %s: %s, window of %d samples at %g Hz, %d channels.\n", c.Class, c.Kind, c.Window, d.SampleRateHz, len(d.Channels))
		fmt.Fprintf(&b, "Why it won: %s.\n", w.Why)
		fmt.Fprintf(&b, "Alarms expected on normal operation: %.1f windows a day and device, in %.1f runs.\n", w.Score.PerDay, w.Score.Alarms)
		if name, _, imported := importedOf(c.Kind); imported {
			fmt.Fprintf(&b, "It was made elsewhere: model %s of the garden, %s.\n", name, c.Parent)
		} else if c.Parent != "" {
			fmt.Fprintf(&b, "Its training started from the weights of the champion's model %s.\n", c.Parent)
		} else {
			b.WriteString("Its training started from scratch.\n")
		}
		if !d.HoldFrom.IsZero() {
			fmt.Fprintf(&b, "Judged on the days from %s on.\n", d.HoldFrom.Format(time.DateOnly))
		}
		if w.Score.Events > 0 {
			fmt.Fprintf(&b, "It finds %d of %d events that people labelled.\n", w.Score.EventsFound, w.Score.Events)
		}
		if p := w.Score.Beside; p != nil {
			fmt.Fprintf(&b, "On the same %d windows it flags %.2f %%, the champion %.2f %%; the difference lies between %+.2f and %+.2f points.\n", p.Windows, 100*p.FlagShare, 100*p.OfChampion, 100*p.Low, 100*p.High)
		}
	}
	b.WriteString("\nKnown limits: judged on simulated faults, on held-out normal data of the same devices, and on labelled events where people labelled any.\n")
	return b.String()
}

// register records the new version.
func (s *Service) register(ctx context.Context, run string, o Order, out *Outcome) error {
	v := registry.Version{
		Family: o.Policy.Family, Counter: out.Released.Counter, Release: out.Released.Manifest, Stage: registry.Released, Created: s.cfg.Now().UTC(),
		Reason: "blessed by run " + run, Card: card(run, o, out), Expected: expected(out),
		Lineage: registry.Lineage{
			Lineage:  artifact.Lineage{Run: run, Snapshot: out.Extracted.Snapshot, Code: s.cfg.Code, Seed: o.Policy.Seed},
			Segments: out.Extracted.Segments, Devices: out.Extracted.Devices, From: out.Extracted.From, To: out.Extracted.To,
		},
	}
	reigning, err := s.champions(ctx, o.Policy.Family)
	if err != nil {
		return err
	}
	v.Lineage.Parent, v.Lineage.ParentCounter = reigning.newest.Release, reigning.newest.Counter
	for _, w := range out.Blessed.Winners {
		c := w.Score.Candidate
		m := registry.Model{
			Classes: []artifact.Class{c.Class}, Kind: c.Kind, Digest: c.Digest, Bytes: c.Bytes, Threshold: c.Threshold, Window: c.Window, Why: w.Why,
			Metrics: map[string]float64{"flag_share": w.Score.FlagShare, "flags_per_day": w.Score.PerDay, "faults_found": w.Score.Detected, "train_seconds": c.Seconds},
		}
		if w.Score.Events > 0 {
			m.Metrics["events_found"] = share(w.Score.EventsFound, w.Score.Events)
		}
		if i := w.Score.Images; i != nil && len(i.Classes) > 0 {
			m.Metrics["accuracy"] = i.Accuracy
		}
		profile, err := json.Marshal(classOf(out.Validated, c.Class).Profile)
		if err != nil {
			return err
		}
		m.Profile = profile
		for _, j := range out.Judged.Classes {
			if j.Class == c.Class && j.Champion != nil {
				m.Metrics[registry.OfChampion+"flag_share"] = j.Champion.FlagShare
				m.Metrics[registry.OfChampion+"flags_per_day"] = j.Champion.PerDay
				m.Metrics[registry.OfChampion+"faults_found"] = j.Champion.Detected
				if i := j.Champion.Images; i != nil && len(i.Classes) > 0 {
					m.Metrics[registry.OfChampion+"accuracy"] = i.Accuracy
				}
			}
		}
		v.Models = append(v.Models, m)
	}
	snap, err := s.snapshot(ctx, out.Extracted.Snapshot)
	if err == nil {
		err = Trace(ctx, s.cfg.Registry, v.Family, v.Counter, snap)
	}
	if err != nil {
		return fmt.Errorf("trace the data of %s-%d: %w", v.Family, v.Counter, err)
	}
	if err := s.cfg.Registry.SaveVersion(ctx, v); err != nil {
		return fmt.Errorf("register %s-%d: %w", v.Family, v.Counter, err)
	}
	return nil
}
