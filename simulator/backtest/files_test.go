package backtest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/zoo"
	"github.com/swellfleet/swell/protocol/topic"
)

func some50(line func(i int) string) string {
	var b strings.Builder
	for i := range 50 {
		b.WriteString(line(i) + "\n")
	}
	return b.String()
}

func TestAFolderAsItComesIsUnderstoodAndTold(t *testing.T) {
	dir := put(t, map[string]string{
		"a/pump.csv": "no,Timestamp,flow,state,spare,Normal/Attack\n" + some50(func(i int) string {
			return fmt.Sprintf("%d,2024-03-05 06:00:%02d,%d.5,RUN,,%s", i, i, i%7, []string{"Normal", "Attack"}[i/40])
		}),
		"a/pump 2.tsv":   "flow\tis_anomaly\n" + some50(func(i int) string { return fmt.Sprintf("%d\t%t", i%7, i < 5) }),
		"a/pump-2.csv":   "time,flow\n" + some50(func(i int) string { return fmt.Sprintf("%d,%d", i/2*2, i%7) }),
		"empty.csv":      "",
		"program.csv":    "\x7fELF\x00\x01",
		"windows.csv":    "from,to\n2024-03-05 06:00:00,2024-03-05 06:10:00\n",
		"short.csv":      "time,flow\n1,2\n2,3\n",
		".hidden/no.csv": "time,flow\n1,2\n2,3\n",
		"notes.txt":      "no table",
	})
	o := Options{Data: []string{dir}, TrainRows: 20, ModelPer: "folder"}
	recs, left, err := recordings(o)
	if err != nil {
		t.Fatal(err)
	}
	if recs, left, err = divided(recs, left, o); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range recs {
		got = append(got, fmt.Sprint(r.name, r.id.Node, r.class, r.rows, r.channels, anomalous(r.labels, 0, 100)))
	}
	want := "a/pumpa-pumpa50 [flow] 10; a/pump 2a-pump-2a50 [flow] 5; a/pump-2a-pump-2-2a50 [flow] 0"
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	said := strings.Join(told(recs, left, o), "\n")
	for _, want := range []string{
		"the time is in Timestamp, in a/pump", "column no left out: rises by the same step at each row", "column state left out: no numbers", "column spare left out: nothing in it",
		"column Normal/Attack left out: looks like labels", "no column has the time: rows are taken as evenly spaced", "25 rows have the same time as the row before them, in a/pump-2",
		"5 rows to learn from are labelled as anomalies", "file left out: it is empty, in empty", "file left out: it is no text", "file left out: it has 2 rows", "windows",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not in\n%s", want, said)
		}
	}
	if err := excluded(recs, []string{"state"}); err != nil {
		t.Error(err)
	}
	if err := excluded(recs, []string{"lable"}); err == nil || !strings.Contains(err.Error(), `--exclude "lable": no file has such a column; a/pump has no, flow`) {
		t.Errorf("got %v", err)
	}
	o.Channels = []string{"flow", "Normal/Attack"}
	if recs, _, err = recordings(o); err != nil || len(recs) != 1 || len(recs[0].channels) != 2 || recs[0].labels != nil {
		t.Errorf("chosen channels: %+v, %v", recs, err)
	}
	for _, n := range []string{"empty", "program", "short"} {
		o := Options{Data: []string{dir}, Files: []string{n}, TrainRows: 20, ModelPer: "device"}
		recs, left, err := recordings(o)
		if err == nil {
			_, _, err = divided(recs, left, o)
		}
		if err == nil || !strings.HasPrefix(err.Error(), n+": it ") {
			t.Errorf("a folder with nothing but %s: %v", n, err)
		}
	}
}

func TestLongNamesOfFilesAreStillDevices(t *testing.T) {
	long := strings.Repeat("x", 90)
	recs, _, err := recordings(Options{Data: []string{put(t, map[string]string{long + "1.csv": "a\n1\n2\n", long + "2.csv": "a\n1\n2\n"})}, ModelPer: "all"})
	if err != nil || len(recs) != 2 || recs[0].id == recs[1].id || len(recs[1].id.Node) > topic.MaxNameLen {
		t.Errorf("%+v, %v", recs, err)
	}
}

func TestVerdictsAreComparedWithLabelsInTheFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a hub and a device")
	}
	rng := rand.New(rand.NewPCG(3, 4))
	var b strings.Builder
	b.WriteString("Zeit;a;b;c;Label\r\n")
	for i := range 800 {
		x, label := rng.NormFloat64(), "Normal"
		y := x
		if i >= 600 && i < 700 {
			y, label = x+9, "Attack"
		}
		values := strings.ReplaceAll(fmt.Sprintf("%.3f;%.3f;%.3f", x, 2*y+0.1*rng.NormFloat64(), 5+x), ".", ",")
		fmt.Fprintf(&b, "05.03.2024 06:%02d:%02d;%s;%s\r\n", i/60, i%60, values, label)
	}
	var said strings.Builder
	r, err := Run(t.Context(), Options{
		Data: []string{put(t, map[string]string{"pump.csv": "\ufeff" + b.String(), "zz.csv": ""})}, TrainRows: 300, Kinds: []string{zoo.PCA},
		Out: filepath.Join(t.TempDir(), "verdicts.csv"), Progress: io.MultiWriter(&said, t.Output()),
	})
	if err != nil {
		t.Fatal(err)
	}
	l := r.Labels
	if r.Files != 1 || r.LeftOut != 1 || l == nil || l.Rows != 500 || l.Anomalies != 100 || l.Missed > 0.05 || l.FalseAlarms > 0.15 || l.F1 < 0.75 {
		t.Errorf("%+v, labels %+v", r, l)
	}
	if !strings.Contains(said.String(), "1 of 1 events found") {
		t.Errorf("it said\n%s", said.String())
	}
}

func TestEventsAreFoundByOneOfTheirRows(t *testing.T) {
	var l Labelled
	for _, file := range []string{"..AfA..AA.F", "AA", "Af.f"} { // small: flagged without a label
		l.next()
		for _, c := range file {
			l.count(c == 'f' || c == 'F', c == 'A' || c == 'F')
		}
	}
	l.finish()
	if l.Files != 3 || l.Rows != 17 || l.Anomalies != 8 || l.Events != 6 || l.EventsFound != 1 || l.Missed != 7.0/8 || l.FalseAlarms != 3.0/9 || l.F1 != 2.0/12 {
		t.Errorf("%+v", l)
	}
}
