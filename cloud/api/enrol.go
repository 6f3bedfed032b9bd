package api

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/enroll"
	"github.com/swellfleet/swell/cloud/fleet"
	"github.com/swellfleet/swell/cloud/selector"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// enrolmentTTL is how long a token lives that asks for nothing else.
const enrolmentTTL = 24 * time.Hour

func (s *Server) enrolmentToken(t enroll.Token) apimodel.EnrollmentToken {
	out := apimodel.EnrollmentToken{
		ID: t.Hash.String(), Site: t.ID.Site, Node: t.ID.Node, Class: string(t.Class), CreatedAt: t.Created, ExpiresAt: t.Expires,
		CreatedBy: some(t.Actor), UsedAt: at(t.Used), State: apimodel.EnrollmentTokenStateOpen,
	}
	if len(t.Labels) > 0 {
		labels := apimodel.Labels(t.Labels)
		out.Labels, out.Line = &labels, some(t.Labels["line"])
	}
	switch {
	case !t.Used.IsZero():
		out.State = apimodel.EnrollmentTokenStateUsed
	case !t.Void.IsZero():
		out.State = apimodel.EnrollmentTokenStateRevoked
	case !s.cfg.Now().Before(t.Expires):
		out.State = apimodel.EnrollmentTokenStateExpired
	}
	return out
}

// ListEnrollmentTokens lists tokens, newest first.
func (s *Server) ListEnrollmentTokens(ctx context.Context, r apigen.ListEnrollmentTokensRequestObject) (apigen.ListEnrollmentTokensResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.Enroll.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	place := func(t enroll.Token) string {
		return t.Created.UTC().Format("2006-01-02T15:04:05.000000000") + t.Hash.String()
	}
	slices.SortFunc(all, func(a, b enroll.Token) int { return cmp.Compare(place(b), place(a)) })
	limit := limitOf(r.Params.Limit)
	rest := slices.DeleteFunc(all, func(t enroll.Token) bool { return after != "" && place(t) >= after })
	list, next := page(rest, limit, place)
	out := apimodel.EnrollmentTokenList{Items: make([]apimodel.EnrollmentToken, len(list)), NextCursor: next}
	for i, t := range list {
		out.Items[i] = s.enrolmentToken(t)
	}
	return apigen.ListEnrollmentTokens200JSONResponse(out), nil
}

// CreateEnrollmentToken makes a single-use token for one device.
func (s *Server) CreateEnrollmentToken(ctx context.Context, r apigen.CreateEnrollmentTokenRequestObject) (apigen.CreateEnrollmentTokenResponseObject, error) {
	b := r.Body
	id := topic.ID{Site: b.Site, Node: b.Node}
	errs := []error{id.Validate()}
	if err := topic.ValidName(b.Class); err != nil {
		errs = append(errs, err)
	}
	labels := maps.Clone(value(b.Labels))
	if b.Line != nil && *b.Line != "" {
		if labels == nil {
			labels = map[string]string{}
		}
		labels["line"] = *b.Line
	}
	for k, v := range labels {
		errs = append(errs, selector.ValidWord(k), selector.ValidWord(v))
	}
	if len(labels) > fleet.MaxLabels {
		errs = append(errs, errors.New("too many labels"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, invalid(firstLine(err.Error()))
	}
	ttl := seconds(b.TTLSeconds)
	if ttl == 0 {
		ttl = enrolmentTTL
	}
	tok := enroll.Token{ID: id, Class: artifact.Class(b.Class), Labels: labels, Actor: callerOf(ctx).Actor()}
	if value(r.Params.DryRun) {
		tok.Created = s.cfg.Now().UTC()
		tok.Expires = tok.Created.Add(ttl)
		return apigen.CreateEnrollmentToken201JSONResponse(apimodel.EnrollmentTokenCreated{Token: s.enrolmentToken(tok)}), nil
	}
	if err := s.audit(ctx, "device.invite", "Device/"+id.String(), value(r.Params.Reason), map[string]string{"class": b.Class}); err != nil {
		return nil, err
	}
	tok, secret, err := s.cfg.Enroll.CreateToken(ctx, tok, ttl)
	if err != nil {
		return nil, err
	}
	return apigen.CreateEnrollmentToken201JSONResponse(apimodel.EnrollmentTokenCreated{Token: s.enrolmentToken(tok), Secret: secret}), nil
}

// RevokeEnrollmentToken withdraws a token that was not used.
func (s *Server) RevokeEnrollmentToken(ctx context.Context, r apigen.RevokeEnrollmentTokenRequestObject) (apigen.RevokeEnrollmentTokenResponseObject, error) {
	raw, err := hex.DecodeString(r.ID)
	var hash enroll.Hash
	if err != nil || len(raw) != len(hash) {
		return nil, notFound("enrolment token " + r.ID)
	}
	copy(hash[:], raw)
	if err := s.audit(ctx, "device.uninvite", "EnrollmentToken/"+r.ID, value(r.Params.Reason), nil); err != nil {
		return nil, err
	}
	if err := s.cfg.Enroll.VoidToken(ctx, hash); err != nil {
		return nil, err
	}
	return apigen.RevokeEnrollmentToken204Response{}, nil
}
