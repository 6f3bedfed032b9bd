package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/twin"
)

// Names on the disk.
const (
	journalFile = "update/journal.json"
	recordFile  = "record.json"
	recentFile  = "record.recent.json"
	spoolFolder = "spool"
)

const maxRecordBytes = 64 << 10

// record is what an agent remembers of its own work across restarts. It is
// written before every report, so that a killed agent never reports less than
// it did before, and made durable every recordEvery: a power cut costs the
// counts since then.
type record struct {
	Schema  int               `json:"schema"` // 1
	Stream  pipeline.Counters `json:"stream"`
	Dropped uint64            `json:"dropped"` // blocks the spool lost
	// Unreadable is how many pictures the camera skipped.
	Unreadable uint64 `json:"unreadable,omitzero"`
	// Restarted is when the last row came before this program ended to let
	// another one run. Zero: it did not.
	Restarted time.Time `json:"restarted,omitzero"`
	// Champion counts what the release that acts has done.
	Champion tally `json:"champion"`
}

// tally is the work of one champion over restarts.
type tally struct {
	Manifest  artifact.Digest `json:"manifest"`
	Since     time.Time       `json:"since"`
	Windows   uint64          `json:"windows"`
	Flagged   uint64          `json:"flagged"`
	NonFinite uint64          `json:"non_finite"`

	seen pipeline.Watch // counts already added
}

// add brings the tally up to date with what the pipeline has counted.
func (t *tally) add(w pipeline.Watch, now time.Time) {
	if w.Release.Manifest == "" {
		return
	}
	if t.Manifest != w.Release.Manifest {
		*t = tally{Manifest: w.Release.Manifest, Since: now.UTC()}
	}
	if w.Windows < t.seen.Windows { // it was champion before, in this run
		t.seen = pipeline.Watch{}
	}
	t.Windows += w.Windows - t.seen.Windows
	t.Flagged += w.Flagged - t.seen.Flagged
	t.NonFinite += w.NonFinite - t.seen.NonFinite
	t.seen = w
}

func (t *tally) running(w pipeline.Watch) *twin.Running {
	if w.Release.Manifest == "" {
		return nil
	}
	return &twin.Running{
		Name: w.Release.Name, Counter: w.Release.Counter, Manifest: w.Release.Manifest, Model: w.Release.Model,
		Since: t.Since, Windows: t.Windows, Flagged: t.Flagged, NonFinite: t.NonFinite,
		LatencyP99Ms: w.LatencyP99Ms, Threshold: w.Threshold, Drift: w.Drift,
	}
}

// loadRecord returns the newer of the durable record and the recent one, and an
// empty one where neither can be read: counters are no reason not to work.
func loadRecord(d disk.FS) (record, error) {
	r := record{Schema: 1}
	var errs []error
	for _, name := range []string{recordFile, recentFile} {
		b, err := disk.ReadFile(d, name, maxRecordBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var found record
		if err == nil {
			err = json.Unmarshal(b, &found)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", name, err))
		} else if found.Stream.Samples >= r.Stream.Samples {
			r = found
		}
	}
	if r.Stream.Samples > 0 {
		return r, nil
	}
	return r, errors.Join(errs...)
}

// saveRecent writes a record that survives the end of the program, but perhaps
// not a power cut.
func saveRecent(d disk.FS, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := d.Create(recentFile + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return d.Rename(recentFile+".new", recentFile)
}

func saveJSON(d disk.FS, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return disk.WriteAtomic(d, name, b)
}
