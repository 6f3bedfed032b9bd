// Package influx keeps rollups of series in an InfluxDB 2 server, for fleets
// that have one and for the tools that read it.
//
// The parties are ingest, which appends every fresh batch; the InfluxDB server;
// and dashboards, which read the same points: measurement = stream, tags site,
// node, signal, unit and kind, fields count, min, max and sum. Only sums over
// parts of whole seconds are written, never raw rows: those are in segments.
//
// A point bears the time of the first row it sums up. Points of two batches in
// one second so lie beside each other and add up, and a batch written again
// overwrites itself: writing is idempotent without asking what is there.
//
// Writes go through a bounded queue of our own and the client's blocking call:
// its asynchronous one silently drops writes that the server answered with 400.
// The hub alone imports it.
package influx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	influxdb2 "github.com/influxdata/influxdb-client-go/v2"
	"github.com/influxdata/influxdb-client-go/v2/api"
	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"
	"github.com/influxdata/influxdb-client-go/v2/api/write"
	"github.com/influxdata/influxdb-client-go/v2/domain"

	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/topic"
)

// Config says which server and bucket to use.
type Config struct {
	URL    string       // required, such as http://influxdb:8086
	Token  string       // required; may read, write and delete in Bucket
	Org    string       // required
	Bucket string       // required; must exist
	Log    *slog.Logger // required

	Queue   int           // Appends that may wait; one more gets series.ErrFull; 0 means 256
	Timeout time.Duration // of one request; 0 means 20 s
}

// groupPoints bounds one write request; InfluxDB's own advice is 5000 lines.
const groupPoints = 5000

// Store is a series.Store of rollups. Make one with Open.
type Store struct {
	cfg    Config
	client influxdb2.Client
	http   *http.Client
	write  api.WriteAPIBlocking
	query  api.QueryAPI

	requests chan *request
	ended    chan struct{}

	closing sync.RWMutex // held for reading while Append may send
	closed  bool
}

type request struct {
	points []*write.Point
	answer chan error // of one place
}

// Open makes a Store. It does not ask the server: use Check.
func Open(cfg Config) (*Store, error) {
	for name, v := range map[string]string{"URL": cfg.URL, "Token": cfg.Token, "Org": cfg.Org, "Bucket": cfg.Bucket} {
		if v == "" {
			return nil, fmt.Errorf("open InfluxDB: %s is required", name)
		}
	}
	if cfg.Log == nil {
		return nil, errors.New("open InfluxDB: Log is required")
	}
	if cfg.Queue == 0 {
		cfg.Queue = 256
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Second
	}
	s := &Store{cfg: cfg, http: &http.Client{Timeout: cfg.Timeout, Transport: http.DefaultTransport.(*http.Transport).Clone()}, requests: make(chan *request, cfg.Queue), ended: make(chan struct{})}
	s.client = influxdb2.NewClientWithOptions(cfg.URL, cfg.Token, influxdb2.DefaultOptions().SetHTTPClient(s.http).SetPrecision(time.Nanosecond).SetUseGZip(true).SetLogLevel(0))
	s.write, s.query = s.client.WriteAPIBlocking(cfg.Org, cfg.Bucket), s.client.QueryAPI(cfg.Org)
	go s.writeLoop()
	return s, nil
}

// Check asks the server whether it is well and has the bucket. The error says
// what to do.
func (s *Store) Check(ctx context.Context) error {
	health, err := s.client.Health(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach InfluxDB at %s: check the address and that it runs: %w", s.cfg.URL, err)
	}
	if health.Status != domain.HealthCheckStatusPass {
		return fmt.Errorf("InfluxDB at %s says it is not well: %s", s.cfg.URL, deref(health.Message))
	}
	if _, err := s.client.BucketsAPI().FindBucketByName(ctx, s.cfg.Bucket); err != nil {
		return fmt.Errorf("cannot use bucket %q of InfluxDB at %s: create it, or give the token the right to it: %w", s.cfg.Bucket, s.cfg.URL, err)
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return "no reason given"
	}
	return *s
}

// Append writes the rollups of batches and returns when the server has taken
// them. series.ErrFull means that the queue is full, series.ErrRejected that
// the server will never take one of these batches (the others are written);
// any other error is worth another try.
func (s *Store) Append(ctx context.Context, batches []series.Batch) error {
	r := &request{answer: make(chan error, 1)}
	for i := range batches {
		if err := batches[i].Validate(); err != nil {
			return err
		}
		r.points = appendPoints(r.points, &batches[i])
	}
	if len(r.points) == 0 {
		return nil
	}
	if err := s.enqueue(r); err != nil {
		return err
	}
	select {
	case err := <-r.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) enqueue(r *request) error {
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return series.ErrClosed
	}
	select {
	case s.requests <- r:
		return nil
	default:
		return fmt.Errorf("write to InfluxDB: %w: %d writes wait already", series.ErrFull, s.cfg.Queue)
	}
}

func appendPoints(dst []*write.Point, b *series.Batch) []*write.Point {
	times, parts := series.Rollup(b)
	for w, t := range times {
		for i := range b.Columns {
			c, p := &b.Columns[i], parts[w*len(b.Columns)+i]
			if p.Count == 0 {
				continue
			}
			fields := map[string]any{"count": p.Count}
			if c.Kind != series.String {
				// An infinity has no place in line protocol; the count tells.
				for name, v := range map[string]float64{"min": p.Min, "max": p.Max, "sum": p.Sum} {
					if !math.IsInf(v, 0) && v == v {
						fields[name] = v
					}
				}
			}
			tags := map[string]string{"site": b.ID.Site, "node": b.ID.Node, "signal": c.Name, "kind": kindNames[c.Kind]}
			if c.Unit != "" {
				tags["unit"] = c.Unit
			}
			dst = append(dst, write.NewPoint(b.Stream, tags, fields, time.Unix(0, t)))
		}
	}
	return dst
}

var kindNames = map[series.Kind]string{series.Float32: "float32", series.Float64: "float64", series.Int64: "int64", series.Bool: "bool", series.String: "string"}

// writeLoop joins what waits into one request.
func (s *Store) writeLoop() {
	defer close(s.ended)
	for r := range s.requests {
		group, points := []*request{r}, slices.Clone(r.points)
		for len(points) < groupPoints && len(s.requests) > 0 {
			r := <-s.requests
			group, points = append(group, r), append(points, r.points...)
		}
		err := s.send(points)
		if errors.Is(err, series.ErrRejected) && len(group) > 1 {
			// Somebody's points are bad; the others must not suffer for it.
			for _, r := range group {
				r.answer <- s.send(r.points)
			}
			continue
		}
		for _, r := range group {
			r.answer <- err
		}
	}
}

func (s *Store) send(points []*write.Point) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Timeout)
	defer cancel()
	for part := range slices.Chunk(points, groupPoints) {
		if err := s.write.WritePoint(ctx, part...); err != nil {
			var answer *influxhttp.Error
			if errors.As(err, &answer) && (answer.StatusCode == http.StatusBadRequest || answer.StatusCode == http.StatusUnprocessableEntity) {
				s.cfg.Log.Warn("InfluxDB refused points", "bucket", s.cfg.Bucket, "points", len(part), "err", err)
				return fmt.Errorf("write to InfluxDB: %w: %w", series.ErrRejected, err)
			}
			return fmt.Errorf("write to InfluxDB at %s: %w", s.cfg.URL, err)
		}
	}
	return nil
}

// fields are the fields of a point and how the parts of a bucket join.
var fields = []struct{ name, join string }{{"count", "sum"}, {"max", "max"}, {"min", "min"}, {"sum", "sum"}}

// Query reads buckets; see series.Store. Raw rows give series.ErrRollupsOnly,
// and no bucket is shorter than a second. Overlapping batches count twice.
func (s *Store) Query(ctx context.Context, q series.Query) (series.Result, error) {
	if err := q.Validate(); err != nil {
		return series.Result{}, err
	}
	if q.MaxPoints == 0 {
		return series.Result{}, series.ErrRollupsOnly
	}
	grid := series.BucketsOf(q, false)
	var flux strings.Builder
	for _, f := range fields {
		flux.WriteString(s.from(grid.From, grid.To, q.ID, f.name))
		fmt.Fprintf(&flux, "  |> filter(fn: (r) => r._measurement == %s)\n", quote(q.Stream))
		if q.Signals != nil {
			either := []string{"false"}
			for _, name := range q.Signals {
				either = append(either, "r.signal == "+quote(name))
			}
			fmt.Fprintf(&flux, "  |> filter(fn: (r) => %s)\n", strings.Join(either, " or "))
		}
		offset := ((grid.From % grid.Width) + grid.Width) % grid.Width
		fmt.Fprintf(&flux, "  |> aggregateWindow(every: %dns, offset: %dns, fn: %s, timeSrc: \"_start\", createEmpty: false)\n", grid.Width, offset, f.join)
		fmt.Fprintf(&flux, "  |> yield(name: %s)\n", quote(f.name))
	}
	type name struct{ signal, unit, kind string }
	sums := map[name]map[int64]*series.Partial{}
	err := s.each(ctx, flux.String(), func(field string, tags func(string) string, t int64, v float64) {
		key := name{tags("signal"), tags("unit"), tags("kind")}
		if sums[key] == nil {
			sums[key] = map[int64]*series.Partial{}
		}
		p := sums[key][t]
		if p == nil {
			p = &series.Partial{Min: math.NaN(), Max: math.NaN(), Sum: math.NaN()}
			sums[key][t] = p
		}
		switch field {
		case "count":
			p.Count = int64(v)
		case "min":
			p.Min = v
		case "max":
			p.Max = v
		case "sum":
			p.Sum = v
		}
	})
	if err != nil {
		return series.Result{}, fmt.Errorf("query %s %s: %w", q.ID, q.Stream, err)
	}
	out := series.Result{Bucket: grid.Duration()}
	for key, parts := range sums {
		sum := series.NewSum(grid)
		for t, p := range parts {
			sum.Add(t, *p)
		}
		sig := sum.Signal()
		sig.Name, sig.Unit, sig.Kind = key.signal, key.unit, kindOf(key.kind)
		if len(sig.Times) > 0 {
			out.Signals = append(out.Signals, sig)
		}
	}
	slices.SortFunc(out.Signals, func(a, b series.Signal) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

func kindOf(name string) series.Kind {
	for k, n := range kindNames {
		if n == name {
			return k
		}
	}
	return 0
}

// from begins a Flux pipeline over one field of one device.
func (s *Store) from(from, to int64, id topic.ID, field string) string {
	return fmt.Sprintf("from(bucket: %s)\n  |> range(start: time(v: %d), stop: time(v: %d))\n  |> filter(fn: (r) => r.site == %s and r.node == %s and r._field == %s)\n",
		quote(s.cfg.Bucket), from, to, quote(id.Site), quote(id.Node), quote(field))
}

// quote writes a Flux string. Names hold no control characters.
func quote(s string) string {
	return strings.ReplaceAll(strconv.Quote(s), "${", `\${`)
}

// each runs a query and hands on every record: the yield's name, the tags, the
// time and the value.
func (s *Store) each(ctx context.Context, flux string, do func(yield string, tag func(string) string, t int64, v float64)) error {
	result, err := s.query.Query(ctx, flux)
	if err != nil {
		return err
	}
	defer result.Close()
	for result.Next() {
		r := result.Record()
		var v float64
		switch x := r.Value().(type) {
		case float64:
			v = x
		case int64:
			v = float64(x)
		default:
			continue
		}
		tag := func(name string) string {
			s, _ := r.ValueByKey(name).(string)
			return s
		}
		do(r.Result(), tag, r.Time().UnixNano(), v)
	}
	return result.Err()
}

// The span of times that InfluxDB and int64 nanoseconds share.
const (
	oldest = math.MinInt64 + 2
	newest = math.MaxInt64 - 1
)

// Signals lists what a device has sent; From and To are those of its rollups.
func (s *Store) Signals(ctx context.Context, id topic.ID) ([]series.SignalInfo, error) {
	pipeline := s.from(oldest, newest, id, "count")
	flux := pipeline + "  |> first()\n  |> yield(name: \"first\")\n" + pipeline + "  |> last()\n  |> yield(name: \"last\")\n"
	type name struct{ stream, signal, unit, kind string }
	found := map[name]*series.SignalInfo{}
	err := s.each(ctx, flux, func(yield string, tag func(string) string, t int64, _ float64) {
		key := name{tag("_measurement"), tag("signal"), tag("unit"), tag("kind")}
		info := found[key]
		if info == nil {
			info = &series.SignalInfo{Stream: key.stream, Name: key.signal, Unit: key.unit, Kind: kindOf(key.kind), From: t, To: t}
			found[key] = info
		}
		info.From, info.To = min(info.From, t), max(info.To, t)
	})
	if err != nil {
		return nil, fmt.Errorf("signals of %s: %w", id, err)
	}
	var out []series.SignalInfo
	for _, info := range found {
		out = append(out, *info)
	}
	slices.SortFunc(out, func(a, b series.SignalInfo) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Kind, b.Kind))
	})
	return out, nil
}

// Trim deletes the points before a time.
func (s *Store) Trim(ctx context.Context, before int64) error {
	err := s.client.DeleteAPI().DeleteWithName(ctx, s.cfg.Org, s.cfg.Bucket, time.Unix(0, oldest).UTC(), time.Unix(0, before-1).UTC(), "")
	if err != nil {
		return fmt.Errorf("delete from InfluxDB at %s: %w", s.cfg.URL, err)
	}
	return nil
}

// Close writes what waits, answers it and closes the connections.
func (s *Store) Close() error {
	s.closing.Lock()
	if s.closed {
		s.closing.Unlock()
		return nil
	}
	s.closed = true
	close(s.requests)
	s.closing.Unlock()
	<-s.ended
	s.client.Close()
	s.http.CloseIdleConnections()
	return nil
}
