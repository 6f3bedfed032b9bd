package fleet

import (
	"sync"
	"time"
)

// Counts say how the fleet stands.
type Counts struct {
	Devices   int           // without retired ones
	Connected int           //
	ByState   map[State]int // with retired ones
	Attested  int           // see Count
	Totals    Totals        // over all devices, retired ones too
	Flagged   uint64        // windows flagged in the last hour
	Sites     []SiteCounts  // by name
}

// SiteCounts is one site's part.
type SiteCounts struct {
	Site      string
	Lines     int // distinct values of the label line
	Devices   int
	Connected int
	ByState   map[State]int
}

// Count counts. attested says whether a device in service has loaded what it
// should run.
func (r *Registry) Count(attested func(*Device) bool) Counts {
	c := Counts{ByState: map[State]int{}, Flagged: r.flags.sum(r.cfg.Now())}
	lines := map[string]bool{}
	r.All(func(d *Device) bool {
		c.ByState[d.State]++
		c.Totals.WindowsScored += d.Totals.WindowsScored
		c.Totals.WindowsLost += d.Totals.WindowsLost
		c.Totals.StoppedMs += d.Totals.StoppedMs
		c.Totals.SpoolDropped += d.Totals.SpoolDropped
		if len(c.Sites) == 0 || c.Sites[len(c.Sites)-1].Site != d.ID.Site { // All goes by site
			c.Sites = append(c.Sites, SiteCounts{Site: d.ID.Site, ByState: map[State]int{}})
			clear(lines)
		}
		s := &c.Sites[len(c.Sites)-1]
		s.ByState[d.State]++
		if d.Retired() {
			return true
		}
		c.Devices++
		s.Devices++
		if d.Connected && d.State != Offline {
			c.Connected++
			s.Connected++
		}
		if line, ok := d.Label("line"); ok && !lines[line] {
			lines[line] = true
			s.Lines++
		}
		if attested(d) {
			c.Attested++
		}
		return true
	})
	return c
}

// Flagged notes n windows that devices flagged at a time.
func (r *Registry) Flagged(n int, at time.Time) { r.flags.add(uint64(n), at, r.cfg.Now()) }

// flagRing counts per minute over the last hour.
type flagRing struct {
	mu      sync.Mutex
	minutes [60]uint64
	stamps  [60]int64 // minutes since 1970 that each slot counts
}

func (f *flagRing) add(n uint64, at, now time.Time) {
	if at.After(now) || now.Sub(at) > time.Hour {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := at.Unix() / 60
	i := m % 60
	if f.stamps[i] != m {
		f.stamps[i], f.minutes[i] = m, 0
	}
	f.minutes[i] += n
}

func (f *flagRing) sum(now time.Time) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var n uint64
	for i, m := range f.stamps {
		if now.Unix()/60-m < 60 {
			n += f.minutes[i]
		}
	}
	return n
}
