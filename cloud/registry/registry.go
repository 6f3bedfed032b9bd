// Package registry keeps what the hub knows of its models: families, their
// versions with stage, card and metrics, and the lineage that ties a device's
// running model to the data it was learned from.
//
// The parties are cloud/retrain, which registers what a night made; the
// rollout shell, which moves stages on; and people, who read. A version is
// written once and only its stage changes after that. Storage is behind Store,
// implemented by cloud/store.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/swellfleet/swell/protocol/artifact"
)

// Stage is how far a version has come.
type Stage string

// The stages.
const (
	Refused    Stage = "refused"     // a gate of the night said no; no release exists
	Released   Stage = "released"    // signed and published, not yet rolled out to the end
	Promoted   Stage = "promoted"    // a rollout of it ended well: the goal of later rollbacks
	RolledBack Stage = "rolled_back" // a rollout of it was stopped
	Superseded Stage = "superseded"  // was promoted before its successor
	Candidate  Stage = "candidate"   // brought from outside: nights may learn from it, devices never get it
	Collected  Stage = "collected"   // its files were removed; what is known of it stays
)

// Version is one version of a family.
type Version struct {
	Family  string          `json:"family"`
	Counter uint64          `json:"counter"` // release counter; 0 while refused
	Release artifact.Digest `json:"release"` // manifest digest; empty while refused
	Stage   Stage           `json:"stage"`
	Reason  string          `json:"reason,omitempty"` // why it is in this stage
	Created time.Time       `json:"created"`
	Lineage Lineage         `json:"lineage"`
	Models  []Model         `json:"models"` // one for each variant
	Card    string          `json:"card"`   // plain text for people
	// Expected is the share of windows it and its parent flag on the night's
	// held-out data; nil without a parent.
	Expected *artifact.Shift `json:"expected,omitempty"`
	// Import says how a candidate came from outside; nil for what was made here.
	Import *Import `json:"import,omitempty"`
}

// Import is what is known of a model that somebody brought.
type Import struct {
	Source  string   `json:"source"` // its address, or "a file"
	By      string   `json:"by"`     // as in the ledger
	Reason  string   `json:"reason,omitempty"`
	Input   string   `json:"input"` // what its graph reads
	Outputs []string `json:"outputs"`
	Notes   []string `json:"notes,omitempty"` // what was found, a sentence each
}

// Lineage says where a version came from.
type Lineage struct {
	artifact.Lineage
	ParentCounter uint64    `json:"parent_counter,omitempty"`
	Segments      int       `json:"segments"`
	Devices       int       `json:"devices"`
	From          time.Time `json:"from"`
	To            time.Time `json:"to"`
}

// Model is what one variant of a version holds.
type Model struct {
	Classes   []artifact.Class   `json:"classes"`
	Kind      string             `json:"kind"` // detector kind
	Digest    artifact.Digest    `json:"digest"`
	Bytes     int64              `json:"bytes"`
	Threshold float64            `json:"threshold"`
	Window    int                `json:"window"` // samples per channel
	Metrics   map[string]float64 `json:"metrics"`
	Why       string             `json:"why"` // why this candidate won
	// Profile is the distribution of the training data (models/evaluate.Profile
	// as JSON), for the drift test of later nights. Empty: not known.
	Profile json.RawMessage `json:"profile,omitempty"`
}

// OfChampion begins the name of a metric that the champion of that day had on
// the same data.
const OfChampion = "champion_"

// ErrNoVersion means the family has no such version.
var ErrNoVersion = errors.New("no such model version")

// Store keeps versions. Methods are safe for concurrent use.
type Store interface {
	// SaveVersion adds v. Adding the same family, counter and run again
	// replaces nothing and is no error.
	SaveVersion(ctx context.Context, v Version) error
	// Version returns one version, or ErrNoVersion.
	Version(ctx context.Context, family string, counter uint64) (Version, error)
	// Versions lists a family's versions with a release, newest first; before
	// 0 starts at the newest.
	Versions(ctx context.Context, family string, before uint64, limit int) ([]Version, error)
	// Families lists the names of all families, sorted.
	Families(ctx context.Context) ([]string, error)
	// SetStage moves a version on.
	SetStage(ctx context.Context, family string, counter uint64, stage Stage, reason string) error
	// SaveSources notes what a version learned from. Noting a source again is
	// no error; the version need not be saved yet.
	SaveSources(ctx context.Context, family string, counter uint64, from []Source) error
	// Sources counts what a version learned from by kind; empty: nothing noted.
	Sources(ctx context.Context, family string, counter uint64) (map[SourceKind]int, error)
	// ReleasesOf lists every version that learned from the thing with a digest,
	// by family, newest first.
	ReleasesOf(ctx context.Context, d artifact.Digest) ([]VersionRef, error)
	// SaveCollection records what a collection removed.
	SaveCollection(ctx context.Context, c Collection) error
	// Collections lists the newest collections first.
	Collections(ctx context.Context, limit int) ([]Collection, error)
}

// walk hands the versions of a family to see, newest first, until it returns
// false. It reads few at first: what is looked for is mostly among the newest, and
// a version of a hundred classes is megabytes.
func walk(ctx context.Context, s Store, family string, see func(Version) bool) error {
	before := uint64(0)
	for page := 4; ; page = min(2*page, 64) {
		vs, err := s.Versions(ctx, family, before, page)
		if err != nil || len(vs) == 0 {
			return err
		}
		for _, v := range vs {
			if !see(v) {
				return nil
			}
		}
		before = vs[len(vs)-1].Counter
	}
}

// Champion returns the family's newest promoted version, or ErrNoVersion.
func Champion(ctx context.Context, s Store, family string) (Version, error) {
	err := fmt.Errorf("promoted version of %s: %w", family, ErrNoVersion)
	var out Version
	if e := walk(ctx, s, family, func(v Version) bool {
		if v.Stage == Promoted {
			out, err = v, nil
		}
		return err != nil
	}); e != nil {
		return Version{}, e
	}
	return out, err
}

// ChampionFor returns the version whose model is the champion of one device
// class: the newest promoted one, or, where that has no model for the class, the
// one that it or an earlier one superseded, since devices of the class still run
// that. ErrNoVersion when the class never had a champion.
func ChampionFor(ctx context.Context, s Store, family string, class artifact.Class) (Version, error) {
	err := fmt.Errorf("promoted version of %s for class %s: %w", family, class, ErrNoVersion)
	var out Version
	promoted := false
	if e := walk(ctx, s, family, func(v Version) bool {
		promoted = promoted || v.Stage == Promoted
		if _, ok := v.ModelFor(class); ok && promoted && (v.Stage == Promoted || v.Stage == Superseded) {
			out, err = v, nil
		}
		return err != nil
	}); e != nil {
		return Version{}, e
	}
	return out, err
}

// Promote makes a version the family's champion and those before it superseded.
// A crash in the middle leaves two promoted versions, never none: a night without
// a champion would have nothing to be compared with.
func Promote(ctx context.Context, s Store, family string, counter uint64, reason string) error {
	var old []uint64
	if err := walk(ctx, s, family, func(v Version) bool {
		if v.Stage == Promoted && v.Counter != counter {
			old = append(old, v.Counter)
		}
		return true
	}); err != nil {
		return err
	}
	if err := s.SetStage(ctx, family, counter, Promoted, reason); err != nil {
		return err
	}
	for _, o := range old {
		if err := s.SetStage(ctx, family, o, Superseded, fmt.Sprintf("replaced by %s-%d", family, counter)); err != nil {
			return err
		}
	}
	return nil
}

// ModelFor returns the model a version holds for class.
func (v Version) ModelFor(class artifact.Class) (Model, bool) {
	for _, m := range v.Models {
		for _, c := range m.Classes {
			if c == class {
				return m, true
			}
		}
	}
	return Model{}, false
}

// Encode returns v as stored JSON.
func (v Version) Encode() ([]byte, error) { return json.Marshal(v) }
