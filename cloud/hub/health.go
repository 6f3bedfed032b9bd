package hub

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/rollout"
)

// health says how the parts are.
func (h *Hub) health(ctx context.Context) ([]apimodel.HealthPart, bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	parts := []apimodel.HealthPart{}
	add := func(name string, err error) {
		p := apimodel.HealthPart{Name: name, Ok: err == nil}
		if err != nil {
			p.Message = some(err.Error())
		}
		parts = append(parts, p)
	}
	add("store", h.db.Ping(ctx))
	_, _, err := h.ledger.Head(ctx)
	add("ledger", err)
	add("series", h.series.Failed())
	var wrong []error
	for _, c := range h.ingest.Conditions() {
		wrong = append(wrong, fmt.Errorf("%s since %s: %s", c.Name, c.Since.UTC().Format(time.RFC3339), c.Detail))
	}
	add("ingest", errors.Join(wrong...))
	add("frames", h.frames.Failed())
	if h.influx != nil {
		add("influx", h.influx.Check(ctx))
	}
	if h.broker != nil {
		add("broker", nil)
	}
	if h.train != nil {
		add("trainer", nil)
	}
	return parts, h.serving.Load()
}

// rate measures values a second over the last seconds.
type rate struct {
	mu     sync.Mutex
	counts [rateSlots]int
	stamps [rateSlots]int64
}

const rateSlots = 16 // seconds kept; the present one is not whole and does not count

func (r *rate) add(n int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := now.Unix()
	i := s % rateSlots
	if r.stamps[i] != s {
		r.stamps[i], r.counts[i] = s, 0
	}
	r.counts[i] += n
}

// get returns the mean of the last ten whole seconds.
func (r *rate) get() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now().Unix()
	sum := 0
	for i, s := range r.stamps {
		if s < now && s >= now-10 {
			sum += r.counts[i]
		}
	}
	return float64(sum) / 10
}

// registerMetrics shows the hub's numbers to Prometheus. They are read when
// asked for.
func (h *Hub) registerMetrics() {
	h.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	counter := func(name, help string, f func() float64) {
		h.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
	}
	gauge := func(name, help string, f func() float64) {
		h.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	counter("swell_ingest_blocks_total", "Blocks that became durable.", func() float64 { return float64(h.ingest.Totals().Blocks) })
	counter("swell_ingest_values_total", "Values that became durable.", func() float64 { return float64(h.ingest.Totals().Values) })
	counter("swell_ingest_duplicates_total", "Blocks received again.", func() float64 { return float64(h.ingest.Totals().Duplicates) })
	counter("swell_ingest_malformed_total", "Payloads that could not be read.", func() float64 { return float64(h.ingest.Totals().Malformed) })
	counter("swell_ingest_refused_total", "Payloads not acknowledged for want of room.", func() float64 { return float64(h.ingest.Totals().Refused) })
	counter("swell_frames_total", "Pictures that became durable.", func() float64 { return float64(h.frames.Stats().Frames) })
	counter("swell_frames_bytes_total", "Bytes of them.", func() float64 { return float64(h.frames.Stats().Bytes) })
	counter("swell_frames_duplicates_total", "Pictures received again.", func() float64 { return float64(h.frames.Stats().Duplicates) })
	counter("swell_frames_malformed_total", "Pictures that could not be read.", func() float64 { return float64(h.frames.Stats().Malformed) })
	counter("swell_frames_refused_total", "Pictures not acknowledged for want of room or because a store failed.", func() float64 { return float64(h.frames.Stats().Refused) })
	counter("swell_reports_malformed_total", "Reported documents that could not be read.", func() float64 { return float64(h.fleet.Drops().Malformed) })
	counter("swell_reports_stale_total", "Reported documents older than the one held.", func() float64 { return float64(h.fleet.Drops().Stale) })
	counter("swell_reports_busy_total", "Reported documents refused because too many waited.", func() float64 { return float64(h.fleet.Drops().Busy) })
	counter("swell_history_dropped_total", "Lines of device history dropped because too many waited.", func() float64 { return float64(h.fleet.Drops().Entries) })
	counter("swell_stream_dropped_total", "Readers of the stream dropped because they read too slowly.", func() float64 { _, n := h.stream.Readers(); return float64(n) })
	gauge("swell_stream_readers", "Open streams.", func() float64 { n, _ := h.stream.Readers(); return float64(n) })
	if h.broker != nil {
		gauge("swell_broker_clients", "Devices with a session.", func() float64 { return float64(h.broker.Stats().Clients) })
		gauge("swell_broker_pending", "Messages not yet durable.", func() float64 { return float64(h.broker.Stats().Pending) })
		counter("swell_broker_received_total", "Messages taken from devices.", func() float64 { return float64(h.broker.Stats().Received) })
		counter("swell_broker_acked_total", "Messages acknowledged to devices.", func() float64 { return float64(h.broker.Stats().Acked) })
		counter("swell_broker_failed_total", "Messages not acknowledged.", func() float64 { return float64(h.broker.Stats().Failed) })
		counter("swell_broker_rejected_total", "Connections, messages and subscriptions refused.", func() float64 { return float64(h.broker.Stats().Rejected) })
		counter("swell_broker_dropped_total", "Messages given up.", func() float64 { return float64(h.broker.Stats().Dropped) })
	}
	h.metrics.MustRegister(fleetMetrics{h.fleet})
	plan := func(name, help string, f func(dispatch.Stats) float64) {
		counter(name, help, func() float64 { return f(h.plan.Stats()) })
	}
	plan("swell_rollout_looks_total", "Looks at the rollouts by this hub.", func(s dispatch.Stats) float64 { return float64(s.Looks) })
	plan("swell_rollout_look_seconds_total", "Time spent in looks at the rollouts.", func(s dispatch.Stats) float64 { return s.LookTime.Seconds() })
	plan("swell_rollout_rebuilds_total", "Times that all devices of a rollout were read again.", func(s dispatch.Stats) float64 { return float64(s.Rebuilds) })
	plan("swell_rollout_decisions_total", "Decisions stored with their evidence.", func(s dispatch.Stats) float64 { return float64(s.Decisions) })
	plan("swell_rollout_decisions_coalesced_total", "Decisions whose evidence went into that of a later one.", func(s dispatch.Stats) float64 { return float64(s.Coalesced) })
	plan("swell_rollout_changes_total", "Offers, leases and calls back decided.", func(s dispatch.Stats) float64 { return float64(s.Changes) })
	plan("swell_rollout_evidence_devices_total", "Devices in the evidence stored.", func(s dispatch.Stats) float64 { return float64(s.Facts) })
	plan("swell_desired_published_total", "Desired documents published.", func(s dispatch.Stats) float64 { return float64(s.Published) })
	plan("swell_desired_failed_total", "Desired documents that could not be published and are tried again.", func(s dispatch.Stats) float64 { return float64(s.PublishFailures) })
	gauge("swell_desired_waiting", "Desired documents that wait for another try.", func() float64 { return float64(h.plan.Stats().Waiting) })
	counter("swell_rollout_evidence_bytes_total", "Bytes of evidence stored, compressed.", func() float64 { return float64(h.db.EvidenceBytes()) })
	h.metrics.MustRegister(gateMetrics{h.plan.Dispatcher})
}

// gateMetrics shows the gates of the rollouts that this hub decides about.
type gateMetrics struct{ plan *dispatch.Dispatcher }

var (
	gateLabels        = []string{"rollout", "wave", "gate", "title", "index"} // index: place in the policy, for gates of one name
	gateValueDesc     = prometheus.NewDesc("swell_rollout_gate_value", "What a gate measured.", gateLabels, nil)
	gateThresholdDesc = prometheus.NewDesc("swell_rollout_gate_threshold", "What a gate compares its value with.", gateLabels, nil)
	gatePassDesc      = prometheus.NewDesc("swell_rollout_gate_result", "1: PASS, 0: INCONCLUSIVE, -1: FAIL.", gateLabels, nil)
	gateHarmDesc      = prometheus.NewDesc("swell_rollout_gate_e_harm", "The shadow gate's e-value against 'not worse than the margin'.", gateLabels, nil)
	gateSafeDesc      = prometheus.NewDesc("swell_rollout_gate_e_safe", "The shadow gate's e-value against 'worse than the margin'.", gateLabels, nil)
)

// Describe implements prometheus.Collector.
func (m gateMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{gateValueDesc, gateThresholdDesc, gatePassDesc, gateHarmDesc, gateSafeDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. A gate without a value shows none:
// no data is not 0.
func (m gateMetrics) Collect(ch chan<- prometheus.Metric) {
	results := map[rollout.Result]float64{rollout.Pass: 1, rollout.Fail: -1}
	for _, s := range m.plan.Status() {
		for i, v := range s.Gates {
			show := func(d *prometheus.Desc, value float64) {
				ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, s.Rollout, strconv.Itoa(s.Wave+1), string(v.Gate), v.Title, strconv.Itoa(i))
			}
			if v.Value != nil {
				show(gateValueDesc, *v.Value)
			}
			show(gateThresholdDesc, v.Threshold)
			show(gatePassDesc, results[v.Result])
			if v.Gate == rollout.GateShadow {
				show(gateHarmDesc, v.EHarm)
				show(gateSafeDesc, v.ESafe)
			}
		}
	}
}

// fleetMetrics counts the fleet once a scrape.
type fleetMetrics struct{ fleet *fleet.Registry }

var (
	devicesDesc = prometheus.NewDesc("swell_devices", "Devices by state.", []string{"state"}, nil)
	scoredDesc  = prometheus.NewDesc("swell_windows_scored_total", "Windows scored by all devices.", nil, nil)
	lostDesc    = prometheus.NewDesc("swell_windows_lost_total", "Windows that came due and were not scored.", nil, nil)
	stoppedDesc = prometheus.NewDesc("swell_production_stopped_seconds_total", "Time in which samples came and no model scored them.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m fleetMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{devicesDesc, scoredDesc, lostDesc, stoppedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m fleetMetrics) Collect(ch chan<- prometheus.Metric) {
	c := m.fleet.Count(func(*fleet.Device) bool { return false })
	for _, s := range fleet.States {
		ch <- prometheus.MustNewConstMetric(devicesDesc, prometheus.GaugeValue, float64(c.ByState[s]), string(s))
	}
	ch <- prometheus.MustNewConstMetric(scoredDesc, prometheus.CounterValue, float64(c.Totals.WindowsScored))
	ch <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(c.Totals.WindowsLost))
	ch <- prometheus.MustNewConstMetric(stoppedDesc, prometheus.CounterValue, float64(c.Totals.StoppedMs)/1000)
}
