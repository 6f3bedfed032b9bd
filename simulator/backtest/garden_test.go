package backtest

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swellfleet/swell/models/zoo"
)

func TestANetworkOfTheUsersOwnIsJudgedOnTheirRecordings(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a hub and two devices")
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	const rows, stuckFrom, stuckTo = 1500, 1000, 1200
	for d := range 2 {
		var b strings.Builder
		b.WriteString("time,a,b,c\n")
		last := 0.0
		for i := range rows {
			at := 2 * math.Pi * float64(i)
			if i < stuckFrom || i >= stuckTo {
				last = math.Cos(at/12) + 0.05*rng.NormFloat64()
			}
			fmt.Fprintf(&b, "%d,%.4f,%.4f,%.5f\n", 1_700_000_000+i, 100+7*(math.Sin(at/12)+0.05*rng.NormFloat64()), 3+0.3*last, -0.5+0.014*(math.Sin(at/30)+0.05*rng.NormFloat64()))
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("d%d.csv", d)), []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	o := Options{
		Data: []string{dir}, TrainRows: 600, Kinds: []string{zoo.Spectral}, Networks: []string{"../../models/zoo/testdata/networks/conv.onnx", "../../models/zoo/testdata/networks/raw.onnx:raw"},
		Out: filepath.Join(t.TempDir(), "verdicts.csv"), Progress: io.MultiWriter(&said, t.Output()),
	}
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "garden:conv for 2 device classes") {
		t.Errorf("it did not win over a detector of spikes:\n%s", said.String())
	}
	flagged, stuck := 0, 0
	for _, l := range lines(t, o.Out)[1:] {
		var row int
		if _, err := fmt.Sscan(l[1], &row); err != nil {
			t.Fatal(err)
		}
		if l[3] == "1" {
			if flagged++; row >= stuckFrom && row < stuckTo+16 {
				stuck++
			}
		}
	}
	if stuck < 2*150 || flagged-stuck > 2*20 {
		t.Errorf("%d rows flagged, %d of them of the stuck sensor", flagged, stuck)
	}
}

func TestANetworksFileHasToHaveANameThatAPolicyCanSay(t *testing.T) {
	if _, _, err := networks(Options{Networks: []string{"my model (1).onnx"}}); err == nil || !strings.Contains(err.Error(), "the name of the file") {
		t.Errorf("got %v", err)
	}
	brought, kinds, err := networks(Options{Networks: []string{"a/LSTM.onnx", "a/LSTM.onnx:raw"}})
	if err != nil || len(brought) != 1 || strings.Join(kinds, " ") != strings.Join(zoo.Competitors(), " ")+" garden:lstm garden:lstm:raw" {
		t.Errorf("%+v, %v, %v", brought, kinds, err)
	}
}
