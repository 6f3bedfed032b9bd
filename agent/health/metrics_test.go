package health_test

import (
	"encoding/json"
	"runtime"
	"testing"

	"github.com/swellfleet/swell/agent/health"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

func TestTheMachineSaysNumbersThatAReportMayHold(t *testing.T) {
	m := health.Metrics()
	if runtime.GOOS == "linux" && (m["memory_available_mib"] <= 0 || len(m) < 2) {
		t.Errorf("%v", m)
	}
	b, err := json.Marshal(twin.Reported{Schema: 1, Site: "hall-1", Node: "pump-1", Metrics: m})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := twin.ParseReported(b, topic.ID{Site: "hall-1", Node: "pump-1"}); err != nil {
		t.Error(err)
	}
}
