package api

import (
	"context"
	"io"
	"time"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Feedback keeps the frames that devices uploaded and what people say of them
// and of stretches of time. Adding labels writes to the ledger first.
type Feedback interface {
	// Labels lists by time; the second result is the cursor of each item.
	Labels(ctx context.Context, q FeedbackQuery) ([]apimodel.Label, []string, error)
	AddLabels(ctx context.Context, ls []apimodel.LabelCreate, by, reason string) ([]apimodel.Label, error)
	// Frames lists by time; the second result is the cursor of each item.
	Frames(ctx context.Context, q FeedbackQuery) ([]apimodel.Frame, []string, error)
	// Queue lists unlabelled frames, the most instructive first, and the names
	// that frames were given so far.
	Queue(ctx context.Context, q FeedbackQuery) (frames []apimodel.Frame, choices []string, err error)
	// Image opens the bytes of a frame. The caller closes them.
	Image(ctx context.Context, d artifact.Digest) (image io.ReadCloser, size int64, format string, err error)
}

// FeedbackQuery selects frames or labels.
type FeedbackQuery struct {
	Device     *topic.ID // nil: all
	Class      string    // device class; empty: all
	From, To   time.Time // zero: open
	Unlabelled bool
	After      string // cursor of the item before; empty: from the beginning
	Limit      int
}

// errNoFeedback answers on a hub that keeps no frames and labels.
var errNoFeedback = problem{status: 503, name: "not-this-hub", detail: "this hub keeps no frames and labels: ask one that has the role api and a store"}

func deviceQuery(device *string, from, to *time.Time) (q FeedbackQuery, err error) {
	if d := value(device); d != "" {
		id, err := topic.ParseID(d)
		if err != nil {
			return q, invalid("the device is named SITE/NODE", apimodel.FieldError{Field: "device", Message: err.Error()})
		}
		q.Device = &id
	}
	q.From, q.To = value(from), value(to)
	return q, nil
}

// cut makes a page of a list that was asked for with one item more than limit.
func cut[T any](items []T, cursors []string, limit int) ([]T, *string) {
	if items == nil {
		items = []T{}
	}
	if len(items) <= limit {
		return items, nil
	}
	return items[:limit], cursorOf(cursors[limit-1])
}

// ListLabels lists what people said.
func (s *Server) ListLabels(ctx context.Context, r apigen.ListLabelsRequestObject) (apigen.ListLabelsResponseObject, error) {
	if s.cfg.Feedback == nil {
		return nil, errNoFeedback
	}
	q, err := deviceQuery(r.Params.Device, r.Params.From, r.Params.To)
	if err != nil {
		return nil, err
	}
	if q.After, err = placeOf(r.Params.Cursor); err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	q.Limit = limit + 1
	list, cursors, err := s.cfg.Feedback.Labels(ctx, q)
	if err != nil {
		return nil, err
	}
	items, next := cut(list, cursors, limit)
	return apigen.ListLabels200JSONResponse(apimodel.LabelList{Items: items, NextCursor: next}), nil
}

// AddLabels takes in what a person says.
func (s *Server) AddLabels(ctx context.Context, r apigen.AddLabelsRequestObject) (apigen.AddLabelsResponseObject, error) {
	if s.cfg.Feedback == nil {
		return nil, errNoFeedback
	}
	list, err := s.cfg.Feedback.AddLabels(ctx, r.Body.Items, callerOf(ctx).person(), value(r.Params.Reason))
	if err != nil {
		return nil, err
	}
	s.cfg.Stream.Publish(Change{Kind: "Label"})
	s.cfg.Stream.Publish(Change{Kind: "AuditEvent"})
	return apigen.AddLabels201JSONResponse(apimodel.LabelList{Items: list}), nil
}

// ListFrames lists pictures.
func (s *Server) ListFrames(ctx context.Context, r apigen.ListFramesRequestObject) (apigen.ListFramesResponseObject, error) {
	if s.cfg.Feedback == nil {
		return nil, errNoFeedback
	}
	q, err := deviceQuery(r.Params.Device, r.Params.From, r.Params.To)
	if err != nil {
		return nil, err
	}
	if q.After, err = placeOf(r.Params.Cursor); err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	q.Class, q.Unlabelled, q.Limit = value(r.Params.Class), value(r.Params.Unlabelled), limit+1
	list, cursors, err := s.cfg.Feedback.Frames(ctx, q)
	if err != nil {
		return nil, err
	}
	items, next := cut(list, cursors, limit)
	return apigen.ListFrames200JSONResponse(apimodel.FrameList{Items: items, NextCursor: next}), nil
}

// ListFrameQueue lists the pictures that are worth a person's look.
func (s *Server) ListFrameQueue(ctx context.Context, r apigen.ListFrameQueueRequestObject) (apigen.ListFrameQueueResponseObject, error) {
	if s.cfg.Feedback == nil {
		return nil, errNoFeedback
	}
	items, choices, err := s.cfg.Feedback.Queue(ctx, FeedbackQuery{Class: value(r.Params.Class), Limit: limitOf(r.Params.Limit)})
	if err != nil {
		return nil, err
	}
	if items == nil {
		items = []apimodel.Frame{}
	}
	if choices == nil {
		choices = []string{}
	}
	return apigen.ListFrameQueue200JSONResponse(apimodel.FrameQueue{Items: items, Choices: choices}), nil
}

// GetFrameImage sends a picture as the device sent it.
func (s *Server) GetFrameImage(ctx context.Context, r apigen.GetFrameImageRequestObject) (apigen.GetFrameImageResponseObject, error) {
	if s.cfg.Feedback == nil {
		return nil, errNoFeedback
	}
	image, size, format, err := s.cfg.Feedback.Image(ctx, contentOf(r.Digest))
	if err != nil {
		return nil, err
	}
	if format == "png" {
		return apigen.GetFrameImage200ImagePngResponse{Body: image, ContentLength: size}, nil
	}
	return apigen.GetFrameImage200ImageJpegResponse{Body: image, ContentLength: size}, nil
}

// contentOf reads a digest of a path, with or without its prefix.
func contentOf(d string) artifact.Digest {
	const prefix = "sha256:"
	if len(d) > len(prefix) && d[:len(prefix)] == prefix {
		return artifact.Digest(d)
	}
	return artifact.Digest(prefix + d)
}
