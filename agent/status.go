package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/swellfleet/swell/protocol/twin"
)

// listen opens the address of the status page.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot open the status page at %s: choose another address with status, or off: %w", address, err)
	}
	return l, nil
}

// serve answers /, /status.json, /metrics and /healthz until ctx ends.
func (a *Agent) serve(ctx context.Context, l net.Listener) {
	s := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() {
		// The page has no state to save; whoever reads it can ask again.
		_ = s.Close()
	})
	defer stop()
	_ = s.Serve(l) // ends with Close
}

// Handler is the local status page: read-only, without login, for loopback.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.page)
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(a.Reported()) // the reader went away
	})
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !a.Alive() {
			http.Error(w, "the update loop hangs", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// metrics writes the Prometheus text format.
func (a *Agent) metrics(w http.ResponseWriter, _ *http.Request) {
	r := a.Reported()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	line := func(kind, name, help string, value any) {
		fmt.Fprintf(w, "# HELP swell_agent_%s %s\n# TYPE swell_agent_%s %s\nswell_agent_%s %v\n", name, help, name, kind, name, value)
	}
	connected := 0
	if a.connected() {
		connected = 1
	}
	line("gauge", "connected", "1 while the hub's broker is connected.", connected)
	line("counter", "samples_total", "Rows read from the source.", r.Stream.Samples)
	line("counter", "values_held_total", "Missing values taken to be the one before.", r.Stream.ValuesHeld)
	line("counter", "windows_due_total", "Windows that should have been scored.", r.Stream.WindowsDue)
	line("counter", "windows_scored_total", "Windows that the champion scored.", r.Stream.WindowsScored)
	line("counter", "windows_lost_total", "Windows that will never be scored.", r.Stream.WindowsLost)
	line("counter", "stopped_milliseconds_total", "Time in which rows came and no champion acted.", r.Stream.StoppedMs)
	line("counter", "swaps_total", "Changes of the champion.", r.Stream.Swaps)
	line("gauge", "spool_blocks", "Blocks waiting for the hub.", r.Stream.SpoolBlocks)
	line("gauge", "spool_bytes", "Bytes of the spool on disk.", r.Stream.SpoolBytes)
	line("counter", "spool_dropped_total", "Blocks lost for want of room.", r.Stream.SpoolDropped)
	if f := r.Frames; f != nil {
		line("counter", "pictures_unreadable_total", "Pictures that could not be decoded.", f.Unreadable)
		line("counter", "pictures_chosen_total", "Pictures that the upload policy wanted.", f.Chosen)
		line("counter", "pictures_refused_total", "Of those, not sent because the budget was spent.", f.Refused)
		line("counter", "pictures_sent_total", "Pictures that the hub has.", f.Sent)
		line("counter", "pictures_dropped_total", "Chosen pictures lost for want of room.", f.Dropped)
		line("gauge", "pictures_spooled", "Pictures waiting for the hub.", f.SpoolFrames)
		if f.BudgetBytes != nil {
			line("gauge", "pictures_budget_bytes", "Bytes of pictures that may be sent now.", *f.BudgetBytes)
		}
	}
	line("counter", "actions_dropped_total", "Starts and ends of anomalies that could not be passed on.", a.droppedActions())
	line("gauge", "resident_mebibytes", "Resident memory.", r.Agent.RSSMiB)
	if c := r.Champion; c != nil {
		line("gauge", "champion_counter", "Release counter of the champion.", c.Counter)
		line("counter", "champion_windows_total", "Windows the champion scored.", c.Windows)
		line("counter", "champion_flagged_total", "Of those, anomalous.", c.Flagged)
		line("gauge", "champion_latency_p99_milliseconds", "p99 of one inference.", c.LatencyP99Ms)
	}
	if len(r.Conditions) > 0 {
		fmt.Fprintf(w, "# HELP swell_agent_condition Findings about the agent's health.\n# TYPE swell_agent_condition gauge\n")
		for _, c := range r.Conditions {
			fmt.Fprintf(w, "swell_agent_condition{type=%q,reason=%q} 1\n", c.Type, c.Reason)
		}
	}
}

var page = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>{{.Site}}/{{.Node}} · Swell agent</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}th{font-weight:600}code{word-break:break-all}</style>
<h1>{{.Site}}/{{.Node}}</h1>
<p>{{.Sentence}}</p>
{{with .Conditions}}<h2>Findings</h2><ul>{{range .}}<li><strong>{{.Type}}</strong>: {{.Message}}</li>{{end}}</ul>{{end}}
<h2>Model</h2>
<table>
{{with .Champion}}<tr><th>acts</th><td>{{.Name}}-{{.Counter}}, since {{.Since.Format "2006-01-02 15:04:05"}} UTC</td></tr>
<tr><th>attested</th><td><code>{{.Model}}</code></td></tr>
{{with .Stream.ValuesHeld}}<tr><th>missing values</th><td>{{.}} taken to be the one before</td></tr>
{{end}}<tr><th>windows</th><td>{{.Windows}} scored, {{.Flagged}} flagged, p99 {{printf "%.3f" .LatencyP99Ms}} ms</td></tr>{{else}}<tr><th>acts</th><td>none</td></tr>{{end}}
{{with .LastGood}}<tr><th>last good</th><td>{{.Name}}-{{.Counter}}</td></tr>{{end}}
{{with .Trial}}<tr><th>trial</th><td>{{.Name}}-{{.Counter}}: {{.Phase}}{{with .Reason}}, {{.}}{{end}}</td></tr>{{end}}
</table>
<h2>Stream</h2>
<table>
<tr><th>samples</th><td>{{.Stream.Samples}}</td></tr>
<tr><th>windows</th><td>{{.Stream.WindowsScored}} scored of {{.Stream.WindowsDue}} due, {{.Stream.WindowsLost}} lost</td></tr>
<tr><th>spool</th><td>{{.Stream.SpoolBlocks}} blocks, {{.Stream.SpoolBytes}} bytes, {{.Stream.SpoolDropped}} dropped</td></tr>
{{with .Frames}}<tr><th>pictures</th><td>{{.Chosen}} chosen for the hub, {{.Refused}} over the budget, {{.Sent}} sent, {{.SpoolFrames}} waiting, {{.Dropped}} dropped; {{.Unreadable}} could not be read</td></tr>
{{end}}</table>
<p><a href="/status.json">status.json</a> · <a href="/metrics">metrics</a> · Swell agent {{.Agent.Version}}</p>
</html>
`))

func (a *Agent) page(w http.ResponseWriter, _ *http.Request) {
	r := a.Reported()
	var s []string
	if a.connected() {
		s = append(s, "connected to the hub")
	} else {
		s = append(s, "not connected to the hub")
	}
	if r.Champion != nil {
		s = append(s, fmt.Sprintf("%s-%d scores every window", r.Champion.Name, r.Champion.Counter))
	} else {
		s = append(s, "no model acts")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_ = page.Execute(w, struct { // an error means that the reader went away
		twin.Reported
		Sentence string
	}{r, strings.Join(s, "; ")})
}

// connected says whether the hub's broker is; false before Run.
func (a *Agent) connected() bool {
	a.mu.Lock()
	u := a.uplink
	a.mu.Unlock()
	return u != nil && u.Connected()
}

func (a *Agent) droppedActions() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.actions == nil {
		return 0
	}
	return a.actions.Dropped()
}
