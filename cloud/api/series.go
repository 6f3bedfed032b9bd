package api

import (
	"context"
	"math"
	"time"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/series"
	"github.com/swellfleet/swell/protocol/topic"
)

// The streams a device's series are in, and how people name their signals: the
// raw ones by their name, a verdict's as "verdicts/score".
const (
	rawStream     = "raw"
	verdictStream = "verdicts"
)

// streamOf splits a signal's public name.
func streamOf(name string) (stream, signal string) {
	for _, st := range []string{verdictStream, "live"} {
		if len(name) > len(st) && name[:len(st)+1] == st+"/" {
			return st, name[len(st)+1:]
		}
	}
	switch name {
	case "score", "flag", "threshold", "release", "challenger_score", "challenger_flag":
		return verdictStream, name
	}
	return rawStream, name
}

// ListDeviceSignals lists what a device measures and computes.
func (s *Server) ListDeviceSignals(ctx context.Context, r apigen.ListDeviceSignalsRequestObject) (apigen.ListDeviceSignalsResponseObject, error) {
	id, err := deviceID(r.Site, r.Node)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Fleet.Get(id); err != nil {
		return nil, err
	}
	infos, err := s.cfg.Series.Signals(ctx, id)
	if err != nil {
		return nil, err
	}
	out := apimodel.SignalList{Items: []apimodel.Signal{}}
	last, err := s.lastValues(ctx, id, infos)
	if err != nil {
		return nil, err
	}
	for _, in := range infos {
		sig := apimodel.Signal{Name: in.Name, Kind: apimodel.SignalKindMeasured, Unit: some(in.Unit), FirstAt: at(time.Unix(0, in.From)), LastAt: at(time.Unix(0, in.To))}
		switch in.Stream {
		case rawStream:
		case verdictStream:
			sig.Kind = apimodel.SignalKindScore
			if in.Name != "score" && in.Name != "challenger_score" {
				sig.Kind = apimodel.SignalKindState
			}
		default:
			sig.Name, sig.Kind = in.Stream+"/"+in.Name, apimodel.SignalKindFeature
		}
		if v, ok := last[in.Stream+"/"+in.Name]; ok {
			sig.LastValue = &v
		}
		out.Items = append(out.Items, sig)
	}
	return apigen.ListDeviceSignals200JSONResponse(out), nil
}

// lastValues returns the newest value of each signal, by stream and name. One
// that is missing or no number is left out.
func (s *Server) lastValues(ctx context.Context, id topic.ID, infos []series.SignalInfo) (map[string]float64, error) {
	type row struct {
		stream string
		at     int64
	}
	names := map[row][]string{}
	for _, in := range infos {
		at := row{in.Stream, in.To}
		names[at] = append(names[at], in.Name)
	}
	out := map[string]float64{}
	for at, signals := range names {
		res, err := s.cfg.Series.Query(ctx, series.Query{ID: id, Stream: at.stream, Signals: signals, From: at.at, To: at.at + 1})
		if err != nil {
			return nil, err
		}
		for _, sig := range res.Signals {
			if values := numbers(sig.Column); len(values) > 0 {
				if v := values[len(values)-1]; finite(v) {
					out[at.stream+"/"+sig.Name] = v
				}
			}
		}
	}
	return out, nil
}

// QuerySeries returns one signal over a range of time.
func (s *Server) QuerySeries(ctx context.Context, r apigen.QuerySeriesRequestObject) (apigen.QuerySeriesResponseObject, error) {
	p := r.Params
	id, err := topic.ParseID(p.Node)
	if err != nil {
		return nil, invalid(err.Error(), apimodel.FieldError{Field: "node", Message: err.Error()})
	}
	if _, err := s.cfg.Fleet.Get(id); err != nil {
		return nil, err
	}
	from, to := p.From.UnixNano(), p.To.UnixNano()
	if p.From.Year() < 1970 || p.To.Year() > 2200 || to <= from {
		return nil, invalid("from must be before to, both between the years 1970 and 2200", apimodel.FieldError{Field: "to", Message: "not after from"})
	}
	points := 1000
	if p.MaxPoints != nil {
		points = *p.MaxPoints
	}
	stream, signal := streamOf(p.Signal)
	q := series.Query{ID: id, Stream: stream, Signals: []string{signal}, From: from, To: to, MaxPoints: points}
	res, err := s.cfg.Series.Query(ctx, q)
	if err != nil {
		return nil, err
	}
	out := apimodel.Series{Node: p.Node, Signal: p.Signal, Times: []int64{}, Mean: []float64{}, Anomalies: []apimodel.AnomalySpan{}}
	if len(res.Signals) > 0 && held(res.Signals[0]) <= int64(points) {
		// Few enough to show as they are.
		raw := q
		raw.MaxPoints, raw.MaxRows = 0, points
		if whole, err := s.cfg.Series.Query(ctx, raw); err == nil && !whole.Truncated {
			res = whole
		}
	}
	if len(res.Signals) > 0 {
		fill(&out, res)
	}
	out.Anomalies, err = s.anomalies(ctx, id, from, to, points)
	return apigen.QuerySeries200JSONResponse(out), err
}

// held is how many values the buckets of a signal stand for.
func held(sig series.Signal) (n int64) {
	for _, c := range sig.Count {
		n += c
	}
	return n
}

// fill copies points; what is not a number is left out, JSON has none.
func fill(out *apimodel.Series, res series.Result) {
	sig := res.Signals[0]
	out.Unit = some(sig.Unit)
	if res.Bucket == 0 {
		for i, v := range numbers(sig.Column) {
			if finite(v) {
				out.Times = append(out.Times, sig.Times[i]/int64(time.Millisecond))
				out.Mean = append(out.Mean, v)
			}
		}
		return
	}
	out.ResolutionMs = max(res.Bucket.Milliseconds(), 1)
	lo, hi, count := []float64{}, []float64{}, []int64{}
	for i, t := range sig.Times {
		if finite(sig.Mean[i]) && finite(sig.Min[i]) && finite(sig.Max[i]) {
			out.Times = append(out.Times, t/int64(time.Millisecond))
			out.Mean = append(out.Mean, sig.Mean[i])
			lo, hi, count = append(lo, sig.Min[i]), append(hi, sig.Max[i]), append(count, sig.Count[i])
		}
	}
	out.Min, out.Max, out.Count = &lo, &hi, &count
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// numbers returns a column's values as numbers; text has none.
func numbers(c series.Column) []float64 {
	switch c.Kind {
	case series.Float64:
		return c.Float64
	case series.Float32:
		return widen(c.Float32)
	case series.Int64:
		return widen(c.Int64)
	case series.Bool:
		out := make([]float64, len(c.Bool))
		for i, b := range c.Bool {
			if b {
				out[i] = 1
			}
		}
		return out
	}
	return nil
}

func widen[T float32 | int64](in []T) []float64 {
	out := make([]float64, len(in))
	for i, v := range in {
		out[i] = float64(v)
	}
	return out
}

// anomalies returns the spans a device flagged, at the resolution of the query.
func (s *Server) anomalies(ctx context.Context, id topic.ID, from, to int64, points int) ([]apimodel.AnomalySpan, error) {
	out := []apimodel.AnomalySpan{}
	res, err := s.cfg.Series.Query(ctx, series.Query{ID: id, Stream: verdictStream, Signals: []string{"flag", "score", "threshold"}, From: from, To: to, MaxPoints: points})
	if err != nil {
		return out, err
	}
	by := map[string]series.Signal{}
	for _, sig := range res.Signals {
		by[sig.Name] = sig
	}
	flag := by["flag"]
	peak, limit := byTime(by["score"]), byTime(by["threshold"])
	width := max(res.Bucket.Milliseconds(), 1)
	for i, t := range flag.Times {
		if i >= len(flag.Max) || !(flag.Max[i] > 0) {
			continue
		}
		ms := t / int64(time.Millisecond)
		score, threshold := peak[t], limit[t]
		if n := len(out); n > 0 && out[n-1].To >= ms {
			out[n-1].To = ms + width
			out[n-1].PeakScore = max(out[n-1].PeakScore, score)
			continue
		}
		out = append(out, apimodel.AnomalySpan{From: ms, To: ms + width, PeakScore: score, Threshold: some(threshold)})
	}
	return out, nil
}

func byTime(sig series.Signal) map[int64]float64 {
	out := make(map[int64]float64, len(sig.Times))
	for i, t := range sig.Times {
		if i < len(sig.Max) && !math.IsNaN(sig.Max[i]) && !math.IsInf(sig.Max[i], 0) {
			out[t] = sig.Max[i]
		}
	}
	return out
}
