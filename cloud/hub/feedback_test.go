package hub_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/models/runtime"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

func TestPeopleLabelWhatDevicesSaw(t *testing.T) {
	r := start(t, onFreePorts(t.TempDir()), "")
	ctx := t.Context()
	id := topic.ID{Site: "hall-1", Node: "pump-1"}
	r.enrol(t, id)
	to := time.Now().UTC().Truncate(time.Second)
	from, name, nobody := to.Add(-time.Minute), id.String(), "hall-1/nobody"
	label := func(device *string) apimodel.LabelCreate {
		return apimodel.LabelCreate{Device: device, From: &from, To: &to, Value: "anomaly"}
	}
	reason := "the bearing was hot"
	made, err := r.api.AddLabelsWithResponse(ctx, nil, apimodel.LabelsCreate{Items: []apimodel.LabelCreate{label(&name), label(&nobody)}})
	if err != nil || made.StatusCode() != http.StatusUnprocessableEntity && made.StatusCode() != http.StatusBadRequest || !strings.Contains(string(made.Body), "no device hall-1/nobody is enrolled") {
		t.Errorf("a label for nobody: %v, %s", err, made.Body)
	}
	made, err = r.api.AddLabelsWithResponse(ctx, &apimodel.AddLabelsParams{Reason: &reason}, apimodel.LabelsCreate{Items: []apimodel.LabelCreate{label(&name)}})
	if err != nil || made.JSON201 == nil {
		t.Fatalf("label: %v, %s", err, made.Body)
	}
	list, err := r.api.ListLabelsWithResponse(ctx, &apimodel.ListLabelsParams{Device: &name})
	if err != nil || list.JSON200 == nil || len(list.JSON200.Items) != 1 || !strings.HasPrefix(list.JSON200.Items[0].By, "user:") || *list.JSON200.Items[0].Reason != reason {
		t.Errorf("listed %s, %v", list.Body, err)
	}
	action := "feedback.label"
	audit, err := r.api.ListAuditEventsWithResponse(ctx, &apimodel.ListAuditEventsParams{Action: &action})
	if err != nil || audit.JSON200 == nil || len(audit.JSON200.Items) != 1 || audit.JSON200.Items[0].Subject != "Device/"+name || *audit.JSON200.Items[0].Reason != reason {
		t.Errorf("recorded %s, %v", audit.Body, err)
	}
}

func TestAModelIsTakenInAndAnUnusableOneIsRefused(t *testing.T) {
	r := start(t, onFreePorts(t.TempDir()), "")
	res, err := r.api.ImportGardenModelWithBodyWithResponse(t.Context(), &apimodel.ImportGardenModelParams{Name: "net"}, "application/octet-stream", bytes.NewReader([]byte("<html>")))
	if err != nil || res.StatusCode() < 400 || res.StatusCode() >= 500 || !strings.Contains(string(res.Body), "cannot be taken in") {
		t.Errorf("a web page: %v, %d %s", err, res.StatusCode(), res.Body)
	}
	dry := true
	kept, err := r.api.CollectModelsWithResponse(t.Context(), &apimodel.CollectModelsParams{DryRun: &dry})
	if err != nil || kept.StatusCode() < 400 || !strings.Contains(string(kept.Body), "keep_versions") {
		t.Errorf("a collection on a hub that keeps everything: %v, %s", err, kept.Body)
	}
}

func TestAConfigurationBringsModelsAndTheirNewerVersions(t *testing.T) {
	if _, err := runtime.Library(""); err != nil {
		t.Skipf("ONNX Runtime is absent (make test fetches it): %v", err)
	}
	cfg := onFreePorts(t.TempDir())
	file := filepath.Join(t.TempDir(), "theirs.onnx")
	cfg.Training.Garden = []hub.GardenModel{{Name: "theirs", File: file, Reason: "of the vendor"}}
	cfg.Training.Policies = []hub.RetrainPolicy{{Name: "pump", Kinds: []string{"garden:theirs"}}}
	if h, err := hub.New(t.Context(), cfg); err == nil {
		h.Close()
		t.Error("a hub started without the file that its configuration names")
	}
	password := ""
	for _, network := range []string{"lstm", "lstm", "gru"} {
		b, err := os.ReadFile("../../models/zoo/testdata/networks/" + network + ".onnx")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := start(t, cfg, password)
		password = r.password
		list, err := r.api.ListGardenWithResponse(t.Context())
		if err != nil || list.JSON200 == nil || len(list.JSON200.Items) != 1 {
			t.Fatalf("listed %s, %v", list.Body, err)
		}
		if m := list.JSON200.Items[0]; m.Name != "theirs" || *m.By != "configuration" || m.Digest != apimodel.Digest(artifact.Of(b)) || *m.Input != "float [batch any 3]" {
			t.Errorf("%s: %+v", network, m)
		}
		family, err := r.api.GetModelWithResponse(t.Context(), "theirs")
		if err != nil || family.JSON200 == nil || family.JSON200.Spec.Kind != "garden" || *family.JSON200.Spec.Description != "of the vendor" {
			t.Errorf("the family is %s, %v", family.Body, err)
		}
		version, err := r.api.GetModelVersionWithResponse(t.Context(), "theirs", family.JSON200.Status.Versions)
		if err != nil || version.JSON200 == nil || version.JSON200.Status.State != apimodel.ModelVersionStateCandidate {
			t.Errorf("the version is %s, %v", version.Body, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAHubThatCollectsSaysWhatItWouldRemove(t *testing.T) {
	cfg := onFreePorts(t.TempDir())
	cfg.Training.KeepVersions, cfg.Training.KeepDays = 3, 30
	r := start(t, cfg, "")
	for _, dry := range []bool{true, false} {
		got, err := r.api.CollectModelsWithResponse(t.Context(), &apimodel.CollectModelsParams{DryRun: &dry})
		if err != nil || got.JSON200 == nil || got.JSON200.DryRun != dry || len(got.JSON200.Items) != 8 {
			t.Errorf("dry %v: %s, %v", dry, got.Body, err)
		}
	}
}
