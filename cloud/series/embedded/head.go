package embedded

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/topic"
)

// BlockRef names one block of a stream.
type BlockRef struct {
	T0   int64
	Boot uint64
	Seq  uint64
}

// Plan says which blocks of a stream go into a segment that is being written.
// It is stored before the segment is, so that after a crash the same segment is
// written again, or found written, and never another one with the same rows.
type Plan struct {
	Key    string     `json:"key"` // of the segment in the object store
	Blocks []BlockRef `json:"blocks"`
}

// HeadStream is a stream with blocks that are in no segment yet.
type HeadStream struct {
	ID     topic.ID
	Stream string
	Plan   *Plan // left by a flush that did not end; nil for none
}

// HeadBytes returns about how many bytes of values are in no segment yet.
func (s *Store) HeadBytes() int64 { return s.headBytes.Load() }

// HeadStreams lists the streams with blocks in the head.
func (s *Store) HeadStreams(ctx context.Context) ([]HeadStream, error) {
	end, err := s.use()
	if err != nil {
		return nil, err
	}
	defer end()
	s.mu.Lock()
	streams := make([]*stream, 0, len(s.byNumber))
	for _, st := range s.byNumber {
		streams = append(streams, st)
	}
	s.mu.Unlock()
	var out []HeadStream
	for _, st := range streams {
		hs := HeadStream{ID: st.name.id, Stream: st.name.name}
		v, closer, err := s.db.Get(planKey(st.record.Number))
		switch {
		case err == nil:
			hs.Plan = &Plan{}
			err = errors.Join(json.Unmarshal(v, hs.Plan), closer.Close())
		case errors.Is(err, pebble.ErrNotFound):
			err = nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the segment plan of %s: %w", hs.ID, err)
		}
		_, waiting, err := s.oldestHead(st.record.Number)
		if err != nil {
			return nil, fmt.Errorf("list the head: %w", err)
		}
		if waiting || hs.Plan != nil {
			out = append(out, hs)
		}
	}
	return out, nil
}

// HeadBlocks reads blocks of a stream that are in no segment yet, in order of
// time: at least one, then more up to maxBytes of values.
func (s *Store) HeadBlocks(ctx context.Context, id topic.ID, name string, maxBytes int64) ([]series.Batch, error) {
	end, err := s.use()
	if err != nil {
		return nil, err
	}
	defer end()
	record, ok := s.recordOf(id, name)
	if !ok {
		return nil, nil
	}
	var refs []BlockRef
	err = s.scan(streamStart(keyHead, record.Number), streamEnd(keyHead, record.Number), func(k, v []byte) error {
		r, ok := parseRow(k)
		n, _ := binary.Uvarint(v)
		if !ok {
			return errBlock
		}
		if maxBytes -= int64(n); maxBytes < 0 && len(refs) > 0 {
			return errEnough
		}
		refs = append(refs, BlockRef{r.t0, r.boot, r.seq})
		return ctx.Err()
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("read the head of %s %s: %w", id, name, err)
	}
	return s.readBlocks(id, name, record, refs)
}

var errEnough = errors.New("enough")

// Blocks reads named blocks of a stream, such as those of a plan.
func (s *Store) Blocks(ctx context.Context, id topic.ID, name string, refs []BlockRef) ([]series.Batch, error) {
	end, err := s.use()
	if err != nil {
		return nil, err
	}
	defer end()
	record, ok := s.recordOf(id, name)
	if !ok {
		return nil, fmt.Errorf("read blocks of %s: no stream %q", id, name)
	}
	return s.readBlocks(id, name, record, refs)
}

func (s *Store) recordOf(id topic.ID, name string) (streamRecord, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[streamName{id, name}]
	if st == nil {
		return streamRecord{}, false
	}
	r := st.record
	r.Signals = append([]streamSignal(nil), r.Signals...)
	return r, true
}

func (s *Store) readBlocks(id topic.ID, name string, record streamRecord, refs []BlockRef) ([]series.Batch, error) {
	out := make([]series.Batch, 0, len(refs))
	for _, ref := range refs {
		v, closer, err := s.db.Get(row{record.Number, ref.T0, ref.Boot, ref.Seq}.key(keyBlock))
		if err != nil {
			return nil, fmt.Errorf("read block %d of %s %s: %w", ref.Seq, id, name, err)
		}
		batch, err := wholeBatch(v, ref, record)
		if err = errors.Join(err, closer.Close()); err != nil {
			return nil, fmt.Errorf("read block %d of %s %s: %w", ref.Seq, id, name, err)
		}
		batch.ID, batch.Stream = id, name
		out = append(out, batch)
	}
	return out, nil
}

func wholeBatch(v []byte, ref BlockRef, record streamRecord) (series.Batch, error) {
	b, err := openBlock(v, ref.T0, ref.Boot, ref.Seq)
	if err != nil {
		return series.Batch{}, err
	}
	batch := b.batch()
	batch.Columns = make([]series.Column, len(b.columns))
	for i := range b.columns {
		if b.columns[i].id >= uint64(len(record.Signals)) {
			return series.Batch{}, errBlock
		}
		sig := record.Signals[b.columns[i].id]
		batch.Columns[i].Name, batch.Columns[i].Unit = sig.Name, sig.Unit
		if err := b.columns[i].decode(&batch.Columns[i], b.rows); err != nil {
			return series.Batch{}, err
		}
	}
	return batch, nil
}

// SetPlan stores the plan of a segment that is about to be written.
func (s *Store) SetPlan(ctx context.Context, id topic.ID, name string, plan Plan) error {
	v, err := json.Marshal(plan)
	if err != nil {
		return fmt.Errorf("write the segment plan of %s: %w", id, err)
	}
	return s.change(id, name, func(record streamRecord, batch *pebble.Batch) {
		batch.Set(planKey(record.Number), v, nil)
	})
}

// Seal takes the blocks of a plan out of the head: they are in a segment now.
// They can still be read until RetainRaw has passed.
func (s *Store) Seal(ctx context.Context, id topic.ID, name string, blocks []BlockRef) error {
	var bytes int64
	err := s.change(id, name, func(record streamRecord, batch *pebble.Batch) {
		for _, ref := range blocks {
			k := row{record.Number, ref.T0, ref.Boot, ref.Seq}.key(keyHead)
			if v, closer, err := s.db.Get(k); err == nil {
				n, _ := binary.Uvarint(v)
				bytes += int64(n)
				closer.Close()
			}
			batch.Delete(k, nil)
		}
		batch.Delete(planKey(record.Number), nil)
	})
	if err == nil {
		s.headBytes.Add(-bytes)
	}
	return err
}

// change applies a few writes about one stream, durable on return.
func (s *Store) change(id topic.ID, name string, fill func(record streamRecord, batch *pebble.Batch)) error {
	end, err := s.use()
	if err != nil {
		return err
	}
	defer end()
	record, ok := s.recordOf(id, name)
	if !ok {
		return fmt.Errorf("change the head of %s: no stream %q", id, name)
	}
	batch := s.db.NewBatch()
	defer batch.Close()
	fill(record, batch)
	return s.apply(batch)
}
