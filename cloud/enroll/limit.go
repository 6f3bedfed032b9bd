package enroll

import (
	"sync"
	"time"
)

// Limits bound failed attempts to redeem a token. Successes are free, so that a
// whole fleet may enrol from behind one address.
type Limits struct {
	PerAddress int           // failures of one address in Window; default 10
	PerDevice  int           // failures for one claimed device in Window, from anywhere; default 30
	Window     time.Duration // default 10 minutes
	MaxTracked int           // addresses and devices remembered; default 10 000; above it the oldest window goes first
}

// limiter counts failures by address and by device. In memory: it slows
// guessing, which 256 random bits make hopeless anyway, and spares the store.
type limiter struct {
	Limits
	mu      sync.Mutex
	windows map[string]window
	order   []string // keys of windows by age; a key occurs once
}

type window struct {
	began time.Time
	n     int
}

func newLimiter(l Limits) *limiter {
	for _, d := range []struct {
		v *int
		d int
	}{{&l.PerAddress, 10}, {&l.PerDevice, 30}, {&l.MaxTracked, 10_000}} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	if l.Window <= 0 {
		l.Window = 10 * time.Minute
	}
	return &limiter{Limits: l, windows: map[string]window{}}
}

// wait says how long an address must wait before it may try for a device again;
// 0 = it may.
func (l *limiter) wait(now time.Time, addr, device string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var longest time.Duration
	for _, k := range []struct {
		key string
		max int
	}{{"a " + addr, l.PerAddress}, {"d " + device, l.PerDevice}} {
		if w, ok := l.windows[k.key]; ok && w.n >= k.max {
			longest = max(longest, w.began.Add(l.Window).Sub(now))
		}
	}
	return longest
}

// failed counts one failure.
func (l *limiter) failed(now time.Time, addr, device string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range []string{"a " + addr, "d " + device} {
		w, ok := l.windows[key]
		switch {
		case !ok:
			for len(l.order) > 0 && (len(l.order) >= l.MaxTracked || now.Sub(l.windows[l.order[0]].began) >= l.Window) {
				delete(l.windows, l.order[0])
				l.order = l.order[1:]
			}
			l.order = append(l.order, key)
			w = window{began: now}
		case now.Sub(w.began) >= l.Window:
			w = window{began: now} // keeps its old place in order: it may be forgotten early, never late
		}
		w.n++
		l.windows[key] = w
	}
}
