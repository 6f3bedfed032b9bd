package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/swellfleet/swell/cloud/api"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/feedback"
	"github.com/swellfleet/swell/cloud/ledger"
	"github.com/swellfleet/swell/cloud/objects"
	"github.com/swellfleet/swell/cloud/store"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// openFeedback lets people label what devices saw.
func (h *Hub) openFeedback(context.Context, context.Context) error {
	h.feedback = feedback.NewService(feedback.Config{
		Store: h.db.Feedback(), Now: h.cfg.Now,
		Class: func(id topic.ID) (artifact.Class, bool) {
			d, err := h.fleet.Get(id)
			return d.Class, err == nil
		},
		Audit: func(ctx context.Context, a feedback.Act) error {
			_, err := h.ledger.Append(ctx, ledger.Event{Time: a.At, Actor: a.By, Action: "feedback.label", Object: a.Object, Reason: a.Reason, Detail: a.Detail()})
			return err
		},
	})
	return nil
}

// said answers api.Feedback in the contract's words.
type said struct{ h *Hub }

func feedbackQuery(q api.FeedbackQuery) feedback.Query {
	out := feedback.Query{Device: q.Device, From: q.From, To: q.To, Unlabelled: q.Unlabelled, After: q.After, Limit: q.Limit}
	if q.Class != "" {
		out.Classes = []artifact.Class{artifact.Class(q.Class)}
	}
	return out
}

// saidError turns the service's errors into the API's.
func saidError(err error) error {
	switch {
	case errors.Is(err, feedback.ErrInvalid):
		return fmt.Errorf("%w: %w", api.ErrInvalid, err)
	case errors.Is(err, feedback.ErrNoFrame), errors.Is(err, objects.ErrNotFound):
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return err
}

func (s said) Labels(ctx context.Context, q api.FeedbackQuery) (out []apimodel.Label, cursors []string, err error) {
	ls, err := s.h.feedback.Labels(ctx, feedbackQuery(q))
	for _, l := range ls {
		cursors = append(cursors, l.Cursor())
	}
	return labels(ls), cursors, saidError(err)
}

func labels(ls []feedback.Label) []apimodel.Label {
	out := make([]apimodel.Label, len(ls))
	for i, l := range ls {
		out[i] = apimodel.Label{At: l.At, By: l.By, Device: l.Device.String(), Value: l.Value, Reason: given(l.Reason), From: &l.From, To: &l.To}
		if l.Frame != "" {
			out[i].Frame = some(apimodel.Digest(l.Frame))
		}
	}
	return out
}

func (s said) AddLabels(ctx context.Context, in []apimodel.LabelCreate, by, reason string) ([]apimodel.Label, error) {
	ls := make([]feedback.Label, len(in))
	for i, l := range in {
		ls[i] = feedback.Label{From: deref(l.From), To: deref(l.To), Frame: artifact.Digest(deref(l.Frame)), Value: l.Value}
		if l.Device != nil && ls[i].Frame == "" {
			id, err := topic.ParseID(*l.Device)
			if err != nil {
				return nil, fmt.Errorf("%w: label %d: %w", api.ErrInvalid, i+1, err)
			}
			ls[i].Device = id
		}
	}
	out, err := s.h.feedback.AddLabels(ctx, by, reason, ls)
	return labels(out), saidError(err)
}

func pictures(fs []feedback.Frame) []apimodel.Frame {
	out := make([]apimodel.Frame, len(fs))
	for i, f := range fs {
		out[i] = apimodel.Frame{
			At: f.At, Bytes: int64(f.Bytes), Class: string(f.Class), Device: f.Device.String(), Digest: apimodel.Digest(f.Digest), Format: f.Format,
			Height: f.Height, Width: f.Width, Row: int64(f.Row), Why: f.Why,
		}
		if f.Release != "" {
			out[i].Release, out[i].Score = &f.Release, &f.Score
		}
		if f.Top != "" {
			out[i].Top, out[i].TopProbability = &f.Top, &f.TopProbability
		}
	}
	return out
}

func (s said) Frames(ctx context.Context, q api.FeedbackQuery) (out []apimodel.Frame, cursors []string, err error) {
	fs, err := s.h.feedback.Frames(ctx, feedbackQuery(q))
	for _, f := range fs {
		cursors = append(cursors, f.Cursor())
	}
	return pictures(fs), cursors, saidError(err)
}

func (s said) Queue(ctx context.Context, q api.FeedbackQuery) ([]apimodel.Frame, []string, error) {
	query := feedbackQuery(q)
	fs, err := s.h.feedback.Queue(ctx, query)
	if err != nil {
		return nil, nil, saidError(err)
	}
	ls, err := s.h.feedback.Labels(ctx, feedback.Query{Classes: query.Classes})
	names := map[string]bool{}
	for _, l := range ls {
		if l.Frame != "" && l.Value != feedback.Unsure {
			names[l.Value] = true
		}
	}
	return pictures(fs), slices.Sorted(maps.Keys(names)), err
}

func (s said) Image(ctx context.Context, d artifact.Digest) (io.ReadCloser, int64, string, error) {
	if err := d.Validate(); err != nil {
		return nil, 0, "", fmt.Errorf("%w: %w", api.ErrInvalid, err)
	}
	f, err := s.h.feedback.Frame(ctx, d)
	if err != nil {
		return nil, 0, "", saidError(err)
	}
	r, info, err := s.h.objects.Get(ctx, f.Key(), 0, -1)
	return r, info.Size, f.Format, saidError(err)
}
