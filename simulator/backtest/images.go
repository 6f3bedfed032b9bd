package backtest

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/frames"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/agent/source/images"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/retrain"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/fleet"
	"github.com/swellfleet/swell/simulator/local"
)

// ImageOptions say which images to play and how.
type ImageOptions struct {
	Images     []string // folders with JPEG and PNG files; each is a device class
	Labels     string   // table of file and label; empty: the name of the folder a file is in is its label
	Splits     string   // table of file and one column a split, with train or test; empty: folders of those names, or else TrainShare
	Split      []string // columns of it to use; empty: all
	TrainShare float64  // of each label's images, to learn from where nothing else says so
	Kinds      []string // models that compete; empty: those that suit
	Backbone   string   // ONNX file of a network that models look with; empty: none
	Normal     []string // labels of good parts; empty: good, ok and normal
	HoldOut    float64  // share of the images to learn from by which competitors are judged; 0: a fifth where several compete, else none
	Fit        zoo.ImageConfig
	Out        string       // results.csv
	WorkDir    string       // empty: a temporary folder, removed at the end
	Progress   io.Writer    // a line for each stage, and the tables at the end
	Log        *slog.Logger // of hub and devices; nil: none
}

// ImageResult is what came out, over all splits.
type ImageResult struct {
	Images  int           `json:"images"`
	LeftOut int           `json:"images_left_out"` // they cannot be read
	Splits  []SplitResult `json:"splits"`
	// Accuracy is the mean over the splits; nil where only good parts were to learn from.
	Accuracy   *float64 `json:"accuracy,omitempty"`
	CPUMinutes float64  `json:"cpu_minutes_per_split"` // processor time of training, the mean
	Seconds    float64  `json:"seconds"`
}

// SplitResult is how the devices of one class did in one split.
type SplitResult struct {
	Split    string   `json:"split"`
	Class    string   `json:"class"` // of devices: the folder
	Train    int      `json:"train"` // images
	Test     int      `json:"test"`
	Labelled int      `json:"labelled"`           // of the images to judge
	Accuracy *float64 `json:"accuracy,omitempty"` // share of them that were named right
	Flagged  int      `json:"flagged"`            // images to judge that were called anomalous
	// Where only good parts were to learn from: of the images to judge that are
	// labelled like them and of the others, those that were flagged, and the
	// chance that one of the others scores above a good part.
	FalseAlarms *float64 `json:"false_alarms,omitempty"`
	Found       *float64 `json:"found,omitempty"`
	AUROC       *float64 `json:"auroc,omitempty"`
	Release     string   `json:"release"`
	CPUMinutes  float64  `json:"cpu_minutes"` // of the night, for all classes

	confusion map[string]map[string]int // by label, then by what was said
}

// judged is one line of the results.
type judged struct {
	picture
	split       string
	predicted   string
	probability float64
	score       float64
	anomaly     bool
}

// RunImages plays the folders, split after split, each with a hub of its own.
func RunImages(ctx context.Context, o ImageOptions) (ImageResult, error) {
	began := time.Now()
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(o.Progress, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	a, err := openAlbum(o)
	if err != nil {
		return ImageResult{}, err
	}
	if o.WorkDir == "" {
		if o.WorkDir, err = os.MkdirTemp("", "swell-backtest-"); err != nil {
			return ImageResult{}, err
		}
		defer os.RemoveAll(o.WorkDir)
	}
	for _, note := range a.notes {
		say("%s", note)
	}
	res := ImageResult{Images: len(a.pictures), LeftOut: a.broken}
	var lines []judged
	for i, d := range a.divisions {
		say("split %s (%d of %d): %d images to learn from, %d to judge", d.name, i+1, len(a.divisions), len(d.train), len(d.test))
		b := &show{options: o, album: a, division: d, folder: filepath.Join(o.WorkDir, "split"+strconv.Itoa(i)), gates: map[topic.ID]*gate{}, say: say}
		found, err := b.run(ctx)
		if err != nil {
			return ImageResult{}, fmt.Errorf("split %s: %w", d.name, err)
		}
		lines = append(lines, found...)
		for _, class := range a.classes() {
			s := b.result(class, found)
			res.Splits = append(res.Splits, s)
			s.print(o.Progress)
			if advice := s.advice(o.Fit.Upright); advice != "" {
				fmt.Fprintf(o.Progress, "  %s\n", advice)
			}
		}
		if err := os.RemoveAll(b.folder); err != nil {
			return ImageResult{}, err
		}
		res.CPUMinutes += b.cpu.Minutes() / float64(len(a.divisions))
	}
	sum, n := 0.0, 0
	for _, s := range res.Splits {
		if s.Accuracy != nil {
			sum, n = sum+*s.Accuracy, n+1
		}
	}
	if n > 0 {
		mean := sum / float64(n)
		res.Accuracy = &mean
		fmt.Fprintf(o.Progress, "mean accuracy over %d splits: %.2f %%\n", n, 100*mean)
	}
	fmt.Fprintf(o.Progress, "processor time of training: %.2f minutes a split\n", res.CPUMinutes)
	res.Seconds = time.Since(began).Seconds()
	return res, writeJudged(o.Out, lines)
}

// show is one split at work.
type show struct {
	options  ImageOptions
	album    album
	division division
	folder   string
	hub      *local.Hub
	gates    map[topic.ID]*gate
	release  string
	cpu      time.Duration // that the night took
	say      func(format string, args ...any)
}

func (b *show) run(ctx context.Context) ([]judged, error) {
	var brought []hub.GardenModel
	if b.options.Backbone != "" {
		brought = []hub.GardenModel{{Name: backbone, File: b.options.Backbone, Reason: "brought to a back-test"}}
	}
	h, err := local.Start(ctx, hub.Config{
		DataDir: filepath.Join(b.folder, "hub"), Log: b.options.Log,
		Objects:  hub.Objects{Dir: filepath.Join(b.folder, "objects")},
		Rollouts: hub.Rollouts{Policies: local.AtOnce("backtest")},
		Training: hub.Training{Garden: brought, Policies: []hub.RetrainPolicy{{
			Name: "backtest", LookbackS: 86400, Kinds: b.options.Kinds, RolloutPolicy: "backtest", Seed: b.options.Fit.Seed, Fit: b.policy,
		}}},
	}, "")
	if err != nil {
		return nil, err
	}
	defer h.Close()
	b.hub = h
	f, err := b.start(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := b.uploaded(ctx, f); err != nil {
		return nil, err
	}
	b.say("the hub has the images; training")
	before := cpuTime()
	night, err := h.Night(ctx, "backtest", func(step string) { b.say("  %s", step) })
	if err != nil {
		return nil, err
	}
	b.cpu, b.release = cpuTime()-before, night.Release
	b.say("%s", night.Summary)
	have, err := h.Classes(ctx, night.Release)
	if err != nil {
		return nil, err
	}
	for _, class := range b.album.classes() {
		if !slices.Contains(have, string(class)) {
			return nil, fmt.Errorf("no model could be made for %s: %s", class, night.Summary)
		}
	}
	if err := b.play(ctx, f); err != nil {
		return nil, err
	}
	if err := h.Promoted(ctx, night.Rollout, func(line string) { b.say("  %s", line) }); err != nil {
		return nil, err
	}
	if err := b.judged(ctx, f); err != nil {
		return nil, err
	}
	return b.read(ctx)
}

// policy sets what a back-test has other than a plant: few images, none of
// which may be missing, and nobody who is harmed by a poor model.
func (b *show) policy(p *retrain.Policy) {
	hold := b.options.HoldOut
	if hold == 0 {
		hold = -1
		if len(b.options.Kinds) != 1 && b.good() {
			hold = 0 // detectors of defects compete
		}
	}
	p.Images = retrain.ImagePolicy{Normal: b.options.Normal, MinPerClass: 1, HoldOut: hold, Fit: b.options.Fit}
	if b.options.Backbone != "" {
		p.Images.Backbone = backbone
	}
	p.Gates = retrain.Gates{MaxFlagShare: 1, MinAccuracy: 1e-9, WaiveFaults: true}
}

// good says that a class has only good parts to learn from.
func (b *show) good() bool {
	return slices.ContainsFunc(b.album.classes(), func(c artifact.Class) bool { return len(b.album.labels(c, b.division.train)) < 2 })
}

// device is the camera of a class. It sees the images to learn from first, and
// those to judge when there is a release.
func device(c artifact.Class) topic.ID { return topic.ID{Site: "backtest", Node: string(c)} }

// lens is a gate before a camera.
type lens struct {
	*gate
	camera source.Camera
}

// Unreadable implements source.Camera.
func (l lens) Unreadable() (uint64, error) { return l.camera.Unreadable() }

func (b *show) start(ctx context.Context) (*fleet.Fleet, error) {
	var devices []fleet.Device
	log := b.options.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for _, class := range b.album.classes() {
		id, dir := device(class), filepath.Join(b.folder, "images", string(class))
		if err := b.link(dir, class); err != nil {
			return nil, err
		}
		camera := images.New(images.Config{Dir: dir, RateHz: -1}, images.Device{Log: log, Now: time.Now})
		g := newGate(camera, uint64(b.album.count(class, b.division.train)), time.Time{})
		b.gates[id] = g
		devices = append(devices, fleet.Device{ID: id, Class: class, Labels: map[string]string{"line": "backtest"},
			Source: func() (source.Source, error) { return lens{g, camera}, nil }})
	}
	return fleet.Start(ctx, fleet.Config{
		Hub: b.hub.Fleet(), Devices: devices, StateDir: filepath.Join(b.folder, "devices"), Version: "backtest", Logger: b.options.Log,
		Adjust: func(c *agent.Config) {
			c.Telemetry.BlockRows, c.Telemetry.BlockS, c.Telemetry.LiveS = 100, 0.3, -1
			c.HeartbeatS, c.Spool.SyncS, c.Patient = 1, 0.05, true
			c.Frames = frames.Config{Upload: frames.All, BudgetMiBPerDay: -1, MaxBytes: telemetry.MaxFrameBytes, SpoolMiB: 512}
		},
	})
}

// link makes a folder in which a camera finds the pictures of its class in order.
func (b *show) link(dir string, class artifact.Class) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for n, p := range append(b.of(class, b.division.train), b.of(class, b.division.test)...) {
		if err := os.Symlink(p.path, filepath.Join(dir, fmt.Sprintf("%08d%s", n, filepath.Ext(p.path)))); err != nil {
			return err
		}
	}
	return nil
}

// of are the pictures of a class, in the order of their device's rows.
func (b *show) of(class artifact.Class, pictures []int) []picture {
	var out []picture
	for _, i := range pictures {
		if p := b.album.pictures[i]; p.class == class {
			out = append(out, p)
		}
	}
	return out
}

// uploaded waits until the hub has every image to learn from, and labels them
// as a person would.
func (b *show) uploaded(ctx context.Context, f *fleet.Fleet) error {
	for _, class := range b.album.classes() {
		id, pictures := device(class), b.of(class, b.division.train)
		distinct := map[artifact.Digest]bool{}
		for _, p := range pictures {
			content, err := os.ReadFile(p.path)
			if err != nil {
				return err
			}
			distinct[artifact.Of(content)] = true
		}
		var have map[uint64]string // digest by row
		if err := local.Until(ctx, "the hub to have the images", func() (bool, error) {
			if err := b.healthy(f, id); err != nil {
				return false, err
			}
			if read := f.Reported()[id].Stream.Samples; read < uint64(len(pictures)) {
				b.gates[id].allow(read, 0)
				return false, nil
			}
			var err error
			have, err = b.frames(ctx, id)
			return len(have) >= len(distinct), err
		}); err != nil {
			return err
		}
		if n := len(pictures) - len(distinct); n > 0 {
			b.say("  %d images of %s are copies of others to learn from", n, class)
		}
		var labels []apimodel.LabelCreate
		for row, digest := range have {
			if row >= uint64(len(pictures)) {
				return fmt.Errorf("the hub has row %d of device %s, which played %d images", row, id, len(pictures))
			}
			if label := pictures[row].label; label != "" {
				labels = append(labels, apimodel.LabelCreate{Frame: &digest, Value: label})
			}
		}
		for part := range slices.Chunk(labels, 1000) {
			reason := "labels of a back-test"
			resp, err := b.hub.API.AddLabelsWithResponse(ctx, &apimodel.AddLabelsParams{Reason: &reason}, apimodel.LabelsCreate{Items: part})
			if err != nil {
				return err
			}
			if resp.StatusCode() >= 300 {
				return fmt.Errorf("label the images of %s: the hub answers %d: %s", class, resp.StatusCode(), resp.Body)
			}
		}
		b.say("  %s: %d images uploaded, %d labelled", class, len(have), len(labels))
	}
	return nil
}

// frames asks the hub for the images of a device.
func (b *show) frames(ctx context.Context, id topic.ID) (map[uint64]string, error) {
	name, limit := id.String(), 1000
	out := map[uint64]string{}
	params := &apimodel.ListFramesParams{Device: &name, Limit: &limit}
	for {
		resp, err := b.hub.API.ListFramesWithResponse(ctx, params)
		if err != nil {
			return nil, err
		}
		if resp.JSON200 == nil {
			return nil, fmt.Errorf("list the images of device %s: the hub answers %d: %s", id, resp.StatusCode(), resp.Body)
		}
		for _, f := range resp.JSON200.Items {
			out[uint64(f.Row)] = f.Digest
		}
		if params.Cursor = resp.JSON200.NextCursor; params.Cursor == nil {
			return out, nil
		}
	}
}

// healthy fails when a device ended or lost something.
func (b *show) healthy(f *fleet.Fleet, id topic.ID) error {
	if err := f.Err(); err != nil {
		return err
	}
	if s := f.Reported()[id].Stream; s.SpoolDropped > 0 {
		return fmt.Errorf("device %s lost %d blocks: is there room left on the disk of %s?", id, s.SpoolDropped, b.options.WorkDir)
	}
	return nil
}

// play lets the devices judge as soon as a model acts on them.
func (b *show) play(ctx context.Context, f *fleet.Fleet) error {
	return local.Until(ctx, "the release to reach the devices", func() (bool, error) {
		if err := f.Err(); err != nil {
			return false, err
		}
		waiting := 0
		for id, r := range f.Reported() {
			switch {
			case r.Champion != nil:
				b.gates[id].release()
			case r.Trial != nil && r.Trial.Phase.Final():
				return false, fmt.Errorf("device %s refused the release: %s", id, r.Trial.Reason)
			default:
				waiting++
			}
		}
		return waiting == 0, nil
	})
}

// judged waits until the hub has a verdict on every image to judge.
func (b *show) judged(ctx context.Context, f *fleet.Fleet) error {
	return local.Until(ctx, "the devices to judge their images", func() (bool, error) {
		for _, class := range b.album.classes() {
			id, first, n := device(class), uint64(b.album.count(class, b.division.train)), uint64(b.album.count(class, b.division.test))
			if err := b.healthy(f, id); err != nil {
				return false, err
			}
			s := f.Reported()[id].Stream
			rows, err := b.hub.Rows(ctx, id)
			if err != nil {
				return false, err
			}
			b.gates[id].allow(s.Samples, s.Samples+s.WindowsScored-min(rows, s.Samples+s.WindowsScored))
			if s.Samples < first+n || s.WindowsScored < n || rows < s.Samples+s.WindowsScored {
				return false, nil
			}
		}
		return true, nil
	})
}

// read asks the hub what its devices said.
func (b *show) read(ctx context.Context) ([]judged, error) {
	var out []judged
	for _, class := range b.album.classes() {
		c, err := b.hub.ModelContract(ctx, "backtest", class)
		if err != nil {
			return nil, err
		}
		verdicts, err := b.hub.Verdicts(ctx, device(class))
		if err != nil {
			return nil, err
		}
		byRow := map[uint64]hub.Verdict{}
		for _, v := range verdicts {
			byRow[v.Row] = v
		}
		for row, p := range b.of(class, b.division.test) {
			v, ok := byRow[uint64(b.album.count(class, b.division.train)+row)]
			if !ok {
				return nil, fmt.Errorf("device %s said nothing of %s", device(class), p.name)
			}
			j := judged{picture: p, split: b.division.name, score: v.Score, anomaly: v.Flag}
			if v.Class >= 0 {
				if c.Image == nil || v.Class >= len(c.Image.Classes) {
					return nil, fmt.Errorf("device %s said class %d of %s, and the model has no such class", device(class), v.Class, p.name)
				}
				j.predicted, j.probability = c.Image.Classes[v.Class], v.Probability
			}
			out = append(out, j)
		}
	}
	return out, nil
}

// result counts what was said of the images of a class.
func (b *show) result(class artifact.Class, lines []judged) SplitResult {
	s := SplitResult{
		Split: b.division.name, Class: string(class), Release: b.release, CPUMinutes: b.cpu.Minutes(),
		Train: b.album.count(class, b.division.train), confusion: map[string]map[string]int{},
	}
	known := sortedKeys(b.album.labels(class, b.division.train))
	right := 0
	var good, bad []judged
	for _, l := range lines {
		if l.class != class {
			continue
		}
		s.Test++
		if l.anomaly {
			s.Flagged++
		}
		if l.label == "" {
			continue
		}
		s.Labelled++
		said := l.predicted
		if len(known) < 2 {
			if said = "unremarkable"; l.anomaly {
				said = "anomaly"
			}
		}
		if s.confusion[l.label] == nil {
			s.confusion[l.label] = map[string]int{}
		}
		s.confusion[l.label][said]++
		if said == l.label {
			right++
		}
		if len(known) == 1 && l.label == known[0] {
			good = append(good, l)
		} else {
			bad = append(bad, l)
		}
	}
	share := func(n, of int) *float64 {
		if of == 0 {
			return nil
		}
		v := float64(n) / float64(of)
		return &v
	}
	if len(known) > 1 {
		s.Accuracy = share(right, s.Labelled)
	} else if len(known) == 1 {
		s.FalseAlarms, s.Found, s.AUROC = share(flags(good), len(good)), share(flags(bad), len(bad)), auroc(good, bad)
	}
	return s
}

func flags(lines []judged) int {
	n := 0
	for _, l := range lines {
		if l.anomaly {
			n++
		}
	}
	return n
}

// auroc is the share of pairs of a bad and a good part in which the bad one
// scores higher; nil without pairs.
func auroc(good, bad []judged) *float64 {
	if len(good) == 0 || len(bad) == 0 {
		return nil
	}
	above := 0.0
	for _, b := range bad {
		for _, g := range good {
			switch cmp.Compare(b.score, g.score) {
			case 1:
				above++
			case 0:
				above += 0.5
			}
		}
	}
	v := above / float64(len(good)*len(bad))
	return &v
}

// print writes the split's figures and its table of what was said of what.
func (s SplitResult) print(w io.Writer) {
	percent := func(v *float64) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprintf("%.2f %%", 100**v)
	}
	switch {
	case s.Accuracy != nil:
		fmt.Fprintf(w, "split %s, %s: %s of %d images named right, %.2f CPU-minutes of training\n", s.Split, s.Class, percent(s.Accuracy), s.Labelled, s.CPUMinutes)
	case s.FalseAlarms != nil || s.Found != nil:
		fmt.Fprintf(w, "split %s, %s: %s of good parts flagged, %s of the others found, AUROC %s, %.2f CPU-minutes of training\n", s.Split, s.Class, percent(s.FalseAlarms), percent(s.Found), percent(s.AUROC), s.CPUMinutes)
	default:
		fmt.Fprintf(w, "split %s, %s: %d of %d images flagged, %.2f CPU-minutes of training\n", s.Split, s.Class, s.Flagged, s.Test, s.CPUMinutes)
	}
	said := map[string]int{}
	for _, row := range s.confusion {
		for what, n := range row {
			said[what] += n
		}
	}
	columns, labels := sortedKeys(said), sortedKeys(s.confusion)
	if len(labels) == 0 {
		return
	}
	wide := 0
	for _, name := range append(slices.Clone(columns), labels...) {
		wide = max(wide, len(name))
	}
	fmt.Fprintf(w, "  %-*s", wide+8, "is \\ called")
	for _, c := range columns {
		fmt.Fprintf(w, " %*s", max(len(c), 5), c)
	}
	fmt.Fprintln(w)
	for _, label := range labels {
		fmt.Fprintf(w, "  %-*s", wide+8, label)
		for _, c := range columns {
			fmt.Fprintf(w, " %*d", max(len(c), 5), s.confusion[label][c])
		}
		fmt.Fprintln(w)
	}
}

// advice is what to try where a split's figures are poor for a reason that is
// common; empty: nothing.
func (s SplitResult) advice(upright bool) string {
	switch {
	case s.Accuracy != nil && *s.Accuracy < 0.9 && !upright:
		return "images are turned and mirrored while training: where their sides mean something (arrows, digits, the direction of stripes), add --upright"
	case s.AUROC != nil && *s.AUROC > 0.9 && s.Found != nil && *s.Found < 0.5:
		return fmt.Sprintf("the scores tell the parts apart, but the threshold lies high, as %d good parts show little of what good parts can look like: bring more, or try --hold-out 0.5 or --kinds", s.Train)
	}
	return ""
}

// writeJudged writes the table of results.
func writeJudged(name string, lines []judged) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	buf := bufio.NewWriter(out)
	w := csv.NewWriter(buf)
	_ = w.Write([]string{"file", "split", "label", "predicted", "probability", "score", "anomaly"}) // errors are kept until Flush
	for _, l := range lines {
		anomaly, probability := "0", ""
		if l.anomaly {
			anomaly = "1"
		}
		if l.predicted != "" {
			probability = strconv.FormatFloat(l.probability, 'g', 6, 64)
		}
		_ = w.Write([]string{l.name, l.split, l.label, l.predicted, probability, strconv.FormatFloat(l.score, 'g', 6, 64), anomaly})
	}
	w.Flush()
	return errors.Join(w.Error(), buf.Flush(), out.Close())
}

// cpuTime is the processor time that this process and its ended children took.
func cpuTime() time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			return 0
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// Print writes the result as one line of JSON.
func (r ImageResult) Print(w io.Writer) error { return json.NewEncoder(w).Encode(r) }
