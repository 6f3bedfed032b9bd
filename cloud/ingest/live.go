package ingest

import (
	"errors"
	"fmt"
	"time"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// StreamLive is the stream name of batches made from Sparkplug messages: one
// row of scalars. Sinks see them; they are not stored.
const StreamLive = "live"

// session is a device's Sparkplug session, from birth to death.
type session struct {
	names map[uint64]named // by alias
	bdSeq uint64           // of the birth
	seq   uint64           // of the newest message
}

type named struct {
	name string
	kind telemetry.DataType
	unit string
}

// Live takes one Sparkplug message of node level (birth, data, death) from
// device id and passes its scalars to the sinks. Nothing waits for it and it is
// not stored. An error says that the message is unreadable, or that its birth
// was missed: the caller may send the device a rebirth command.
func (in *Ingest) Live(id topic.ID, m topic.Message, payload []byte) error {
	p, err := telemetry.DecodePayload(payload)
	if err != nil {
		in.count(id, func(s *Stats) { s.Malformed++ })
		return fmt.Errorf("live message of %s: %w", id, err)
	}
	w := in.pool.Get().(*work)
	if err := in.follow(w, id, m, &p); err != nil {
		in.pool.Put(w)
		return fmt.Errorf("live message of %s: %w", id, err)
	}
	if w.batch.Rows() == 0 {
		in.pool.Put(w)
		return nil
	}
	in.closing.RLock()
	defer in.closing.RUnlock()
	if in.closed {
		return ErrClosed
	}
	w.holders.Store(int32(len(in.cfg.Sinks)) + 1)
	for _, o := range in.outlets[:len(in.cfg.Sinks)] {
		o.offer(w)
	}
	in.letGo(w)
	return nil
}

// follow keeps the session and turns a payload's scalars into a batch.
func (in *Ingest) follow(w *work, id topic.ID, m topic.Message, p *telemetry.Payload) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	d := in.device(id)
	d.stats.LastSeen = time.Now()
	w.id, w.batch = id, series.Batch{
		ID: id, Stream: StreamLive, Seq: p.Seq, T0: int64(min(p.Timestamp, 1<<43)) * int64(time.Millisecond), RateHz: 1,
		Columns: w.batch.Columns[:0],
	}
	switch m {
	case topic.NBIRTH:
		d.live = &session{names: map[uint64]named{}, seq: p.Seq}
		for i := range p.Metrics {
			x := &p.Metrics[i]
			if n, ok := bdSeq(x); ok {
				d.live.bdSeq = n
			}
			if x.HasAlias {
				d.live.names[x.Alias] = named{x.Name, x.Type, unitOf(x)}
			}
		}
	case topic.NDEATH:
		// A death that is older than the birth belongs to the session before.
		for i := range p.Metrics {
			if n, ok := bdSeq(&p.Metrics[i]); ok && d.live != nil && n == d.live.bdSeq {
				d.live = nil
			}
		}
		return nil
	case topic.NDATA:
		if d.live == nil {
			return errors.New("data before a birth")
		}
		if p.HasSeq && p.Seq != (d.live.seq+1)%256 {
			d.live = nil
			return fmt.Errorf("sequence number %d is out of turn", p.Seq)
		}
		d.live.seq = p.Seq
	default:
		return nil
	}
	for i := range p.Metrics {
		x := &p.Metrics[i]
		n := named{x.Name, x.Type, unitOf(x)}
		if x.HasAlias {
			known, ok := d.live.names[x.Alias]
			if !ok {
				return fmt.Errorf("alias %d is not in the birth", x.Alias)
			}
			if n.name == "" {
				n = known
			}
		}
		if c, ok := scalar(n, x.Value); ok && !x.Historical {
			w.batch.Columns = append(w.batch.Columns, c)
		}
	}
	return nil
}

// bdSeq reads the metric of that name, which agents write in either type.
func bdSeq(m *telemetry.Metric) (uint64, bool) {
	if m.Name != telemetry.BdSeq {
		return 0, false
	}
	switch v := m.Value.(type) {
	case int64:
		return uint64(v), true
	case uint64:
		return v, true
	}
	return 0, false
}

func unitOf(m *telemetry.Metric) string {
	for _, p := range m.Properties {
		if s, ok := p.Value.(string); ok && (p.Key == "engUnit" || p.Key == "unit") {
			return s
		}
	}
	return ""
}

// scalar makes a column of one row; false for arrays, nulls and messages.
func scalar(n named, v any) (series.Column, bool) {
	c := series.Column{Name: n.name, Unit: n.unit, Kind: series.Int64}
	switch v := v.(type) {
	case int8:
		c.Int64 = []int64{int64(v)}
	case int16:
		c.Int64 = []int64{int64(v)}
	case int32:
		c.Int64 = []int64{int64(v)}
	case int64:
		c.Int64 = []int64{v}
	case uint8:
		c.Int64 = []int64{int64(v)}
	case uint16:
		c.Int64 = []int64{int64(v)}
	case uint32:
		c.Int64 = []int64{int64(v)}
	case uint64:
		c.Int64 = []int64{int64(min(v, 1<<63-1))}
	case float32:
		c.Kind, c.Float32 = series.Float32, []float32{v}
	case float64:
		c.Kind, c.Float64 = series.Float64, []float64{v}
	case bool:
		c.Kind, c.Bool = series.Bool, []bool{v}
	case string:
		c.Kind, c.String = series.String, []string{v}
	default:
		return c, false
	}
	return c, n.name != ""
}
