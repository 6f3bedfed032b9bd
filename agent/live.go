package agent

import (
	"context"
	"math"
	"time"

	"github.com/swellfleet/swell/agent/pipeline"
	"github.com/swellfleet/swell/agent/source"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// Names of the live metrics that are not channels.
const (
	metricScore   = "swell/score"
	metricFlag    = "swell/flag"
	metricRelease = "swell/release"
	metricState   = "swell/state"
)

// live publishes the newest values for people, as Sparkplug births and data.
// They are QoS 0: whoever needs every value reads the blocks.
type live struct {
	id       topic.ID
	channels []source.Channel
	now      func() time.Time
	uplink   Uplink
	every    time.Duration
	birth    chan struct{} // has a token when the connection came up

	seq   uint64
	bdSeq uint64
}

// latest is what a live message says.
type latest struct {
	values  []float32 // one per channel; nil: none yet
	verdict pipeline.Verdict
	scored  bool   // verdict is set
	state   string // phase of the trial, or "steady"
}

func newLive(id topic.ID, channels []source.Channel, u Uplink, every time.Duration, now func() time.Time) *live {
	return &live{id: id, channels: channels, uplink: u, every: every, now: now, birth: make(chan struct{}, 1)}
}

// reborn asks for a birth: a new session has begun.
func (l *live) reborn() {
	select {
	case l.birth <- struct{}{}:
	default:
	}
}

func (l *live) run(ctx context.Context, newest func() latest) {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.birth:
			l.seq = 0
		case <-tick.C:
		}
		if !l.uplink.Connected() {
			continue
		}
		// A birth whenever the numbers begin anew: a reader that lost a message
		// is back in step without asking.
		message := topic.NDATA
		if l.seq == 0 {
			message = topic.NBIRTH
		}
		p, err := l.payload(newest(), message == topic.NBIRTH).Append(nil)
		if err != nil {
			continue // a value that has no live form; the blocks carry it
		}
		l.uplink.Publish(topic.Topic{ID: l.id, Message: message}, p, func(error) {})
		l.seq = (l.seq + 1) % 256
	}
}

func (l *live) payload(n latest, birth bool) telemetry.Payload {
	at := uint64(l.now().UnixMilli())
	p := telemetry.Payload{Timestamp: at, Seq: l.seq, HasSeq: true}
	add := func(name string, t telemetry.DataType, v any) {
		p.Metrics = append(p.Metrics, telemetry.Metric{Name: name, Timestamp: at, Type: t, Value: v})
	}
	if birth {
		add(telemetry.BdSeq, telemetry.Int64, int64(l.bdSeq))
		l.bdSeq = (l.bdSeq + 1) % 256
	}
	for i, c := range l.channels {
		var v any
		if n.values != nil && !math.IsNaN(float64(n.values[i])) {
			v = n.values[i]
		}
		add(c.Name, telemetry.Float, v)
		if birth && c.Unit != "" {
			p.Metrics[len(p.Metrics)-1].Properties = []telemetry.Property{{Key: "engUnit", Type: telemetry.String, Value: c.Unit}}
		}
	}
	if n.scored {
		add(metricScore, telemetry.Float, n.verdict.Score)
		add(metricFlag, telemetry.Boolean, n.verdict.Flag)
		add(metricRelease, telemetry.UInt64, n.verdict.Release.Counter)
	} else if birth { // a birth names every metric that may come
		add(metricScore, telemetry.Float, nil)
		add(metricFlag, telemetry.Boolean, nil)
		add(metricRelease, telemetry.UInt64, nil)
	}
	add(metricState, telemetry.String, n.state)
	return p
}
