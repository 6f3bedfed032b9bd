// Package images is a camera that is a folder: pictures that another program
// writes there are taken in as they come, or the pictures of a folder are
// played in the order of their names.
//
// The parties are the program that writes pictures (a camera's own software, an
// FTP server, a person), which needs to know nothing of Swell, and the agent.
// The package promises that a picture is taken in only when it is fully
// written; that a watched folder's pictures are not taken in again after a
// restart, but for the newest few seconds after a power cut; and that one which
// cannot be read is skipped, named in the log and counted. It never changes
// the folder: what was handled may be moved or deleted by anybody.
package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/models/frame"
)

// Config says which pictures to take in and how. Only Dir is required.
type Config struct {
	// Dir is the folder. Pictures in folders below it count too; names that
	// begin with a dot do not.
	Dir string `yaml:"dir"`
	// Watch takes in pictures as they are written, those already there first,
	// the oldest first. Otherwise the pictures that are there are played in the
	// order of their names.
	Watch bool `yaml:"watch"`
	// Loop plays them again at the end; otherwise the source ends. Not with
	// Watch.
	Loop bool `yaml:"loop"`
	// RateHz is how many pictures are played a second; 0 means 1, below 0 means
	// as fast as they are taken. With Watch it bounds the pace; 0: no bound.
	RateHz float64 `yaml:"rate_hz"`
	// Extensions of file names that are pictures, with the dot. Empty: .jpg,
	// .jpeg and .png. Small and capital letters are the same.
	Extensions []string `yaml:"extensions"`
}

// Validate reports what keeps the source from working.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("source.images.dir is empty: name the folder with the pictures"))
	}
	if c.Watch && c.Loop {
		errs = append(errs, errors.New("source.images: watch and loop do not go together: a watched folder has no end"))
	}
	if c.Watch && c.RateHz < 0 || c.RateHz > 1000 {
		errs = append(errs, fmt.Errorf("source.images.rate_hz %g: want at most 1000, and not below 0 with watch", c.RateHz))
	}
	for _, e := range c.Extensions {
		if len(e) < 2 || e[0] != '.' {
			errs = append(errs, fmt.Errorf("source.images.extensions: %q: want a dot and letters, as .jpg", e))
		}
	}
	return errors.Join(errs...)
}

// Device is what the source needs of its device.
type Device struct {
	Disk disk.FS          // keeps which pictures were taken in; not used without Watch
	Log  *slog.Logger     // names pictures that cannot be read
	Now  func() time.Time // stamps pictures that are played
}

// Bounds.
const (
	maxFiles   = 100_000          // pictures in the folder
	pollEvery  = time.Second      // between looks into a watched folder, at least
	pollShare  = 20               // a look may take one part in so many of the time
	written    = 10 * time.Second // a picture unchanged for so long is fully written
	patience   = time.Minute      // how long a picture that looks cut off may still grow
	stateFile  = "source/images"
	stateSaved = 10 * time.Second // between syncs of it
)

// Source is a folder of pictures. Make it with New.
type Source struct {
	config Config
	device Device
	poll   time.Duration

	queue  []file // to be taken in
	looked map[string]stamp
	taken  *taken // nil without Watch
	next   int    // of queue
	good   int    // pictures read in this pass, without Watch
	given  *file  // handed over last, not yet noted as taken
	row    uint64
	lastAt int64
	due    time.Time // of the next picture

	unreadable atomic.Uint64
	newest     atomic.Pointer[error]
	out        source.Rows
}

// file is one picture of the folder.
type file struct {
	name string // below Dir
	stamp
}

// stamp tells one writing of a file from another.
type stamp struct {
	size  int64
	mtime int64 // ns since 1970
}

// New makes a source that has not looked at its folder. c must be valid.
func New(c Config, d Device) *Source {
	if len(c.Extensions) == 0 {
		c.Extensions = []string{".jpg", ".jpeg", ".png"}
	}
	if c.RateHz == 0 && !c.Watch {
		c.RateHz = 1
	}
	return &Source{config: c, device: d, poll: pollEvery}
}

// Open implements source.Source.
func (s *Source) Open(context.Context) error {
	s.row, s.lastAt, s.due, s.given = 0, 0, time.Time{}, nil
	s.queue, s.next, s.good, s.looked = nil, 0, 0, nil
	files, err := s.list()
	if err != nil {
		return err
	}
	if s.config.Watch {
		// What lies there now is looked at once more before it is taken in,
		// unless it is old enough.
		if s.taken, err = openTaken(s.device.Disk, stateFile); err != nil {
			return fmt.Errorf("pictures of %s: which were taken in before: %w", s.config.Dir, err)
		}
		return nil
	}
	if len(files) == 0 {
		return fmt.Errorf("pictures of %s: it has no file whose name ends in %s", s.config.Dir, strings.Join(s.config.Extensions, ", "))
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	s.queue = files
	return nil
}

// Channels implements source.Source.
func (s *Source) Channels() []source.Channel {
	var out []source.Channel
	for _, c := range frame.FeatureChannels() {
		out = append(out, source.Channel{Name: c.Name, Unit: c.Unit})
	}
	return out
}

// RateHz implements source.Source.
func (s *Source) RateHz() float64 {
	if s.config.Watch {
		return 0
	}
	return max(s.config.RateHz, 0)
}

// Unreadable implements source.Camera.
func (s *Source) Unreadable() (uint64, error) {
	if err := s.newest.Load(); err != nil {
		return s.unreadable.Load(), *err
	}
	return s.unreadable.Load(), nil
}

// Next implements source.Source. It gives one picture at a time.
func (s *Source) Next(ctx context.Context) (source.Rows, error) {
	s.settle()
	for {
		f, err := s.pick(ctx)
		if err != nil {
			return source.Rows{}, err
		}
		encoded, picture, err := s.read(f)
		if err == nil {
			if err := s.wait(ctx, s.due); err != nil {
				return source.Rows{}, err
			}
			s.good++
			s.given = &f
			return s.rows(f, encoded, picture), nil
		}
		s.skip(f, err)
	}
}

// pick returns the picture to read next, and waits for one where the folder is
// watched.
func (s *Source) pick(ctx context.Context) (file, error) {
	for s.next == len(s.queue) {
		if s.config.Watch {
			began := time.Now()
			ready, err := s.look()
			if err != nil {
				return file{}, err
			}
			if s.queue, s.next = ready, 0; len(ready) > 0 {
				break
			}
			if err := s.wait(ctx, time.Now().Add(max(s.poll, pollShare*time.Since(began)))); err != nil {
				return file{}, err
			}
			continue
		}
		if s.good == 0 {
			return file{}, fmt.Errorf("pictures of %s: not one of %d could be read", s.config.Dir, len(s.queue))
		}
		if !s.config.Loop {
			return file{}, io.EOF
		}
		s.next, s.good = 0, 0
	}
	if err := ctx.Err(); err != nil {
		return file{}, err
	}
	s.next++
	return s.queue[s.next-1], nil
}

// errUnfinished says that a picture may still be written.
var errUnfinished = errors.New("it is not fully written yet")

func (s *Source) read(f file) ([]byte, frame.Frame, error) {
	b, err := s.load(f)
	if err != nil {
		return nil, frame.Frame{}, err
	}
	p, err := frame.Decode(b, frame.Limits{})
	if err != nil && s.config.Watch && time.Since(time.Unix(0, f.mtime)).Abs() < patience {
		return nil, frame.Frame{}, errUnfinished
	}
	return b, p, err
}

// maxBytes is the most a picture's file may have.
const maxBytes = 16 << 20

func (s *Source) load(f file) ([]byte, error) {
	r, err := os.Open(filepath.Join(s.config.Dir, f.name))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err == nil && len(b) > maxBytes {
		err = fmt.Errorf("it has more than %d MiB", maxBytes>>20)
	}
	if err == nil && s.config.Watch && int64(len(b)) != f.size {
		err = errUnfinished
	}
	return b, err
}

// skip passes over a picture that cannot be read.
func (s *Source) skip(f file, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return // somebody tidied up
	case errors.Is(err, errUnfinished):
		delete(s.looked, f.name)
		return
	}
	err = fmt.Errorf("picture %s: %w", filepath.Join(s.config.Dir, f.name), err)
	s.unreadable.Add(1)
	s.newest.Store(&err)
	s.device.Log.Warn("a picture is skipped", "error", err)
	if s.config.Watch {
		s.note(f)
		return
	}
	s.next--
	s.queue = slices.Delete(s.queue, s.next, s.next+1)
}

// settle notes that the picture given last was taken in.
func (s *Source) settle() {
	if s.given != nil && s.config.Watch {
		s.note(*s.given)
	}
	s.given = nil
}

func (s *Source) note(f file) {
	if err := s.taken.add(f); err != nil {
		s.device.Log.Warn("a restart may take in a picture again", "name", f.name, "error", err)
	}
}

func (s *Source) rows(f file, encoded []byte, p frame.Frame) source.Rows {
	now := s.device.Now().UnixNano()
	at := now
	if s.config.Watch {
		at = min(f.mtime, now)
	}
	at = max(at, s.lastAt)
	s.lastAt = at
	if s.config.RateHz > 0 {
		every := time.Duration(float64(time.Second) / s.config.RateHz)
		// A pause of the reader is not caught up with.
		s.due = laterOf(s.due, time.Now().Add(-every)).Add(every)
	}
	if s.out.Values == nil {
		s.out = source.Rows{Times: make([]int64, 1), Values: make([][]float32, len(frame.FeatureChannels())), Frames: make([][]byte, 1), Pictures: make([]frame.Frame, 1)}
		for c := range s.out.Values {
			s.out.Values[c] = make([]float32, 1)
		}
	}
	for c, v := range p.Features() {
		s.out.Values[c][0] = v
	}
	s.out.First, s.out.Times[0], s.out.Frames[0], s.out.Pictures[0] = s.row, at, encoded, p
	s.row++
	return s.out
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s *Source) wait(ctx context.Context, until time.Time) error {
	d := time.Until(until)
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// look returns the pictures of a watched folder that are fully written and were
// not taken in, the oldest first.
func (s *Source) look() ([]file, error) {
	files, err := s.list()
	if err != nil {
		return nil, err
	}
	var ready []file
	now := make(map[string]stamp)
	s.taken.seen(files)
	for _, f := range files {
		if s.taken.has(f) {
			continue
		}
		now[f.name] = f.stamp
		if before, ok := s.looked[f.name]; ok && before == f.stamp || s.looked == nil && time.Since(time.Unix(0, f.mtime)) > written {
			ready = append(ready, f)
		}
	}
	s.looked = now
	slices.SortFunc(ready, func(a, b file) int { return cmp.Or(cmp.Compare(a.mtime, b.mtime), cmp.Compare(a.name, b.name)) })
	return ready, nil
}

// list returns the pictures of the folder, in no order.
func (s *Source) list() ([]file, error) {
	var files []file
	err := filepath.WalkDir(s.config.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path != s.config.Dir && errors.Is(err, fs.ErrNotExist) {
				return nil // gone since the folder was read
			}
			return err
		}
		if strings.HasPrefix(d.Name(), ".") && path != s.config.Dir {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.IsDir() || !slices.ContainsFunc(s.config.Extensions, func(e string) bool { return strings.EqualFold(e, filepath.Ext(path)) }) {
			return nil
		}
		info, err := os.Stat(path) // through links: a picture may be one
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		if len(files) == maxFiles {
			return fmt.Errorf("it has more than %d pictures: move away those that were taken in", maxFiles)
		}
		name, err := filepath.Rel(s.config.Dir, path)
		files = append(files, file{name, stamp{info.Size(), info.ModTime().UnixNano()}})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pictures of %s: %w", s.config.Dir, err)
	}
	return files, nil
}

// Close implements source.Source. The picture given last counts as taken in:
// what became of it is for the pipeline to say.
func (s *Source) Close() error {
	s.settle()
	if s.taken == nil {
		return nil
	}
	t := s.taken
	s.taken = nil
	return t.close()
}
