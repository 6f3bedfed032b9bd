package loopback

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/swellfleet/swell/agent/agenttest"
	"github.com/swellfleet/swell/cloud/api/apiclient"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/release"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/simulator/local"
	"github.com/swellfleet/swell/simulator/scenario"
)

const family = "pump-anomaly"

// unsound says whether a person would call a release bad.
func unsound(n scenario.Nature) bool { return n.Flags > 1.2 || n.CrashAtLoad }

// model makes a real model of a nature: one that never flags what the sources
// here yield, one that flags every window, or a graph that cannot be loaded.
// What only virtual devices can do is an error.
func model(n scenario.Nature, note string) ([]release.File, error) {
	m := agenttest.Model{Threshold: 1e9, Note: note}
	for _, x := range []struct {
		has  bool
		what string
	}{
		{n.NonFinite > 0, "yields NaN after a while"},
		{n.CrashAfter > 0, "crashes after a while"},
		{n.MemoryMiB > 0, "grows"},
		{n.LatencyMs > 0, "is slow"},
		{n.Unsigned, "is not signed: the hub signs what it publishes"},
		{n.On != "", "is bad on some devices only"},
		{n.Flags > 0 && n.Flags < 1.5 && n.Flags != 1, "flags a little more or less"},
	} {
		if x.has {
			return nil, fmt.Errorf("the release %s", x.what)
		}
	}
	if n.Flags >= 1.5 {
		m.Threshold = 1e-9
	}
	content := m.ONNX()
	if n.CrashAtLoad { // in one process a real crash would take everybody along
		content = []byte("no graph of " + note)
	}
	return []release.File{
		release.Bytes("pump/model.onnx", artifact.RoleModel, content),
		release.Bytes("pump/golden.json", artifact.RoleGolden, m.Golden()),
	}, nil
}

// propose publishes a release of a nature, signed, and starts its rollout.
func (p *plant) propose(ctx context.Context, n scenario.Nature, policy string) (string, error) {
	files, err := model(n, fmt.Sprintf("release %d", len(p.names)+1))
	if err != nil {
		return "", err
	}
	var classes []artifact.Class
	for _, d := range p.devices {
		if !slices.Contains(classes, d.Class) {
			classes = append(classes, d.Class)
		}
	}
	r, err := p.hub.PublishModel(ctx, release.Candidate{
		Name: family, Kind: artifact.Model, Reason: "scenario", Variants: []release.Variant{{Classes: classes, Files: files}},
	})
	if err != nil {
		return "", err
	}
	if policy == "story" && p.tried == 0 {
		p.tried = int(r.Manifest.Counter)
	}
	resp, err := p.hub.API.CreateRolloutWithResponse(ctx, nil, apimodel.RolloutCreate{Policy: policy, Release: r.Manifest.ID()})
	if err != nil {
		return "", err
	}
	if resp.JSON201 == nil {
		return "", refused("propose", resp.StatusCode(), resp.Body)
	}
	p.names = append(p.names, resp.JSON201.Metadata.Name)
	return resp.JSON201.Metadata.Name, nil
}

func refused(what string, status int, body []byte) error {
	return fmt.Errorf("%s: the hub answers %d: %s", what, status, strings.TrimSpace(string(body)))
}

// person logs somebody in, who gets an account first if need be.
func (p *plant) person(ctx context.Context, name string) (*apiclient.ClientWithResponses, error) {
	if name == "" {
		name = "ada"
	}
	if !slices.Contains(p.created, name) {
		resp, err := p.hub.API.CreateUserWithResponse(ctx, nil, apimodel.UserCreate{Name: name, Password: p.pass, Role: apimodel.RoleApprover})
		if err != nil {
			return nil, err
		}
		if resp.JSON201 == nil {
			return nil, refused("make an account for "+name, resp.StatusCode(), resp.Body)
		}
		p.created = append(p.created, name)
	}
	h, err := local.Connect(ctx, p.hub.URL, name, p.pass)
	if err != nil {
		return nil, err
	}
	return h.API, nil
}

// ask brings a person's wish to the hub. One that the hub refuses is traced: on
// the first level, too, it changes nothing.
func (p *plant) ask(ctx context.Context, st scenario.Step, name string) error {
	if name == "" {
		p.trace("there is no rollout yet")
		return nil
	}
	api, err := p.person(ctx, st.By)
	if err != nil {
		return err
	}
	why := st.Arg
	if why == "" {
		why = "scenario"
	}
	var status int
	var body []byte
	switch st.Verb {
	case "pause":
		resp, e := api.PauseRolloutWithResponse(ctx, name, &apimodel.PauseRolloutParams{Reason: why})
		if err = e; e == nil {
			status, body = resp.StatusCode(), resp.Body
		}
	case "resume":
		resp, e := api.ResumeRolloutWithResponse(ctx, name, &apimodel.ResumeRolloutParams{Reason: why})
		if err = e; e == nil {
			status, body = resp.StatusCode(), resp.Body
		}
	case "abort":
		resp, e := api.AbortRolloutWithResponse(ctx, name, &apimodel.AbortRolloutParams{Reason: why})
		if err = e; e == nil {
			status, body = resp.StatusCode(), resp.Body
		}
	case "promote":
		resp, e := api.PromoteRolloutWithResponse(ctx, name, &apimodel.PromoteRolloutParams{Reason: why})
		if err = e; e == nil {
			status, body = resp.StatusCode(), resp.Body
		}
	case "approve":
		resp, e := api.ApproveRolloutWithResponse(ctx, name, &apimodel.ApproveRolloutParams{Reason: why})
		if err = e; e == nil {
			status, body = resp.StatusCode(), resp.Body
		}
	}
	if err != nil {
		return err
	}
	if status >= 300 {
		p.trace("%v", refused(st.Verb, status, body))
	}
	return nil
}
