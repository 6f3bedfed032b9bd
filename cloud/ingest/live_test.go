package ingest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/telemetry"
	"github.com/swellfleet/swell/protocol/topic"
)

// diary writes down what it hears.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) Take(b *series.Batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range b.Columns {
		v, _ := b.Columns[i].Number(0)
		d.lines = append(d.lines, fmt.Sprintf("%s %s %v", b.Stream, b.Columns[i].Name, v))
	}
}

func TestLiveScalarsFollowTheSparkplugSession(t *testing.T) {
	head := openHead(t, vfs.NewMem())
	defer head.Close()
	d := &diary{}
	in := newIngest(t, Config{Head: head, Sinks: []Sink{d}})
	send := func(m topic.Message, p telemetry.Payload) error {
		encoded, err := p.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return in.Live(pump, m, encoded)
	}
	score := func(alias uint64, v float32) []telemetry.Metric {
		return []telemetry.Metric{{Alias: alias, HasAlias: true, Type: telemetry.Float, Value: v}}
	}
	bd := func(n int64) telemetry.Metric {
		return telemetry.Metric{Name: telemetry.BdSeq, Type: telemetry.Int64, Value: n}
	}
	birth := telemetry.Payload{HasSeq: true, Metrics: []telemetry.Metric{bd(7), {Name: "score", Alias: 1, HasAlias: true, Type: telemetry.Float, Value: float32(0.5)}}}
	for _, step := range []struct {
		name string
		m    topic.Message
		p    telemetry.Payload
		want string // in the error; empty for none
	}{
		{"data before a birth", topic.NDATA, telemetry.Payload{HasSeq: true, Seq: 1, Metrics: score(1, 9)}, "before a birth"},
		{"birth", topic.NBIRTH, birth, ""},
		{"data by alias", topic.NDATA, telemetry.Payload{HasSeq: true, Seq: 1, Metrics: score(1, 1)}, ""},
		{"unknown alias", topic.NDATA, telemetry.Payload{HasSeq: true, Seq: 2, Metrics: score(9, 9)}, "not in the birth"},
		{"death of an older session", topic.NDEATH, telemetry.Payload{Metrics: []telemetry.Metric{bd(6)}}, ""},
		{"still alive", topic.NDATA, telemetry.Payload{HasSeq: true, Seq: 3, Metrics: score(1, 2)}, ""},
		{"a message was lost", topic.NDATA, telemetry.Payload{HasSeq: true, Seq: 5, Metrics: score(1, 9)}, "out of turn"},
		{"needs a birth again", topic.NDATA, telemetry.Payload{HasSeq: true, Seq: 6, Metrics: score(1, 9)}, "before a birth"},
		{"birth again", topic.NBIRTH, birth, ""},
		{"death", topic.NDEATH, telemetry.Payload{Metrics: []telemetry.Metric{bd(7)}}, ""},
		{"dead", topic.NDATA, telemetry.Payload{HasSeq: true, Seq: 1, Metrics: score(1, 9)}, "before a birth"},
	} {
		err := send(step.m, step.p)
		if (err == nil) != (step.want == "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: %v, want %q", step.name, err, step.want)
		}
	}
	if err := in.Live(pump, topic.NDATA, []byte{0xff}); err == nil {
		t.Error("garbage was taken")
	}
	in.Close()
	want := []string{"live bdSeq 7", "live score 0.5", "live score 1", "live score 2", "live bdSeq 7", "live score 0.5"}
	if !slices.Equal(d.lines, want) {
		t.Errorf("heard %q\nwant  %q", d.lines, want)
	}
}
