package gates

import (
	"math"
	"math/rand/v2"
)

// Items is how many items one device scores in a minute, and base the share of
// them that each model flags when nothing has changed.
const (
	Items = 60
	base  = 0.01
)

// noise is one way in which flags come.
type noise struct {
	name string
	kind kind
	// length is the mean length of a burst in seconds.
	length float64
	what   string // in words
}

// kind names what is more than independent flags.
type kind int

const (
	independent kind = iota
	shared           // bursts in which both models flag more, each by itself and both together
	single           // bursts of one model on one device
	singleLine       // bursts of one model on every device of its line at once
	drift            // the rate of both models drifts over the day, each line in its own way
	driftSingle      // the challenger's rate alone drifts around its mean
)

// What a burst is: a share of its items that a model flags.
const (
	burstShare  = 0.3  // single: by the model whose burst it is
	background  = 0.5  // single: share of the flags that come outside of bursts
	sharedBoth  = 0.2  // shared: by both models
	sharedAlone = 0.05 // shared: by each model alone, before the ratio
)

// dice draws numbers of flagged items.
type dice struct {
	*rand.Rand
	tables map[float64][]uint64
	p      float64 // of the table used last
	table  []uint64
}

func newDice() *dice { return &dice{tables: map[float64][]uint64{}} }

// flags draws how many of n items are flagged, each with probability p.
func (d *dice) flags(n int, p float64) uint32 {
	if n != Items {
		var k uint32
		for range n {
			if d.Float64() < p {
				k++
			}
		}
		return k
	}
	if p != d.p {
		t, ok := d.tables[p]
		if !ok {
			t = distribution(p)
			d.tables[p] = t
		}
		d.p, d.table = p, t
	}
	u := d.Uint64()
	for k, c := range d.table {
		if u < c {
			return uint32(k)
		}
	}
	return uint32(len(d.table))
}

// alone draws how many of n items the challenger alone and the champion alone
// flag, with probabilities q and p: an item is one or the other or neither.
func (d *dice) alone(n int, q, p float64) (a, b uint32) {
	for range d.flags(n, q+p) {
		if d.Float64()*(q+p) < q {
			a++
		} else {
			b++
		}
	}
	return a, b
}

// distribution is the cumulative binomial distribution of Items items, as
// shares of the range of a uint64, cut where it is as good as one.
func distribution(p float64) []uint64 {
	var t []uint64
	var sum float64
	ln, _ := math.Lgamma(Items + 1)
	for k := 0; k <= Items && sum < 1-1e-15; k++ {
		a, _ := math.Lgamma(float64(k + 1))
		b, _ := math.Lgamma(float64(Items - k + 1))
		sum += math.Exp(ln - a - b + float64(k)*math.Log(p) + float64(Items-k)*math.Log1p(-p))
		if sum >= 1-1e-15 {
			break
		}
		t = append(t, uint64(sum*(1<<63))<<1)
	}
	return t
}

// bursts come at random and last a random time.
type bursts struct {
	every, length float64 // mean seconds from the end of one to the start of the next; of one
	from, until   float64
}

func (b *bursts) next(d *dice) {
	b.from = b.until + d.ExpFloat64()*b.every
	b.until = b.from + d.ExpFloat64()*b.length
}

// seconds returns how many of the 60 s that begin at second t are in a burst.
func (b *bursts) seconds(d *dice, t float64) int {
	if b.until == 0 {
		b.next(d)
	}
	var in float64
	for b.from < t+60 {
		in += max(min(b.until, t+60)-max(b.from, t), 0)
		if b.until >= t+60 {
			break
		}
		b.next(d)
	}
	return int(in + 0.5)
}

// wave is a rate that drifts over a day.
type wave struct{ day, hours float64 } // phases

// levels are how many steps a rate drifts in: few, so that tables of them fit.
const levels = 10

func (w wave) at(minute int) float64 {
	h := float64(minute) / 60
	x := 0.8*math.Sin(2*math.Pi*h/24+w.day) + 0.3*math.Sin(2*math.Pi*h/4+w.hours)
	return math.Exp(math.Round(x*levels) / levels)
}

// line is a number of devices side by side that all have a champion and a
// challenger in its shadow.
type line struct {
	noise
	ratio float64 // flags of the challenger for one of the champion
	dice  *dice

	both, challenger, champion []bursts // for each device; one for all when the line has them in common
	rate, own                  wave     // of both models; of the challenger

	a, b, ab []uint32 // of the last minute, for each device: flagged by the challenger alone, the champion alone, both
}

func newLine(n noise, ratio float64, devices int, d *dice) *line {
	l := &line{noise: n, ratio: ratio, dice: d, a: make([]uint32, devices), b: make([]uint32, devices), ab: make([]uint32, devices)}
	l.rate = wave{d.Float64() * 2 * math.Pi, d.Float64() * 2 * math.Pi}
	l.own = wave{d.Float64() * 2 * math.Pi, d.Float64() * 2 * math.Pi}
	sources := devices
	if n.kind == singleLine {
		sources = 1
	}
	l.both, l.challenger, l.champion = make([]bursts, sources), make([]bursts, sources), make([]bursts, sources)
	for i := range sources {
		l.both[i] = bursts{every: max(3600, 3*n.length), length: n.length}
		between := n.length * burstShare / (base * (1 - background))
		l.champion[i] = bursts{every: between, length: n.length}
		l.challenger[i] = bursts{every: between / ratio, length: n.length}
	}
	return l
}

// minute plays one minute.
func (l *line) minute(m int) {
	t := float64(m) * 60
	p, q := base, base*l.ratio
	switch l.kind {
	case drift:
		p, q = p*l.rate.at(m), q*l.rate.at(m)
	case driftSingle:
		q *= l.own.at(m)
	case single, singleLine:
		p, q = p*background, q*background
	}
	var ours, theirs int // seconds in a burst of the challenger, of the champion
	for i := range l.a {
		switch l.kind {
		case shared:
			in := l.both[i].seconds(l.dice, t)
			l.a[i], l.b[i] = l.dice.alone(Items-in, q, p)
			l.ab[i] = 0
			if in > 0 {
				a, b := l.dice.alone(in, sharedAlone*l.ratio, sharedAlone)
				l.a[i], l.b[i] = l.a[i]+a, l.b[i]+b
				l.ab[i] = l.dice.flags(in-int(a+b), sharedBoth)
			}
		case single, singleLine:
			if i < len(l.challenger) {
				ours, theirs = l.challenger[i].seconds(l.dice, t), l.champion[i].seconds(l.dice, t)
				theirs = min(theirs, Items-ours)
			}
			l.a[i], l.b[i] = l.dice.alone(Items-ours-theirs, q, p)
			l.a[i] += l.dice.flags(ours, burstShare)
			l.b[i] += l.dice.flags(theirs, burstShare)
		default:
			l.a[i], l.b[i] = l.dice.alone(Items, q, p)
		}
	}
}
