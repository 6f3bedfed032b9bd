// Package retrain is the night: it takes a snapshot of a fleet's data, checks
// it, lets detectors compete on it, and hands the winner on to be signed,
// registered and proposed for a rollout, or refuses and says why.
//
// The parties are the people who wrote a Policy; the segments that hold the
// data; models/zoo, which fits; cloud/release, which signs; the registry; and
// the rollout shell. A night is a chain of durable steps (package engine): a
// finished step is never run again, and a hub that dies goes on in the step it
// died in. Every step gets and returns digests and small documents; data and
// models live in object storage. Whatever goes wrong, the champion stays.
//
// Only cloud/hub and cloud/api import this package.
package retrain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/registry"
	"github.com/swellfleet/swell/cloud/retrain/engine"
	"github.com/swellfleet/swell/cloud/retrain/runner"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Policy says which data to learn from, when, and what is good enough.
type Policy struct {
	Name     string          `json:"name"`
	Family   string          `json:"family"`           // release family it trains
	Selector string          `json:"selector"`         // devices to learn from; empty: all
	Schedule engine.Schedule `json:"schedule"`         // empty Cron: by hand only
	Paused   bool            `json:"paused,omitempty"` // the schedule starts nothing

	LookbackS float64  `json:"lookback_s,omitempty"` // how far back the data reaches; 0: 7 days
	Channels  []string `json:"channels,omitempty"`   // signals to learn; empty: those that every device of the class has
	Exclude   []string `json:"exclude,omitempty"`    // signals never to learn, such as label columns
	TrainRows int      `json:"train_rows,omitempty"` // only the first so many rows of each device's stream; 0: all
	MinRows   int      `json:"min_rows,omitempty"`   // fewer usable rows in a class refuse it; 0: 100

	Kinds []string   `json:"kinds,omitempty"` // detectors that compete; empty: zoo.Competitors
	Fit   zoo.Config `json:"fit"`
	// Images says how device classes of cameras are learned.
	Images ImagePolicy `json:"images,omitzero"`
	Gates  Gates       `json:"gates"`
	Seed   uint64      `json:"seed"`

	// RolloutPolicy names the policy of the rollout that a blessed version is
	// proposed under; empty proposes none.
	RolloutPolicy string `json:"rollout_policy,omitempty"`

	// Limits bound one run.
	Limits Limits `json:"limits,omitzero"`
	// Priority puts this policy's runs and fits before those of lower ones,
	// from -1000 to 1000.
	Priority int `json:"priority,omitempty"`
	// Queue is where its fits wait: empty for any worker, "gpu" for workers
	// that have that label.
	Queue string `json:"queue,omitempty"`
	// MinNewShare skips a run that a person did not ask for when less than
	// this share of its rows is newer than the data of the last release.
	MinNewShare float64 `json:"min_new_share,omitempty"`
	// CatchUp says which missed times of the schedule are run after a
	// downtime: "none", "latest" or "all". Empty: as Schedule says.
	CatchUp   string    `json:"catch_up,omitempty"`
	Retention Retention `json:"retention,omitzero"`
	// DriftLimit starts a run when the population stability index of a class's
	// newest data against the champion's is over it. 0: never.
	DriftLimit float64 `json:"drift_limit,omitempty"`
}

// Limits bound what a run may take. What goes over one ends in a refusal that
// says so, and the champion stays. 0: no limit.
type Limits struct {
	WallS     float64 `json:"wall_s,omitempty"`     // of the whole run, from when it was due
	MaxCostS  float64 `json:"max_cost_s,omitempty"` // CPU-seconds of the whole run
	MemoryMiB int     `json:"memory_mib,omitempty"` // resident memory of one fit
	CPUs      float64 `json:"cpus,omitempty"`       // that one fit may keep busy
}

// Retention says how long ended runs are kept with their logs. What they
// released stays in the registry. 0: for good.
type Retention struct {
	Runs int `json:"runs,omitempty"` // at most so many
	Days int `json:"days,omitempty"` // none older
}

// The queues of fits.
const (
	anyQueue = "fits"
	gpuQueue = "gpu"
)

// GPULabel is the label of workers that have a GPU.
const GPULabel = "gpu"

func (p Policy) queue() string {
	if p.Queue == "" {
		return anyQueue
	}
	return p.Queue
}

// Gates are the limits a candidate has to keep.
type Gates struct {
	// MaxFlagShare is the largest share of held-out normal windows it may flag. 0: 0.05.
	MaxFlagShare float64 `json:"max_flag_share,omitempty"`
	// MinDetected is the smallest share of simulated faults it must find. 0: 0.3.
	MinDetected float64 `json:"min_detected,omitempty"`
	// WaiveFaults lets a candidate pass although no fault could be simulated
	// in its data: a person's explicit choice, as for a first look at little
	// data.
	WaiveFaults bool `json:"waive_faults,omitempty"`
	// Margin is how much worse than the champion the share of found faults may be. 0: 0.05.
	Margin float64 `json:"margin,omitempty"`
	// MaxPSI is the largest population stability index of any channel against
	// the champion's data. 0: no limit, since a plant's load may change.
	MaxPSI float64 `json:"max_psi,omitempty"`
	// MinAccuracy is the smallest share of held-out images that a model which
	// tells classes of images apart has to name right. 0: 0.7.
	MinAccuracy float64 `json:"min_accuracy,omitempty"`
	// MaxMissing is the largest share of missing values, and of missing rows, of
	// a device. 0: 0.2.
	MaxMissing float64 `json:"max_missing,omitempty"`

	// MaxPerDay is how many false alarms (runs of flagged windows) it may raise
	// per device and day of held-out normal operation. 0: no limit.
	MaxPerDay float64 `json:"max_per_day,omitempty"`
	// SliceMargin is how much worse than the champion it may be on any slice (a
	// line, a device, a kind of fault), both in the share of found faults and in
	// the share of flagged windows. 0: 0.2.
	SliceMargin float64 `json:"slice_margin,omitempty"`
	// StrictSlices lets a slice with too little evidence refuse as well.
	StrictSlices bool `json:"strict_slices,omitempty"`
	// MinEventsFound is the smallest share of the events that people labelled
	// which it must find; with it, no label at all refuses. 0: no limit.
	MinEventsFound float64 `json:"min_events_found,omitempty"`
	// MaxTwoSample is the largest Kolmogorov-Smirnov distance of any feature from
	// the champion's data that a permutation test calls significant. 0: no limit,
	// as for MaxPSI.
	MaxTwoSample float64 `json:"max_two_sample,omitempty"`
	// MaxStuckShare is the longest stretch, as a share of a device's rows, in
	// which a varying channel may stand still while others move. 0: 0.3.
	MaxStuckShare float64 `json:"max_stuck_share,omitempty"`
	// Ranges are the values that a channel can have. A channel not named has
	// those of the champion's data, widened by three times their extent.
	Ranges map[string]Range `json:"ranges,omitempty"`
}

// Range is what a channel's values lie between, in the channel's unit.
type Range struct {
	Min float64 `json:"min"`
	Max float64 `json:"max"`
}

func (p Policy) withDefaults() Policy {
	if p.Family == "" {
		p.Family = p.Name
	}
	if p.LookbackS == 0 {
		p.LookbackS = 7 * 24 * 3600
	}
	if p.MinRows == 0 {
		p.MinRows = 100
	}
	if len(p.Kinds) == 0 {
		p.Kinds = zoo.Competitors()
	}
	setDefault(&p.Gates.MaxFlagShare, 0.05)
	setDefault(&p.Gates.MinDetected, 0.3)
	setDefault(&p.Gates.Margin, 0.05)
	setDefault(&p.Gates.MaxMissing, 0.2)
	setDefault(&p.Gates.SliceMargin, 0.2)
	setDefault(&p.Gates.MaxStuckShare, 0.3)
	setDefault(&p.Gates.MinAccuracy, 0.7)
	p.Images = p.Images.withDefaults(p.Seed)
	p.Fit.Seed = p.Seed
	return p
}

func setDefault(v *float64, def float64) {
	if *v == 0 {
		*v = def
	}
}

// Bounds of what a policy may say: what is beyond them is a slip, or would
// overflow and mean something else.
const (
	maxDays  = 36_500
	maxLimit = 1e12
)

// Validate reports everything that makes the policy unusable.
func (p Policy) Validate() error {
	var errs []error
	if err := topic.ValidName(p.Name); err != nil {
		errs = append(errs, fmt.Errorf("name: %w", err))
	}
	if p.Family != "" {
		if err := topic.ValidName(p.Family); err != nil {
			errs = append(errs, fmt.Errorf("model: %w", err))
		}
	}
	if p.Schedule.Cron != "" {
		errs = append(errs, p.Schedule.Validate())
	}
	if _, err := selector.Parse(p.Selector); err != nil {
		errs = append(errs, err)
	}
	for _, k := range p.Kinds {
		all := append(zoo.Kinds(), zoo.ImageKinds()...)
		_, external := trainerOf(k)
		if _, _, imported := importedOf(k); imported {
			errs = append(errs, validImport(k))
		} else if !external && !slices.Contains(all, k) {
			errs = append(errs, fmt.Errorf("unknown detector %q: use one of %s, %sNAME of the model garden or %sNAME of a trainer", k, strings.Join(all, ", "), importedPrefix, externalPrefix))
		}
	}
	if p.TrainRows < 0 || p.MinRows < 0 {
		errs = append(errs, errors.New("train rows and min rows cannot be negative"))
	}
	for _, e := range p.Exclude {
		if _, err := path.Match(e, ""); err != nil {
			errs = append(errs, fmt.Errorf("exclude %q: %w", e, err))
		}
	}
	if err := p.Fit.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("fit: %w", err))
	}
	if p.Queue != "" && p.Queue != gpuQueue {
		errs = append(errs, fmt.Errorf("queue %q: leave it empty, or use gpu", p.Queue))
	}
	if p.Priority < -engine.MaxPriority || p.Priority > engine.MaxPriority {
		errs = append(errs, fmt.Errorf("priority %d: want %d to %d", p.Priority, -engine.MaxPriority, engine.MaxPriority))
	}
	if !slices.Contains([]string{"", CatchUpNone, CatchUpLatest, CatchUpAll}, p.CatchUp) {
		errs = append(errs, fmt.Errorf("catch_up %q: use none, latest or all", p.CatchUp))
	}
	if p.Limits.MemoryMiB < 0 || p.Retention.Runs < 0 || p.Retention.Days < 0 || p.Retention.Days > maxDays {
		errs = append(errs, fmt.Errorf("limits and retention cannot be negative, nor longer than %d days", maxDays))
	}
	g := p.Gates
	for _, v := range []struct {
		name  string
		value float64
		most  float64
	}{
		{"min_new_share", p.MinNewShare, 1}, {"gate max_flag_share", g.MaxFlagShare, 1}, {"gate min_detected", g.MinDetected, 1}, {"gate margin", g.Margin, 1},
		{"gate max_missing", g.MaxMissing, 1}, {"gate min_accuracy", g.MinAccuracy, 1}, {"gate slice_margin", g.SliceMargin, 1}, {"gate min_events_found", g.MinEventsFound, 1},
		{"gate max_two_sample", g.MaxTwoSample, 1}, {"gate max_stuck_share", g.MaxStuckShare, 1}, {"gate max_psi", g.MaxPSI, maxLimit}, {"gate max_per_day", g.MaxPerDay, maxLimit},
		{"drift limit", p.DriftLimit, maxLimit}, {"lookback", p.LookbackS, maxDays * 86400}, {"wall time limit", p.Limits.WallS, maxDays * 86400},
		{"cost limit", p.Limits.MaxCostS, maxLimit}, {"CPU limit", p.Limits.CPUs, maxLimit},
	} {
		if !(v.value >= 0 && v.value <= v.most) { // written so that a NaN is refused
			errs = append(errs, fmt.Errorf("%s is %g: want 0 to %g", v.name, v.value, v.most))
		}
	}
	errs = append(errs, p.Images.Validate())
	for name, r := range p.Gates.Ranges {
		if !(r.Min < r.Max) {
			errs = append(errs, fmt.Errorf("range of channel %s is from %g to %g: want the smaller first", name, r.Min, r.Max))
		}
	}
	return errors.Join(errs...)
}

// Device is what a night needs to know of a device.
type Device struct {
	ID    topic.ID
	Class artifact.Class
	Line  string // its label "line"; empty: it has none
}

// Segment is an immutable file of one device's rows.
type Segment struct {
	Key    string          `json:"key"`
	Digest artifact.Digest `json:"digest"`
	Device topic.ID        `json:"device"`
	First  uint64          `json:"first"` // index of its first row in the device's stream
	Rows   int             `json:"rows"`
	From   time.Time       `json:"from"`
	To     time.Time       `json:"to"`
}

// Columns are the rows of one segment.
type Columns struct {
	Rows    []uint64 // index of each row in the device's stream
	Times   []int64  // ns since 1970 UTC
	Signals []Signal
}

// Signal is one column.
type Signal struct {
	Name, Unit string
	Values     []float32 // NaN: missing
}

// Data gives the fleet's raw segments.
type Data interface {
	// Flush moves everything acknowledged so far into segments.
	Flush(ctx context.Context) error
	// Segments lists raw segments that overlap from..to, by device and first row.
	Segments(ctx context.Context, from, to time.Time) ([]Segment, error)
	// Read returns a segment's rows after checking its digest.
	Read(ctx context.Context, s Segment) (Columns, error)
	// Frames lists the images that devices sent between from and to.
	Frames(ctx context.Context, from, to time.Time) ([]feedback.Frame, error)
	// Labels lists what people said of devices and images of that time.
	Labels(ctx context.Context, from, to time.Time) ([]feedback.Label, error)
}

// ErrDamaged means that a segment's bytes are gone or not those that were
// stored; Data.Read wraps it.
var ErrDamaged = errors.New("segment is damaged")

// Fleet gives the devices that match a selector.
type Fleet interface {
	Devices(ctx context.Context, selector string) ([]Device, error)
}

// Variant is a model to be released for some classes.
type Variant struct {
	Classes []artifact.Class
	Model   []byte
	Golden  artifact.Golden
	Limits  artifact.Limits
}

// Package is what goes to the releaser.
type Package struct {
	Run      string // a run releases at most once: the same run gets the same release
	Family   string
	Variants []Variant
	Lineage  artifact.Lineage
	Expected *artifact.Shift
	Card     string
	// Evaluation is what the back-test found, as a JSON object.
	Evaluation json.RawMessage
}

// Released names a release.
type Released struct {
	Counter  uint64          `json:"counter"`
	Manifest artifact.Digest `json:"manifest"`
}

// Releaser packages, signs, records and publishes.
type Releaser interface {
	Release(ctx context.Context, p Package) (Released, error)
}

// Proposer asks for a rollout and returns its name; asking twice for the same
// release returns the first one's.
type Proposer interface {
	Propose(ctx context.Context, family string, r Released, policy, reason string) (string, error)
}

// Policies keeps retrain policies.
type Policies interface {
	SaveRetrainPolicy(ctx context.Context, p Policy) error
	// RetrainPolicy returns one policy, or ErrNoPolicy.
	RetrainPolicy(ctx context.Context, name string) (Policy, error)
	RetrainPolicies(ctx context.Context) ([]Policy, error)
}

// ErrNoPolicy means no retrain policy has that name.
var ErrNoPolicy = errors.New("no such retrain policy")

// Config names the parties of a night. All but Logger and Now are required.
type Config struct {
	Engine   engine.Config // Workflow, Tick, Now, Tasks and Queues are set by Open
	Data     Data
	Fleet    Fleet
	Objects  objects.Store
	Registry registry.Store
	Policies Policies
	Releaser Releaser
	Proposer Proposer
	Code     string // version of this program, for the lineage
	Logger   *slog.Logger
	Now      func() time.Time
	// Changed is called after a run was started or a step ended; nil: nobody wants to know.
	Changed func(run string)
	// Fits is how many fits this process works on at once; the same for all
	// that share the runs. 0: 1.
	Fits int
	// LookEvery is how often live data is compared with what champions learned,
	// for policies with a drift limit. 0: an hour.
	LookEvery time.Duration
	// CheckpointEvery is how often a long fit keeps how far it has come; a fit
	// that is begun again goes on from there. 0: 30 s.
	CheckpointEvery time.Duration
	// Runner does fits that have limits, and external trainers. nil: fits run
	// in this process, and limits of memory and CPUs are refused.
	Runner runner.Runner
	// Trainers are the external programs that policies may name as external:NAME.
	Trainers []ExternalTrainer
}

// Service runs nights.
type Service struct {
	cfg    Config
	engine *engine.Engine
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// Open starts the engine, takes up unfinished nights and sets the schedules.
func Open(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func(string) {}
	}
	s := &Service{cfg: cfg}
	ec := cfg.Engine
	ec.Workflow, ec.Tick, ec.Now = s.night, s.tick, cfg.Now
	ec.Tasks = map[string]engine.Task{"fit": s.fitTask, "judge": s.judgeTask}
	ec.Queues = []engine.Queue{{Name: anyQueue, Concurrency: cfg.Fits}, {Name: gpuQueue, Concurrency: cfg.Fits, Label: GPULabel}}
	if ec.Logger == nil {
		ec.Logger = cfg.Logger
	}
	var err error
	if s.engine, err = engine.Open(ctx, ec); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	if ec.TasksOnly { // schedules are the hubs' business
		return s, nil
	}
	if err := s.reschedule(ctx); err != nil {
		s.Close()
		return nil, err
	}
	s.done.Go(func() { s.housekeeping(background) })
	return s, nil
}

// Close stops; what it interrupts goes on at the next Open.
func (s *Service) Close() {
	s.stop()
	s.done.Wait()
	s.engine.Close()
}

// Apply saves a policy and its schedule.
func (s *Service) Apply(ctx context.Context, p Policy) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("retrain policy %s: %w", p.Name, err)
	}
	for _, k := range p.Kinds {
		if name, external := trainerOf(k); external {
			if _, err := s.trainer(name); err != nil {
				return fmt.Errorf("retrain policy %s: %w", p.Name, err)
			}
		}
		if _, _, imported := importedOf(k); imported {
			if err := s.usableImport(ctx, k); err != nil {
				return fmt.Errorf("retrain policy %s: %w", p.Name, err)
			}
		}
	}
	if err := s.cfg.Policies.SaveRetrainPolicy(ctx, p); err != nil {
		return fmt.Errorf("save retrain policy %s: %w", p.Name, err)
	}
	return s.reschedule(ctx)
}

func (s *Service) reschedule(ctx context.Context) error {
	ps, err := s.cfg.Policies.RetrainPolicies(ctx)
	if err != nil {
		return fmt.Errorf("read retrain policies: %w", err)
	}
	var rules []engine.Schedule
	for _, p := range ps {
		if p.Schedule.Cron != "" && !p.Paused {
			r := p.Schedule
			r.Name = p.Name
			switch p.CatchUp {
			case CatchUpNone:
				r.CatchUp = false
			case CatchUpAll:
				r.CatchUp = true
			case CatchUpLatest:
				r = r.CatchUpLatest()
			}
			rules = append(rules, r)
		}
	}
	return s.engine.SetSchedules(rules)
}

// Trigger says why a night runs.
type Trigger string

// The triggers.
const (
	BySchedule Trigger = "schedule"
	ByHand     Trigger = "manual"
	ByBackfill Trigger = "backfill"
	ByDrift    Trigger = "drift"
)

// What Policy.CatchUp may say.
const (
	CatchUpNone   = "none"
	CatchUpLatest = "latest"
	CatchUpAll    = "all"
)

// Order is the input of a run. It holds the whole policy as it was, so that a
// run that is taken up later does what was asked then.
type Order struct {
	Policy  Policy    `json:"policy"`
	Trigger Trigger   `json:"trigger"`
	By      string    `json:"by,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	At      time.Time `json:"at"`      // end of the data interval
	DryRun  bool      `json:"dry_run"` // stop after the gates: sign and release nothing
}

// Request asks for a night by hand.
type Request struct {
	Policy string
	By     string // as in the ledger
	Reason string
	Seed   *int64 // nil: the policy's
	DryRun bool   // stop after the gates
}

// Start begins a night now and returns the run's id.
func (s *Service) Start(ctx context.Context, r Request) (string, error) {
	p, err := s.cfg.Policies.RetrainPolicy(ctx, r.Policy)
	if err != nil {
		return "", err
	}
	if r.Seed != nil {
		p.Seed = uint64(*r.Seed)
	}
	at := s.cfg.Now().UTC()
	id := runID(r.Policy, at)
	return id, s.start(id, Order{Policy: p, Trigger: ByHand, By: r.By, Reason: r.Reason, At: at, DryRun: r.DryRun})
}

func (s *Service) start(id string, o Order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	defer s.cfg.Changed(id)
	return s.engine.Start(id, b, o.Policy.Priority)
}

func runID(policy string, at time.Time) string {
	return fmt.Sprintf("%s-%s", policy, at.UTC().Format("20060102t150405.000"))
}

func (s *Service) tick(name string, at time.Time) (string, json.RawMessage, int, error) {
	p, err := s.cfg.Policies.RetrainPolicy(context.Background(), name)
	if err != nil {
		return "", nil, 0, err
	}
	b, err := json.Marshal(Order{Policy: p, Trigger: BySchedule, At: at.UTC()})
	return runID(name, at), b, p.Priority, err
}

// Cancel stops a run.
func (s *Service) Cancel(id string) error { return s.engine.Cancel(id) }

// Rerun repeats a run from the named step, one of Steps, and returns the new
// run's id. What came before is kept as it was. All fits belong together:
// from any of the train steps, all of them are looked at again, and those
// with equal inputs are taken from the cache.
func (s *Service) Rerun(id, step string) (string, error) {
	run, err := s.Run(id)
	if err != nil {
		return "", err
	}
	names := run.StepNames()
	if !slices.Contains(names, step) {
		return "", fmt.Errorf("run %s has no step %q: use one of %s", id, step, strings.Join(names, ", "))
	}
	if strings.HasPrefix(step, "train/") {
		step = "train"
	}
	forked, err := s.engine.Fork(id, step)
	if err == nil {
		s.cfg.Changed(forked)
	}
	return forked, err
}

// Logs returns the lines that a step of a run and its tasks have written so
// far, by time; with an empty step those of all. A run at work shows what it
// has.
func (s *Service) Logs(id, step string) ([]engine.LogLine, error) {
	run, err := s.Run(id)
	if err != nil {
		return nil, err
	}
	names := []string{step}
	if step == "" {
		names = run.StepNames()
	}
	for _, t := range run.Tasks {
		if step == "" || strings.HasPrefix(t.Name, step+"/") {
			names = append(names, t.Name)
		}
	}
	var out []engine.LogLine
	for _, name := range names {
		lines, err := s.engine.Log(run.Info, name)
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	slices.SortStableFunc(out, func(a, b engine.LogLine) int { return a.At.Compare(b.At) })
	return out, nil
}

// Run is a night as people see it.
type Run struct {
	engine.Info
	Order   Order
	Outcome Outcome // zero until the run has ended well
	// Cost sums those of Steps, which have each its own, and of tasks whose step
	// was not reached; wall time is from the taking up to the end. Zero from Runs.
	Cost engine.Cost
}

// Runs lists up to limit runs, newest first, without their steps.
func (s *Service) Runs(limit, offset int) ([]Run, error) {
	infos, err := s.engine.List(limit, offset)
	if err != nil {
		return nil, err
	}
	out := make([]Run, len(infos))
	for i, info := range infos {
		if out[i], err = readRun(info); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Run returns one run with its steps; engine.ErrNoRun when there is none.
func (s *Service) Run(id string) (Run, error) {
	info, err := s.engine.Get(id)
	if err != nil {
		return Run{}, err
	}
	return readRun(info)
}

func readRun(info engine.Info) (Run, error) {
	r := Run{Info: info}
	if err := json.Unmarshal(info.Input, &r.Order); err != nil {
		return Run{}, fmt.Errorf("read order of run %s: %w", info.ID, err)
	}
	if info.Output != nil {
		if err := json.Unmarshal(info.Output, &r.Outcome); err != nil {
			return Run{}, fmt.Errorf("read outcome of run %s: %w", info.ID, err)
		}
	}
	for _, step := range info.Steps {
		r.Cost = r.Cost.Add(step.Cost)
	}
	for _, t := range info.Tasks { // of a step that the run did not come to the end of
		if !slices.ContainsFunc(info.Steps, func(s engine.StepInfo) bool { return strings.HasPrefix(t.Name, s.Name+"/") }) {
			r.Cost = r.Cost.Add(t.Cost)
		}
	}
	r.Cost.WallSeconds = 0
	if !info.Started.IsZero() && !info.Ended.IsZero() {
		r.Cost.WallSeconds = info.Ended.Sub(info.Started).Seconds()
	}
	return r, nil
}

// NextRun returns when a policy runs next; zero when only by hand.
func (s *Service) NextRun(p Policy) time.Time {
	if p.Schedule.Cron == "" || p.Paused {
		return time.Time{}
	}
	t, err := p.Schedule.Next(s.cfg.Now())
	if err != nil {
		return time.Time{}
	}
	return t
}
