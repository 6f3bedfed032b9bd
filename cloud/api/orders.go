package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/dispatch"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/rollout"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Orders keeps people's standing orders to all rollouts. Its methods write to
// the ledger what they change, before it holds.
type Orders interface {
	Orders(ctx context.Context) (rollout.Orders, error)
	// Freeze answers dispatch.ErrExists when the name is taken.
	Freeze(ctx context.Context, f rollout.Freeze) error
	// Unfreeze and Release answer dispatch.ErrNoOrder when there is nothing to lift.
	Unfreeze(ctx context.Context, name, by, reason string) error
	Quarantine(ctx context.Context, q rollout.Quarantine) error
	Release(ctx context.Context, manifest artifact.Digest, by, reason string) error
}

// freezeOf shows a freeze with what it holds now.
func (s *Server) freezeOf(f rollout.Freeze) apimodel.Freeze {
	now := s.cfg.Now()
	out := apimodel.Freeze{
		Name: f.Name, Selector: f.Selector, From: at(f.From), Until: at(f.Until), By: f.By, Reason: f.Reason,
		Active: !now.Before(f.From) && (f.Until.IsZero() || now.Before(f.Until)),
	}
	if sel, err := selector.Parse(f.Selector); err == nil {
		s.cfg.Fleet.All(func(d *fleet.Device) bool {
			if !d.Retired() && sel.Match(d.Look) {
				out.Devices++
			}
			return true
		})
	}
	return out
}

// over says whether a freeze has ended by itself: it is kept until another one
// is made, and nobody needs to see it.
func (s *Server) over(f rollout.Freeze) bool {
	return !f.Until.IsZero() && !s.cfg.Now().Before(f.Until)
}

// ListFreezes lists what has not ended, by name.
func (s *Server) ListFreezes(ctx context.Context, r apigen.ListFreezesRequestObject) (apigen.ListFreezesResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	o, err := s.cfg.Orders.Orders(ctx)
	if err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(o.Freezes, func(f rollout.Freeze) bool { return s.over(f) || after != "" && f.Name <= after })
	slices.SortFunc(rest, func(a, b rollout.Freeze) int { return cmp.Compare(a.Name, b.Name) })
	list, next := page(rest, limitOf(r.Params.Limit), func(f rollout.Freeze) string { return f.Name })
	out := apimodel.FreezeList{Items: make([]apimodel.Freeze, len(list)), NextCursor: next}
	for i, f := range list {
		out.Items[i] = s.freezeOf(f)
	}
	return apigen.ListFreezes200JSONResponse(out), nil
}

// CreateFreeze keeps rollouts from devices.
func (s *Server) CreateFreeze(ctx context.Context, r apigen.CreateFreezeRequestObject) (apigen.CreateFreezeResponseObject, error) {
	now := s.cfg.Now().UTC()
	f := rollout.Freeze{
		Name: r.Body.Name, Selector: value(r.Body.Selector), From: value(r.Body.From).UTC(), Until: value(r.Body.Until).UTC(), By: callerOf(ctx).person(), Reason: r.Params.Reason,
	}
	if f.From.IsZero() {
		f.From = now
	}
	field := func(name, message string) error {
		return invalid(name+": "+message, apimodel.FieldError{Field: name, Message: message})
	}
	switch {
	case strings.ContainsAny(f.Name, "/\\") || strings.TrimSpace(f.Name) != f.Name:
		return nil, field("name", "must not contain slashes, nor begin or end with a blank: it is part of an address")
	case !f.Until.IsZero() && !f.Until.After(f.From):
		return nil, field("until", "lies before the freeze begins")
	case !f.Until.IsZero() && !f.Until.After(now):
		return nil, field("until", "is past")
	}
	if err := s.selects(f.Selector); err != nil {
		return nil, err
	}
	o, err := s.cfg.Orders.Orders(ctx)
	if err != nil {
		return nil, err
	}
	live := slices.DeleteFunc(o.Freezes, s.over)
	if slices.ContainsFunc(live, func(old rollout.Freeze) bool { return old.Name == f.Name }) {
		return nil, exists("there is a freeze of this name, " + f.Name + ": lift it first, or give this one another")
	}
	if len(live) >= dispatch.MaxFreezes {
		return nil, conflict(fmt.Sprintf("there are %d freezes, and no more can be: lift one", dispatch.MaxFreezes))
	}
	if !value(r.Params.DryRun) {
		if err := s.cfg.Orders.Freeze(ctx, f); err != nil {
			return nil, err
		}
		s.cfg.Stream.Publish(Change{Kind: "Freeze", Name: f.Name})
	}
	return apigen.CreateFreeze201JSONResponse(s.freezeOf(f)), nil
}

// selects checks a selector against the fleet: one that asks for a label that
// no device has is more often a slip of the pen than a wish for nothing.
func (s *Server) selects(text string) error {
	sel, err := selector.Parse(text)
	if err != nil {
		return invalid(err.Error(), apimodel.FieldError{Field: "selector", Message: err.Error()})
	}
	_, n, _, err := s.cfg.Fleet.Select(sel, "", 1)
	if err == nil && n == 0 && text != "" {
		return invalid(fmt.Sprintf("the selector %q matches no device", text), apimodel.FieldError{Field: "selector", Message: "matches no device"})
	}
	return err
}

// LiftFreeze ends a freeze.
func (s *Server) LiftFreeze(ctx context.Context, r apigen.LiftFreezeRequestObject) (apigen.LiftFreezeResponseObject, error) {
	o, err := s.cfg.Orders.Orders(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(o.Freezes, func(f rollout.Freeze) bool { return f.Name == r.Name && !s.over(f) }) {
		return nil, notFound("freeze " + r.Name)
	}
	if !value(r.Params.DryRun) {
		if err := s.cfg.Orders.Unfreeze(ctx, r.Name, callerOf(ctx).person(), r.Params.Reason); err != nil {
			return nil, err
		}
		s.cfg.Stream.Publish(Change{Kind: "Freeze", Name: r.Name})
	}
	return apigen.LiftFreeze204Response{}, nil
}

func quarantineOf(q rollout.Quarantine) apimodel.Quarantine {
	return apimodel.Quarantine{Release: q.Release, Digest: string(q.Manifest), By: q.By, Reason: q.Reason, At: q.At}
}

// ListQuarantine lists banned releases, newest first.
func (s *Server) ListQuarantine(ctx context.Context, r apigen.ListQuarantineRequestObject) (apigen.ListQuarantineResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	o, err := s.cfg.Orders.Orders(ctx)
	if err != nil {
		return nil, err
	}
	place := func(q rollout.Quarantine) string {
		return q.At.UTC().Format("2006-01-02T15:04:05.000000000") + " " + string(q.Manifest)
	}
	slices.SortFunc(o.Quarantined, func(a, b rollout.Quarantine) int { return cmp.Compare(place(b), place(a)) })
	rest := slices.DeleteFunc(o.Quarantined, func(q rollout.Quarantine) bool { return after != "" && place(q) >= after })
	list, next := page(rest, limitOf(r.Params.Limit), place)
	out := apimodel.QuarantineList{Items: make([]apimodel.Quarantine, len(list)), NextCursor: next}
	for i, q := range list {
		out.Items[i] = quarantineOf(q)
	}
	return apigen.ListQuarantine200JSONResponse(out), nil
}

// QuarantineRelease bans a release.
func (s *Server) QuarantineRelease(ctx context.Context, r apigen.QuarantineReleaseRequestObject) (apigen.QuarantineReleaseResponseObject, error) {
	q := rollout.Quarantine{Release: r.Body.Release, By: callerOf(ctx).person(), Reason: r.Params.Reason, At: s.cfg.Now().UTC()}
	if strings.HasPrefix(q.Release, "sha256:") {
		q.Manifest = artifact.Digest(q.Release)
		if err := q.Manifest.Validate(); err != nil {
			return nil, invalid(err.Error(), apimodel.FieldError{Field: "release", Message: err.Error()})
		}
		// A release that is not here can come: ban it by its digest all the same.
		if m, err := s.cfg.Releases.Manifest(ctx, q.Manifest); err == nil {
			q.Release = fmt.Sprintf("%s-%d", m.Name, m.Counter)
		}
	} else {
		rel, err := s.cfg.Rollouts.Find(ctx, q.Release)
		if err != nil {
			return nil, err
		}
		q.Manifest = rel.Manifest
	}
	o, err := s.cfg.Orders.Orders(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(o.Quarantined, func(old rollout.Quarantine) bool { return old.Manifest == q.Manifest }); i >= 0 {
		old := o.Quarantined[i]
		return nil, exists(fmt.Sprintf("%s is in quarantine since %s, by %s: %s", q.Release, old.At.UTC().Format("2006-01-02 15:04 UTC"), old.By, old.Reason))
	}
	if len(o.Quarantined) >= dispatch.MaxQuarantined {
		return nil, conflict(fmt.Sprintf("there are %d releases in quarantine, and no more can be: lift one", dispatch.MaxQuarantined))
	}
	if !value(r.Params.DryRun) {
		if err := s.cfg.Orders.Quarantine(ctx, q); err != nil {
			return nil, err
		}
		s.cfg.Stream.Publish(Change{Kind: "Quarantine", Name: q.Release})
	}
	return apigen.QuarantineRelease201JSONResponse(quarantineOf(q)), nil
}

// LiftQuarantine allows a release again.
func (s *Server) LiftQuarantine(ctx context.Context, r apigen.LiftQuarantineRequestObject) (apigen.LiftQuarantineResponseObject, error) {
	o, err := s.cfg.Orders.Orders(ctx)
	if err != nil {
		return nil, err
	}
	manifest := artifact.Digest(r.Digest)
	i := slices.IndexFunc(o.Quarantined, func(q rollout.Quarantine) bool { return q.Manifest == manifest })
	if i < 0 {
		return nil, notFound("quarantine of " + manifest.Short())
	}
	if !value(r.Params.DryRun) {
		if err := s.cfg.Orders.Release(ctx, manifest, callerOf(ctx).person(), r.Params.Reason); err != nil {
			return nil, err
		}
		s.cfg.Stream.Publish(Change{Kind: "Quarantine", Name: o.Quarantined[i].Release})
	}
	return apigen.LiftQuarantine204Response{}, nil
}
