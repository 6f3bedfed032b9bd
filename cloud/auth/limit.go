package auth

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limiter hands out a bounded number of permits per key and time. It holds at
// most a fixed number of keys; the one unused for longest makes room.
type Limiter struct {
	every time.Duration
	burst int
	keys  int

	mu    sync.Mutex
	byKey map[string]*list.Element // of *limited
	order *list.List               // newest use first
}

type limited struct {
	key string
	lim *rate.Limiter
}

// NewLimiter allows burst permits at once and one more each every, per key,
// for the newest keys keys.
func NewLimiter(every time.Duration, burst, keys int) *Limiter {
	return &Limiter{every: every, burst: burst, keys: keys, byKey: map[string]*list.Element{}, order: list.New()}
}

// Take uses one permit of key at now. When there is none it returns how long
// until the next one; zero means taken.
func (l *Limiter) Take(key string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.byKey[key]
	if ok {
		l.order.MoveToFront(e)
	} else {
		if l.order.Len() >= l.keys {
			oldest := l.order.Back()
			delete(l.byKey, oldest.Value.(*limited).key)
			l.order.Remove(oldest)
		}
		e = l.order.PushFront(&limited{key: key, lim: rate.NewLimiter(rate.Every(l.every), l.burst)})
		l.byKey[key] = e
	}
	r := e.Value.(*limited).lim.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now) // a refused attempt does not push the next permit further away
	}
	return wait
}

// AddressKey returns the key by which one network neighbour is limited: the
// IPv4 address, or the /64 of an IPv6 one, of which a neighbour has plenty.
// remote is host:port as net/http gives it.
func AddressKey(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
