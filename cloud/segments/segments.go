// Package segments moves raw rows from the series head into immutable Parquet
// files in object storage, and reads them back for training.
//
// The parties are the series head, which holds rows until they are in a
// segment; the object store; and retrain, which reads snapshots.
//
// Promises: each block that was acknowledged is in exactly one segment or still
// in the head, also when the hub is killed between any two steps; a segment
// never changes and its key carries its SHA-256; the catalogue is the listing of
// the object store, so a lost hub loses no segment.
//
// Verdicts and raw samples are streams alike: Filter.Stream tells them apart.
// Only packages under cloud, and the simulator, import it.
package segments

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/cloud/series/embedded"
	"github.com/swellfleet/swell/protocol/topic"
)

// Segment describes one file.
type Segment struct {
	Key    string // in the object store
	Digest string // SHA-256 of the file, hex
	Site   string
	Node   string
	Stream string
	First  uint64 // index of the first row in the device's stream
	Rows   int
	From   int64 // ns since 1970 UTC of the oldest row
	To     int64 // ns since 1970 UTC of the newest row
}

// Filter chooses segments; empty fields choose all.
type Filter struct {
	Site, Node, Stream string
}

// Columns are the rows of a segment in order of time.
type Columns struct {
	Rows    []uint64 // index of each row in the device's stream; holes are lost rows
	Times   []int64  // ns since 1970 UTC
	Signals []Column // in the order the device sent them
}

// Column is one signal of a segment.
type Column struct {
	Name   string
	Unit   string
	Values []float32 // one a row; NaN is "no value"
}

// Head holds the blocks that are in no segment yet; embedded.Store is one, when
// it was opened with KeepHead.
type Head interface {
	HeadBytes() int64
	HeadStreams(ctx context.Context) ([]embedded.HeadStream, error)
	HeadBlocks(ctx context.Context, id topic.ID, stream string, maxBytes int64) ([]series.Batch, error)
	Blocks(ctx context.Context, id topic.ID, stream string, refs []embedded.BlockRef) ([]series.Batch, error)
	SetPlan(ctx context.Context, id topic.ID, stream string, plan embedded.Plan) error
	Seal(ctx context.Context, id topic.ID, stream string, blocks []embedded.BlockRef) error
}

// Objects is the part of objects.Store that segments need.
type Objects interface {
	PutIfAbsent(ctx context.Context, key string, r io.Reader, size int64) error
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, objects.Info, error)
	Stat(ctx context.Context, key string) (objects.Info, error)
	List(ctx context.Context, prefix string) iter.Seq2[objects.Info, error]
	Delete(ctx context.Context, key string) error
}

// Config says what a Keeper works with.
type Config struct {
	Head     Head          // nil for a Keeper that only reads
	Objects  Objects       // required
	Log      *slog.Logger  // required
	Interval time.Duration // between flushes; 0 means 5 minutes
	MaxBytes int64         // of values in the head that start a flush before, and of one segment; 0 means 64 MiB
}

// Keeper flushes and reads segments.
type Keeper struct {
	cfg Config
	mu  sync.Mutex // held during a flush: one at a time
}

// New returns a Keeper; Run flushes from time to time.
func New(cfg Config) (*Keeper, error) {
	if cfg.Objects == nil || cfg.Log == nil {
		return nil, errors.New("keep segments: Objects and Log are required")
	}
	if cfg.Interval == 0 {
		cfg.Interval = 5 * time.Minute
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 64 << 20
	}
	return &Keeper{cfg: cfg}, nil
}

// lookEvery is how often Run looks at the size of the head.
const lookEvery = time.Second

// Run flushes every Interval, and when MaxBytes are waiting, until ctx ends. A
// flush that fails is logged and tried again at the next occasion: the rows
// stay in the head.
func (k *Keeper) Run(ctx context.Context) error {
	look := time.NewTicker(min(lookEvery, k.cfg.Interval))
	defer look.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if time.Since(last) < k.cfg.Interval && k.cfg.Head.HeadBytes() < k.cfg.MaxBytes {
			continue
		}
		if err := k.Flush(ctx); err != nil && ctx.Err() == nil {
			k.cfg.Log.Error("cannot write segments; rows stay in the series head and are tried again", "err", err)
			// Not at once: the object store may be down for hours.
			select {
			case <-ctx.Done():
			case <-time.After(min(k.cfg.Interval, 10*lookEvery)):
			}
		}
		last = time.Now()
	}
}

// Flush moves everything that was in the head when it began into segments. A
// stream that fails does not keep the others.
func (k *Keeper) Flush(ctx context.Context) error {
	if k.cfg.Head == nil {
		return errors.New("flush segments: this hub only reads segments")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	streams, err := k.cfg.Head.HeadStreams(ctx)
	if err != nil {
		return fmt.Errorf("flush segments: %w", err)
	}
	var errs []error
	for _, hs := range streams {
		if err := k.flushStream(ctx, hs); err != nil {
			errs = append(errs, fmt.Errorf("flush %s of %s: %w", hs.Stream, hs.ID, err))
		}
	}
	return errors.Join(errs...)
}

// maxRounds bounds the segments one flush writes of a stream, so that a device
// that sends as fast as we write cannot hold the others up.
const maxRounds = 1000

func (k *Keeper) flushStream(ctx context.Context, hs embedded.HeadStream) error {
	if hs.Plan != nil {
		if err := k.finish(ctx, hs, *hs.Plan); err != nil {
			return err
		}
	}
	for range maxRounds {
		blocks, err := k.cfg.Head.HeadBlocks(ctx, hs.ID, hs.Stream, k.cfg.MaxBytes)
		if err != nil {
			return err
		}
		if len(blocks) == 0 {
			return nil
		}
		for _, part := range alike(blocks) {
			if err := k.write(ctx, hs.ID, hs.Stream, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish ends a flush that a crash cut off: its segment is there, and its
// blocks leave the head, or it is not, and is written now.
func (k *Keeper) finish(ctx context.Context, hs embedded.HeadStream, plan embedded.Plan) error {
	_, err := k.cfg.Objects.Stat(ctx, plan.Key)
	if err == nil {
		return k.cfg.Head.Seal(ctx, hs.ID, hs.Stream, plan.Blocks)
	}
	if !errors.Is(err, objects.ErrNotFound) {
		return err
	}
	blocks, err := k.cfg.Head.Blocks(ctx, hs.ID, hs.Stream, plan.Blocks)
	if err != nil {
		return err
	}
	return k.write(ctx, hs.ID, hs.Stream, blocks)
}

// write makes one segment: encode, store the plan, put the object, take the
// blocks out of the head. After a crash behind any of the steps, finish leads
// to the same state.
func (k *Keeper) write(ctx context.Context, id topic.ID, stream string, blocks []series.Batch) error {
	file, seg, err := encode(blocks)
	if err != nil {
		return err
	}
	seg.Site, seg.Node, seg.Stream = id.Site, id.Node, stream
	sum := sha256.Sum256(file)
	seg.Digest = hex.EncodeToString(sum[:])
	seg.Key = seg.key()
	plan := embedded.Plan{Key: seg.Key}
	for i := range blocks {
		plan.Blocks = append(plan.Blocks, embedded.BlockRef{T0: blocks[i].T0, Boot: blocks[i].Boot, Seq: blocks[i].Seq})
	}
	if err := k.cfg.Head.SetPlan(ctx, id, stream, plan); err != nil {
		return err
	}
	err = k.cfg.Objects.PutIfAbsent(ctx, seg.Key, bytes.NewReader(file), int64(len(file)))
	if err != nil && !errors.Is(err, objects.ErrExists) {
		return fmt.Errorf("put segment: %w", err)
	}
	return k.cfg.Head.Seal(ctx, id, stream, plan.Blocks)
}

// alike cuts blocks in order of time into parts that fit one segment: the same
// boot, whose rows are counted together, the same signals, and the same UTC
// day, by which the catalogue is listed.
func alike(blocks []series.Batch) [][]series.Batch {
	var out [][]series.Batch
	for i := range blocks {
		if n := len(out); n > 0 {
			last := &out[n-1][0]
			if last.Boot == blocks[i].Boot && day(last.T0) == day(blocks[i].T0) && slices.EqualFunc(last.Columns, blocks[i].Columns, func(a, b series.Column) bool {
				return a.Name == b.Name && a.Unit == b.Unit
			}) {
				out[n-1] = append(out[n-1], blocks[i])
				continue
			}
		}
		out = append(out, []series.Batch{blocks[i]})
	}
	return out
}

// prefix of every segment's key, followed by the UTC day its first row is of.
const prefix = "segments/"

func day(t int64) string { return time.Unix(0, t).UTC().Format("20060102") }

// key builds segments/{day}/{site}/{node}/{stream}/{from}-{to}-{first}-{rows}-{digest}.parquet:
// all that a Segment says, so that a listing is a catalogue.
func (s *Segment) key() string {
	return fmt.Sprintf("%s%s/%s/%s/%s/%d_%d_%d_%d_%s.parquet", prefix, day(s.From), s.Site, s.Node, s.Stream, s.From, s.To, s.First, s.Rows, s.Digest)
}

func parseKey(key string) (Segment, bool) {
	s := Segment{Key: key}
	parts := strings.Split(key, "/")
	if len(parts) != 6 {
		return s, false
	}
	s.Site, s.Node, s.Stream = parts[2], parts[3], parts[4]
	name, isParquet := strings.CutSuffix(parts[5], ".parquet")
	f := strings.Split(name, "_")
	if !isParquet || len(f) != 5 {
		return s, false
	}
	var errs [4]error
	s.From, errs[0] = strconv.ParseInt(f[0], 10, 64)
	s.To, errs[1] = strconv.ParseInt(f[1], 10, 64)
	s.First, errs[2] = strconv.ParseUint(f[2], 10, 64)
	s.Rows, errs[3] = strconv.Atoi(f[3])
	s.Digest = f[4]
	return s, errors.Join(errs[:]...) == nil && len(s.Digest) == 2*sha256.Size && s.key() == key
}

// maxSegmentDays is how many days before a time a segment that reaches it may
// begin: its blocks begin on its day and span at most another.
const maxSegmentDays = 2

// List returns the segments with rows in from ≤ t < to, in order of From, then
// key. It asks the object store each time: what is there is the truth. A zero
// from means all that there is.
func (k *Keeper) List(ctx context.Context, from, to time.Time, f Filter) ([]Segment, error) {
	var out []Segment
	add := func(under string) error {
		for info, err := range k.cfg.Objects.List(ctx, under) {
			if err != nil {
				return fmt.Errorf("list segments: %w", err)
			}
			s, ok := parseKey(info.Key)
			if !ok || f.Site != "" && f.Site != s.Site || f.Node != "" && f.Node != s.Node || f.Stream != "" && f.Stream != s.Stream {
				continue
			}
			if (from.IsZero() || s.To >= from.UnixNano()) && s.From < to.UnixNano() {
				out = append(out, s)
			}
		}
		return nil
	}
	const maxDays = 400 // of single listings; more days than that are cheaper in one
	if from.IsZero() || to.Sub(from) > maxDays*24*time.Hour {
		if err := add(prefix); err != nil {
			return nil, err
		}
	} else {
		for d := from.UTC().Truncate(24*time.Hour).AddDate(0, 0, -maxSegmentDays); d.Before(to); d = d.AddDate(0, 0, 1) {
			under := prefix + d.Format("20060102") + "/"
			if f.Site != "" {
				if under += f.Site + "/"; f.Node != "" {
					under += f.Node + "/"
				}
			}
			if err := add(under); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(out, func(a, b Segment) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Key, b.Key)) })
	return out, nil
}

// Trim removes the segments whose last row is before a time and returns how
// many it removed. A snapshot that names one can no longer be read; its digest
// stays in the lineage of what was trained on it.
func (k *Keeper) Trim(ctx context.Context, before time.Time) (int, error) {
	list, err := k.List(ctx, time.Time{}, before, Filter{})
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range list {
		if s.To >= before.UnixNano() {
			continue
		}
		if err := k.cfg.Objects.Delete(ctx, s.Key); err != nil && !errors.Is(err, objects.ErrNotFound) {
			return n, fmt.Errorf("remove segment %s: %w", s.Key, err)
		}
		n++
	}
	return n, nil
}

// maxSegmentFile bounds what Read takes into memory.
const maxSegmentFile = 1 << 30

// ErrDamaged means that a segment is gone or its bytes are not those that were
// stored: reading it again will not help.
var ErrDamaged = errors.New("segment is damaged")

// Read returns the rows of a segment, after checking its digest. It fails with
// ErrDamaged when there is nothing left to read.
func (k *Keeper) Read(ctx context.Context, s Segment) (Columns, error) {
	r, info, err := k.cfg.Objects.Get(ctx, s.Key, 0, -1)
	if errors.Is(err, objects.ErrNotFound) {
		return Columns{}, fmt.Errorf("read segment %s: %w: %w", s.Key, ErrDamaged, err)
	}
	if err != nil {
		return Columns{}, fmt.Errorf("read segment: %w", err)
	}
	defer r.Close()
	if info.Size > maxSegmentFile {
		return Columns{}, fmt.Errorf("read segment %s: %w: %d bytes are more than %d", s.Key, ErrDamaged, info.Size, maxSegmentFile)
	}
	file := make([]byte, info.Size)
	if _, err := io.ReadFull(r, file); err != nil {
		return Columns{}, fmt.Errorf("read segment %s: %w", s.Key, err)
	}
	if sum := sha256.Sum256(file); hex.EncodeToString(sum[:]) != s.Digest {
		return Columns{}, fmt.Errorf("read segment %s: %w: its bytes have SHA-256 %x: restore the object store from a replica", s.Key, ErrDamaged, sum)
	}
	out, err := decode(file)
	if err != nil {
		return Columns{}, fmt.Errorf("read segment %s: %w: %w", s.Key, ErrDamaged, err)
	}
	return out, nil
}
