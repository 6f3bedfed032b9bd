package frames

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/swellfleet/swell/protocol/telemetry"
)

// What a device sends.
const (
	All       = "all"
	Uncertain = "uncertain"
	None      = "none"
)

// Config says which pictures of a camera go to the hub.
type Config struct {
	// Upload is all, uncertain or none. uncertain sends those that the model can
	// hardly tell, those it calls anomalous and a share of the rest; while no
	// model acts it sends an even sample. Empty means uncertain.
	Upload string `yaml:"upload"`
	// BudgetMiBPerDay bounds what is sent. What is not used may be sent later,
	// up to a day's worth. 0 means 32, below 0 means no bound.
	BudgetMiBPerDay float64 `yaml:"budget_mib_per_day"`
	// SampleShare of the pictures that uncertain would not send are sent all
	// the same, so that people see what the model is sure of. 0 means 0.01,
	// below 0 means none.
	SampleShare float64 `yaml:"sample_share"`
	// MaxBytes of one picture; larger ones are made smaller before they are
	// sent. 0 means 256 KiB; at most 2 MiB.
	MaxBytes int `yaml:"max_bytes"`
	// SpoolMiB bounds what waits on disk for the hub; the oldest go first. 0
	// means 64.
	SpoolMiB int `yaml:"spool_mib"`
}

// Validate reports what cannot work.
func (c Config) Validate() error {
	var errs []error
	switch c.Upload {
	case "", All, Uncertain, None:
	default:
		errs = append(errs, fmt.Errorf("frames.upload %q: want all, uncertain or none", c.Upload))
	}
	if math.IsNaN(c.BudgetMiBPerDay) || c.BudgetMiBPerDay > 1e9 {
		errs = append(errs, fmt.Errorf("frames.budget_mib_per_day %g: want at most 1e9", c.BudgetMiBPerDay))
	}
	if !(c.SampleShare <= 1) {
		errs = append(errs, fmt.Errorf("frames.sample_share %g: want at most 1", c.SampleShare))
	}
	if c.MaxBytes != 0 && (c.MaxBytes < minBytes || c.MaxBytes > telemetry.MaxFrameBytes) {
		errs = append(errs, fmt.Errorf("frames.max_bytes %d: want %d to %d", c.MaxBytes, minBytes, telemetry.MaxFrameBytes))
	}
	if c.SpoolMiB < 0 {
		errs = append(errs, fmt.Errorf("frames.spool_mib %d: want 0 or more", c.SpoolMiB))
	}
	return errors.Join(errs...)
}

// minBytes is the smallest bound that every picture can be brought below.
const minBytes = 4 << 10

func (c Config) withDefaults() Config {
	if c.Upload == "" {
		c.Upload = Uncertain
	}
	if c.BudgetMiBPerDay == 0 {
		c.BudgetMiBPerDay = 32
	}
	if c.SampleShare == 0 {
		c.SampleShare = 0.01
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 256 << 10
	}
	if c.SpoolMiB == 0 {
		c.SpoolMiB = 64
	}
	return c
}

// Finding is what the model that acts said of a picture. The zero value: none
// acted.
type Finding struct {
	Release     string // "name-counter"; empty: no model scored the picture
	Score       float64
	Threshold   float64
	Flag        bool
	Class       string // likeliest; empty: the model tells none
	Probability float64
}

// sure is the probability from which a model's class is believed, and near is
// how far from its threshold, as a share of it, a score is unclear.
const (
	sure = 0.8
	near = 0.2
)

func (f Finding) uncertain() bool {
	if f.Class != "" {
		return f.Probability < sure
	}
	return math.Abs(f.Score-f.Threshold) <= near*math.Abs(f.Threshold)
}

// budget is a bucket of bytes that fills up in a day. What it holds is kept
// over restarts.
type budget struct {
	// Spent is how many bytes are missing from a full bucket; 0: it is full.
	Spent float64   `json:"spent"`
	At    time.Time `json:"at"` // when that was so
	// Ahead is how far the even sample is before its time, in bytes.
	Ahead float64 `json:"ahead"`
	// Share is the part of the next sampled picture that has come together.
	Share float64 `json:"share"`
}

// refill brings the bucket up to now. A clock that goes back fills nothing.
func (b *budget) refill(perDay float64, now time.Time) {
	if passed := now.Sub(b.At); passed > 0 && !b.At.IsZero() {
		gained := perDay * passed.Hours() / 24
		b.Spent, b.Ahead = max(b.Spent-gained, 0), max(b.Ahead-gained, 0)
	}
	b.At = now
}

// choice is what becomes of one picture.
type choice struct {
	why     string // empty: nobody wants it
	refused bool   // wanted, but the budget is spent
}

// choose decides on a picture of so many bytes. c has its defaults.
func (b *budget) choose(c Config, f Finding, size int, now time.Time) choice {
	perDay, bytes := c.BudgetMiBPerDay*(1<<20), float64(size)
	bounded := perDay >= 0
	if bounded {
		b.refill(perDay, now)
	}
	why, reserve := "", 0.0
	switch {
	case c.Upload == None:
	case c.Upload == All:
		why = telemetry.WhyAll
	case f.Release == "" && bounded:
		// An even sample: the next one when this one's bytes have been earned.
		if b.Ahead > 0 {
			return choice{}
		}
		b.Ahead = bytes
		why = telemetry.WhySample
	case f.Release != "" && f.uncertain():
		why = telemetry.WhyUncertain
	case f.Flag:
		// Many anomalies in a row are much alike: half the budget is left for
		// what is unclear.
		why, reserve = telemetry.WhyFlagged, perDay/2
	case c.SampleShare > 0:
		if b.Share += c.SampleShare; b.Share >= 1 {
			b.Share--
			why = telemetry.WhySample
		}
	}
	if why == "" || !bounded {
		return choice{why: why}
	}
	if b.Spent+bytes > perDay-reserve {
		return choice{why: why, refused: true}
	}
	b.Spent += bytes
	return choice{why: why}
}
