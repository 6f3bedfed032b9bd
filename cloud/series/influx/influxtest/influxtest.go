// Package influxtest is a small server that keeps the part of InfluxDB 2's HTTP
// contract that package influx uses, with faults on demand. No InfluxDB can be
// installed where the tests run; this one is written from InfluxDB's public API
// description and knows only the Flux that package influx writes.
//
// Test code alone imports it.
package influxtest

import (
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the server accepts.
const (
	Token  = "secret"
	Org    = "swell"
	Bucket = "rollups"
)

// Fault is what the next write meets.
type Fault int

// The faults.
const (
	TooMany     Fault = http.StatusTooManyRequests    // 429, nothing written
	Unavailable Fault = http.StatusServiceUnavailable // 503, nothing written
	Partial     Fault = http.StatusBadRequest         // 400, every line but the last written
	Cut         Fault = -1                            // written, but the connection breaks before the answer
)

// Server is a running server. Its zero value is not of use; see New.
type Server struct {
	URL string

	mu     sync.Mutex
	points map[string]float64 // by series key, field and time
	faults []Fault
	writes int
	refuse string // writes with a line that holds this get 400; empty for none
	gate   chan struct{}
}

// New starts a server that stops with the test.
func New(t testing.TB) *Server {
	s := &Server{points: map[string]float64{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"name":"influxdb","status":"pass"}`)
	})
	mux.HandleFunc("GET /api/v2/buckets", s.authorized(s.buckets))
	mux.HandleFunc("POST /api/v2/write", s.authorized(s.write))
	mux.HandleFunc("POST /api/v2/query", s.authorized(s.query))
	mux.HandleFunc("POST /api/v2/delete", s.authorized(s.delete))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// Fail queues faults: each write meets one.
func (s *Server) Fail(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// Refuse answers every write with such a line with 400, as a server does whose
// field has another type.
func (s *Server) Refuse(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = line
}

// Hold lets no write end until release is called.
func (s *Server) Hold() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
	return func() { close(gate) }
}

// Writes returns how many write requests came.
func (s *Server) Writes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *Server) authorized(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Token "+Token {
			fail(w, http.StatusUnauthorized, "unauthorized", "unauthorized access")
			return
		}
		if b := r.URL.Query().Get("bucket"); b != "" && b != Bucket {
			fail(w, http.StatusNotFound, "not found", "bucket not found")
			return
		}
		next(w, r)
	}
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"code": code, "message": message})
}

func (s *Server) buckets(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("name") != Bucket {
		fmt.Fprint(w, `{"buckets":[]}`)
		return
	}
	fmt.Fprintf(w, `{"buckets":[{"id":"0000000000000001","orgID":"0000000000000002","name":%q,"retentionRules":[]}]}`, Bucket)
}

func (s *Server) write(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			fail(w, http.StatusBadRequest, "invalid", err.Error())
			return
		}
		body = z
	}
	text, err := io.ReadAll(body)
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	s.mu.Lock()
	gate := s.gate
	s.writes++
	var fault Fault
	if len(s.faults) > 0 {
		fault, s.faults = s.faults[0], s.faults[1:]
	}
	refused := s.refuse != "" && strings.Contains(string(text), s.refuse)
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if fault == TooMany || fault == Unavailable {
		fail(w, int(fault), "unavailable", "try again later")
		return
	}
	if refused {
		fail(w, http.StatusBadRequest, "invalid", "partial write: field type conflict")
		return
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if fault == Partial {
		lines = lines[:len(lines)-1]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range lines {
		if err := s.store(line); err != nil {
			fail(w, http.StatusBadRequest, "invalid", err.Error())
			return
		}
	}
	switch fault {
	case Partial:
		fail(w, http.StatusBadRequest, "invalid", "partial write: field type conflict, dropped=1")
	case Cut:
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			conn.Close()
		}
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// split cuts s at sep where it is not escaped.
func split(s string, sep byte) []string {
	var out []string
	begin := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			out = append(out, s[begin:i])
			begin = i + 1
		}
	}
	return append(out, s[begin:])
}

// unescape knows the three escapes of tags; any other backslash is itself.
var unescape = strings.NewReplacer(`\,`, ",", `\=`, "=", `\ `, " ")

// tags of a stored point, with _measurement, _field and _time among them.
type tags map[string]string

// store takes one line of line protocol. Callers hold mu.
func (s *Server) store(line string) error {
	parts := split(line, ' ')
	if len(parts) != 3 {
		return fmt.Errorf("unable to parse %q", line)
	}
	t := tags{"_time": parts[2]}
	if _, err := strconv.ParseInt(parts[2], 10, 64); err != nil {
		return fmt.Errorf("unable to parse %q: bad timestamp", line)
	}
	for i, tag := range split(parts[0], ',') {
		if i == 0 {
			t["_measurement"] = unescape.Replace(tag)
			continue
		}
		kv := split(tag, '=')
		if len(kv) != 2 || kv[1] == "" {
			return fmt.Errorf("unable to parse %q: bad tag", line)
		}
		t[unescape.Replace(kv[0])] = unescape.Replace(kv[1])
	}
	for _, field := range split(parts[1], ',') {
		name, value, ok := strings.Cut(field, "=")
		isInt := name == "count"
		if !ok || isInt != strings.HasSuffix(value, "i") {
			return fmt.Errorf("unable to parse %q: bad field", line)
		}
		v, err := strconv.ParseFloat(strings.TrimSuffix(value, "i"), 64)
		if err != nil || math.IsInf(v, 0) || v != v {
			return fmt.Errorf("unable to parse %q: bad number", line)
		}
		t["_field"] = name
		key, err := json.Marshal(t) // keys in order, so that the same point is the same key
		if err != nil {
			return err
		}
		s.points[string(key)] = v
	}
	return nil
}

var (
	rangeRE  = regexp.MustCompile(`range\(start: time\(v: (-?\d+)\), stop: time\(v: (-?\d+)\)\)`)
	filterRE = regexp.MustCompile(`filter\(fn: \(r\) => (.*)\)$`)
	equalRE  = regexp.MustCompile(`r\.(\w+) == ("(?:[^"\\]|\\.)*")`)
	windowRE = regexp.MustCompile(`aggregateWindow\(every: (\d+)ns, offset: (\d+)ns, fn: (\w+), timeSrc: "_start", createEmpty: false\)`)
	yieldRE  = regexp.MustCompile(`yield\(name: "(\w+)"\)`)
	fromRE   = regexp.MustCompile(`^from\(bucket: "` + Bucket + `"\)$`)
)

type record struct {
	tags  tags
	time  int64
	value float64
}

// series is what groups records into a table.
func (r record) series() string {
	var b strings.Builder
	for _, name := range []string{"_measurement", "site", "node", "signal", "unit", "kind", "_field"} {
		fmt.Fprintf(&b, "%s\x00", r.tags[name])
	}
	return b.String()
}

func (s *Server) query(w http.ResponseWriter, r *http.Request) {
	var q struct{ Query string }
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	var records []record
	for line := range strings.Lines(q.Query) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "|> ")
		switch {
		case fromRE.MatchString(line):
			records = s.all()
		case rangeRE.MatchString(line):
			m := rangeRE.FindStringSubmatch(line)
			from, _ := strconv.ParseInt(m[1], 10, 64)
			to, _ := strconv.ParseInt(m[2], 10, 64)
			records = slices.DeleteFunc(records, func(r record) bool { return r.time < from || r.time >= to })
		case filterRE.MatchString(line):
			records = filter(records, filterRE.FindStringSubmatch(line)[1])
		case windowRE.MatchString(line):
			records = windows(records, windowRE.FindStringSubmatch(line))
		case line == "first()" || line == "last()":
			records = ends(records, line == "last()")
		case yieldRE.MatchString(line):
			answer(w, yieldRE.FindStringSubmatch(line)[1], records)
		default:
			fail(w, http.StatusBadRequest, "invalid", "cannot compile: "+line)
			return
		}
	}
}

func (s *Server) all() []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record
	for key, v := range s.points {
		t := tags{}
		if err := json.Unmarshal([]byte(key), &t); err != nil {
			panic(err)
		}
		at, _ := strconv.ParseInt(t["_time"], 10, 64)
		out = append(out, record{t, at, v})
	}
	slices.SortFunc(out, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.series(), b.series()), cmp.Compare(a.time, b.time))
	})
	return out
}

func filter(in []record, condition string) []record {
	any := strings.Contains(condition, " or ") || condition == "false"
	return slices.DeleteFunc(in, func(r record) bool {
		matched, failed := false, false
		for _, m := range equalRE.FindAllStringSubmatch(condition, -1) {
			want, err := strconv.Unquote(strings.ReplaceAll(m[2], `\${`, "${"))
			if err == nil && r.tags[m[1]] == want {
				matched = true
			} else {
				failed = true
			}
		}
		if any {
			return !matched
		}
		return failed
	})
}

// windows joins records of a table by window. m is every, offset and function.
func windows(in []record, m []string) []record {
	every, _ := strconv.ParseInt(m[1], 10, 64)
	offset, _ := strconv.ParseInt(m[2], 10, 64)
	var out []record
	for _, r := range in {
		r.time = (r.time-offset)/every*every + offset
		if n := len(out); n > 0 && out[n-1].time == r.time && out[n-1].series() == r.series() {
			switch m[3] {
			case "sum":
				out[n-1].value += r.value
			case "min":
				out[n-1].value = min(out[n-1].value, r.value)
			case "max":
				out[n-1].value = max(out[n-1].value, r.value)
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

func ends(in []record, last bool) []record {
	var out []record
	for _, r := range in {
		if n := len(out); n == 0 || out[n-1].series() != r.series() {
			out = append(out, r)
		} else if last {
			out[n-1] = r
		}
	}
	return out
}

// answer writes records as annotated CSV, one table a series, as InfluxDB does:
// a series without a unit has no such column.
func answer(w io.Writer, yield string, records []record) {
	out := csv.NewWriter(w)
	out.UseCRLF = true
	table := -1
	for i, r := range records {
		names := []string{"_measurement", "site", "node", "signal", "kind", "_field"}
		if r.tags["unit"] != "" {
			names = append(names, "unit")
		}
		if i == 0 || records[i-1].series() != r.series() {
			table++
			value := "double"
			if r.tags["_field"] == "count" {
				value = "long"
			}
			kinds, group, defaults, head := []string{"#datatype", "string", "long", "dateTime:RFC3339", value}, []string{"#group", "false", "false", "false", "false"}, []string{"#default", yield, "", "", ""}, []string{"", "result", "table", "_time", "_value"}
			for _, name := range names {
				kinds, group, defaults, head = append(kinds, "string"), append(group, "true"), append(defaults, ""), append(head, name)
			}
			if i > 0 {
				out.Flush()
				io.WriteString(w, "\r\n")
			}
			for _, line := range [][]string{kinds, group, defaults, head} {
				out.Write(line)
			}
		}
		line := []string{"", "", strconv.Itoa(table), time.Unix(0, r.time).UTC().Format(time.RFC3339Nano), strconv.FormatFloat(r.value, 'g', -1, 64)}
		if r.tags["_field"] == "count" {
			line[4] = strconv.FormatInt(int64(r.value), 10)
		}
		for _, name := range names {
			line = append(line, r.tags[name])
		}
		out.Write(line)
	}
	out.Flush()
	io.WriteString(w, "\r\n")
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request) {
	var d struct{ Start, Stop time.Time }
	if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
		fail(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	from, to := d.Start.UnixNano(), d.Stop.UnixNano()
	records := s.all()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		if r.time >= from && r.time <= to {
			key, _ := json.Marshal(r.tags)
			delete(s.points, string(key))
		}
	}
	w.WriteHeader(http.StatusNoContent)
}
