// Package local runs a hub in this process on free loopback ports and drives
// it the way people do, through its REST API.
//
// Demonstrations, back-tests and whole-system tests use it: what they show, a
// person with swellctl could do.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apiclient"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/simulator/fleet"
)

// Hub is a running hub and a logged-in client of it.
type Hub struct {
	*hub.Hub
	API      *apiclient.ClientWithResponses
	URL      string // of the console
	User     string
	Password string
	// Fresh says that the hub made its first user at this start; otherwise
	// Password is the one given.
	Fresh bool
}

// Start runs a hub with cfg and logs in. Ports that cfg leaves open are free
// ones; DataDir is required. On a folder that was used before, Password must
// be the administrator's.
func Start(ctx context.Context, cfg hub.Config, password string) (*Hub, error) {
	for _, listen := range []*string{&cfg.HTTP.Listen, &cfg.Devices.Listen, &cfg.Broker.Listen, &cfg.Objects.Listen} {
		if *listen == "" {
			*listen = "127.0.0.1:0"
		}
	}
	h := &Hub{User: "admin", Password: password}
	cfg.Password = func(user, password string) { h.User, h.Password, h.Fresh = user, password, true }
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if h.Hub, err = hub.New(ctx, cfg); err != nil {
		return nil, err
	}
	h.URL = "http://" + h.Addrs().HTTP
	if err := h.login(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("log in to the hub at %s: %w", h.URL, err), h.Close())
	}
	return h, nil
}

// Connect logs in to a hub that runs elsewhere, in another process. The
// returned Hub has no hub.Hub: only what goes through its REST API works.
func Connect(ctx context.Context, url, user, password string) (*Hub, error) {
	h := &Hub{URL: url, User: user, Password: password}
	if err := h.login(ctx); err != nil {
		return nil, fmt.Errorf("log in to the hub at %s: %w", url, err)
	}
	return h, nil
}

func (h *Hub) login(ctx context.Context) error {
	plain, err := apiclient.NewClientWithResponses(h.URL + "/api/v1")
	if err != nil {
		return err
	}
	resp, err := plain.LoginWithResponse(ctx, apimodel.LoginRequest{User: h.User, Password: h.Password})
	if err != nil {
		return err
	}
	if resp.JSON200 == nil {
		return refused(resp.StatusCode(), resp.Body)
	}
	cookies, csrf := resp.HTTPResponse.Cookies(), resp.JSON200.CsrfToken
	h.API, err = apiclient.NewClientWithResponses(h.URL+"/api/v1", apiclient.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		for _, c := range cookies {
			r.AddCookie(c)
		}
		if csrf != nil {
			r.Header.Set("X-Swell-CSRF", *csrf)
		}
		return nil
	}))
	return err
}

func refused(status int, body []byte) error {
	return fmt.Errorf("the hub answers %d: %s", status, body)
}

// Fleet tells a fleet where it belongs.
func (h *Hub) Fleet() fleet.Hub {
	a := h.Addrs()
	return fleet.Hub{
		URL: "https://" + a.Devices, MQTT: "tls://" + a.MQTT, CAPEM: string(h.CAPEM()), KeysPEM: string(h.ReleaseKeyPEM()), LedgerKey: h.LedgerKey(),
		Token: func(ctx context.Context, d fleet.Device) (string, error) { return EnrolmentToken(ctx, h.API, d) },
	}
}

// EnrolmentToken asks a hub for a single-use token for d.
func EnrolmentToken(ctx context.Context, api *apiclient.ClientWithResponses, d fleet.Device) (string, error) {
	body := apimodel.EnrollmentTokenCreate{Site: d.ID.Site, Node: d.ID.Node, Class: string(d.Class)}
	if line := d.Labels["line"]; line != "" {
		body.Line = &line
	}
	resp, err := api.CreateEnrollmentTokenWithResponse(ctx, nil, body)
	if err != nil {
		return "", err
	}
	if resp.JSON201 == nil {
		return "", refused(resp.StatusCode(), resp.Body)
	}
	return resp.JSON201.Secret, nil
}

// Night is what a night came to.
type Night struct {
	Run     string
	Release string // id
	Rollout string
	Summary string
}

// Night runs a night under a retrain policy to its end. step hears the name of
// each step as it begins. A night that releases nothing is an error.
func (h *Hub) Night(ctx context.Context, policy string, step func(string)) (Night, error) {
	started, err := h.API.StartTrainingRunWithResponse(ctx, nil, apimodel.TrainingRunCreate{Policy: policy})
	if err != nil {
		return Night{}, err
	}
	if started.JSON201 == nil {
		return Night{}, refused(started.StatusCode(), started.Body)
	}
	n := Night{Run: started.JSON201.Metadata.Name}
	seen := map[string]bool{}
	err = Until(ctx, "run "+n.Run, func() (bool, error) {
		resp, err := h.API.GetTrainingRunWithResponse(ctx, n.Run)
		if err != nil {
			return false, err
		}
		if resp.JSON200 == nil {
			return false, refused(resp.StatusCode(), resp.Body)
		}
		st := resp.JSON200.Status
		for _, s := range st.Steps {
			began := s.State == apimodel.StepStateRunning || s.State == apimodel.StepStateDone
			if began && !seen[s.Name] {
				seen[s.Name] = true
				step(s.Name)
			}
		}
		if st.Summary != nil {
			n.Summary = *st.Summary
		}
		switch st.State {
		case apimodel.RunStateQueued, apimodel.RunStateRunning:
			return false, nil
		case apimodel.RunStateReleased:
			n.Release = st.Release.ID
			if st.Rollout != nil {
				n.Rollout = *st.Rollout
			}
			return true, nil
		}
		return false, fmt.Errorf("run %s was %s: %v", n.Run, st.State, st.Refusals)
	})
	return n, err
}

// Classes returns the device classes that a release ("family-7") has a model for.
func (h *Hub) Classes(ctx context.Context, release string) ([]string, error) {
	i := strings.LastIndex(release, "-")
	counter, err := strconv.ParseInt(release[i+1:], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("release %q: want name-counter", release)
	}
	resp, err := h.API.GetModelVersionWithResponse(ctx, release[:max(i, 0)], counter)
	if err != nil {
		return nil, err
	}
	if resp.JSON200 == nil {
		return nil, refused(resp.StatusCode(), resp.Body)
	}
	return resp.JSON200.Spec.Classes, nil
}

// Rollout returns a rollout as the API shows it.
func (h *Hub) Rollout(ctx context.Context, name string) (apimodel.Rollout, error) {
	resp, err := h.API.GetRolloutWithResponse(ctx, name)
	if err != nil {
		return apimodel.Rollout{}, err
	}
	if resp.JSON200 == nil {
		return apimodel.Rollout{}, refused(resp.StatusCode(), resp.Body)
	}
	return *resp.JSON200, nil
}

// Promoted waits until a rollout is promoted. line hears what changes; a
// rollout that ends otherwise is an error.
func (h *Hub) Promoted(ctx context.Context, name string, line func(string)) error {
	last := ""
	return Until(ctx, "rollout "+name, func() (bool, error) {
		r, err := h.Rollout(ctx, name)
		if err != nil {
			return false, err
		}
		now := fmt.Sprintf("%s: %d of %d devices done", r.Status.State, r.Status.Counts.Done, r.Status.Counts.Devices)
		if c := r.Status.CurrentWave; c != nil && *c < len(r.Status.Waves) {
			now = fmt.Sprintf("wave %s, %s", r.Status.Waves[*c].Name, now)
		}
		if now != last {
			line(now)
			last = now
		}
		switch r.Status.State {
		case apimodel.RolloutStatePromoted:
			return true, nil
		case apimodel.RolloutStateAborted, apimodel.RolloutStateFailed, apimodel.RolloutStateSuperseded:
			return false, fmt.Errorf("rollout %s was %s: %s", name, r.Status.State, r.Status.Message)
		}
		return false, nil
	})
}

// Verdicts returns what a device said about each window, by row.
func (h *Hub) Verdicts(ctx context.Context, id topic.ID) ([]hub.Verdict, error) {
	var out []hub.Verdict
	return out, h.Hub.Verdicts(ctx, id, func(v hub.Verdict) { out = append(out, v) })
}

// pollEvery is how often Until looks.
const pollEvery = 100 * time.Millisecond

// Until calls look until it says true or fails. The error after ctx has ended
// names what was waited for.
func Until(ctx context.Context, what string, look func() (bool, error)) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		done, err := look()
		if err != nil {
			return err
		}
		if done {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, context.Cause(ctx))
		}
	}
}

// AtOnce is a rollout policy of one wave over everything, with no shadow and
// the shortest soak: for devices that stand still meanwhile.
func AtOnce(name string) []api.RolloutPolicy {
	half := 0.5
	return []api.RolloutPolicy{{Policy: rollout.Policy{
		Name:  name,
		Waves: []rollout.Wave{{Name: "all", DeadlineS: 600}},
		Gates: []rollout.Gate{{Name: rollout.GateSuccess, Threshold: &half}},
		SoakS: 0.1, GraceS: 5, StaleS: 10, LeaseS: 60,
	}}}
}
