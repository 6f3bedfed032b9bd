package dispatch

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"time"

	"github.com/swellfleet/swell/protocol/topic"
	"github.com/swellfleet/swell/protocol/twin"
)

// The bounds of publishing. What cannot be published stays in the store, where
// each device has one document at most, and is tried again.
const (
	publishBatch   = 256              // documents marked in one transaction
	publishTimeout = 10 * time.Second // for one document
	firstRetry     = time.Second      // doubled with each failure
	lastRetry      = time.Minute
	maxInARow      = 3    // failures after which the broker counts as away
	maxRetried     = 4096 // devices remembered; behind them the broker counts as away
)

// outgoing remembers what could not be published and when to try again.
type outgoing struct {
	holder string
	failed map[topic.ID]retry
	away   retry // of the broker as a whole
}

type retry struct {
	tries int
	at    time.Time // not before
}

// again returns the retry after one more failure. Its time is the hub's and
// the device's own by up to a half, so that neither devices nor hubs come all
// at once.
func (o *outgoing) again(r retry, key string, now time.Time) retry {
	wait := lastRetry
	if r.tries < 6 {
		wait = firstRetry << r.tries
	}
	h := fnv.New32a()
	fmt.Fprint(h, o.holder, "\x00", key, "\x00", r.tries)
	jitter := float64(h.Sum32()) / (1 << 32)
	return retry{r.tries + 1, now.Add(time.Duration((0.5 + jitter/2) * float64(wait)))}
}

// publish sends what is stored and not yet marked as published. A crash
// between the two sends it twice, which does no harm. It returns when the next
// of those that failed is to be tried; its errors are the store's.
func (d *Dispatcher) publish(ctx context.Context) (next time.Time, err error) {
	o := &d.outbox
	now := d.now()
	if now.Before(o.away.at) {
		return o.away.at, nil
	}
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	var failure error
	failures, inARow := 0, 0
	for more := true; more; {
		// Those that wait for their next try may be the first of the list.
		limit := publishBatch + len(o.failed)
		docs, err := d.cfg.Store.Unpublished(ctx, limit)
		if err != nil {
			return next, fmt.Errorf("list unpublished documents: %w", err)
		}
		var sent []twin.Desired
		for _, doc := range docs {
			id := topic.ID{Site: doc.Site, Node: doc.Node}
			last, again := o.failed[id]
			if again && now.Before(last.at) {
				sooner(last.at)
				continue
			}
			if err := d.send(ctx, doc); err != nil {
				if ctx.Err() != nil {
					return next, ctx.Err()
				}
				failures++
				inARow++
				failure = fmt.Errorf("publish desired document of %s: %w", id, err)
				if o.failed == nil {
					o.failed = map[topic.ID]retry{}
				}
				if again || len(o.failed) < maxRetried {
					o.failed[id] = o.again(last, id.String(), now)
					sooner(o.failed[id].at)
				} else {
					inARow = maxInARow
				}
				if inARow == maxInARow {
					break
				}
				continue
			}
			inARow = 0
			delete(o.failed, id)
			sent = append(sent, doc)
		}
		if len(sent) > 0 {
			o.away = retry{}
			if err := d.cfg.Store.Published(ctx, sent); err != nil {
				return next, fmt.Errorf("mark %d documents as published: %w", len(sent), err)
			}
		}
		d.count(func(s *Stats) { s.Published += uint64(len(sent)) })
		more = len(docs) == limit && len(sent) > 0 && inARow < maxInARow
	}
	d.count(func(s *Stats) { s.PublishFailures += uint64(failures) })
	if inARow == maxInARow {
		o.away = o.again(o.away, "", now)
		next = o.away.at
	}
	if failure != nil {
		d.cfg.Log.Warn("desired documents wait to be published again", slog.Int("waiting", len(o.failed)), slog.Time("next", next), slog.Any("error", failure))
	}
	return next, nil
}

func (d *Dispatcher) send(ctx context.Context, doc twin.Desired) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return d.cfg.Publisher.Publish(ctx, doc)
}
