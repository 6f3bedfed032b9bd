package pipeline

// ring keeps the newest rows of every channel so that any window among them is
// one contiguous slice per channel.
type ring struct {
	columns [][]float32
	keep    int // rows that must stay available
	filled  int // rows in columns
	run     int // newest rows without a gap between them

	hold   int       // rows for which a missing value is the one before it
	last   []float32 // newest value of each channel that was there
	missed []int     // rows since then
}

func newRing(channels, hold int) *ring {
	r := &ring{columns: make([][]float32, channels), hold: hold, last: make([]float32, channels), missed: make([]int, channels)}
	r.forget()
	r.grow(1)
	return r
}

// grow makes room for windows of n rows. What is there stays.
func (r *ring) grow(n int) {
	if n <= r.keep {
		return
	}
	r.keep = n
	for i, c := range r.columns {
		bigger := make([]float32, 2*n+1024)
		copy(bigger, c[:r.filled])
		r.columns[i] = bigger
	}
}

// push appends row i of values. A missing one is taken to be the last that was
// there, for so many rows; held says how many were.
func (r *ring) push(values [][]float32, i int) (held uint64) {
	if r.filled == len(r.columns[0]) {
		from := r.filled - (r.keep - 1)
		for _, c := range r.columns {
			copy(c, c[from:r.filled])
		}
		r.filled = r.keep - 1
	}
	for c := range r.columns {
		v := values[c][i]
		switch {
		case v-v == 0:
			r.last[c], r.missed[c] = v, 0
		case v != v && r.missed[c] < r.hold:
			r.missed[c]++
			v = r.last[c]
			held++
		}
		r.columns[c][r.filled] = v
	}
	r.filled++
	r.run++
	return held
}

// broke forgets the rows before a gap.
func (r *ring) broke() {
	r.run = 0
	r.forget()
}

// forget leaves nothing to hold.
func (r *ring) forget() {
	for c := range r.missed {
		r.missed[c] = r.hold
	}
}

// has says whether the newest n rows are there without a gap.
func (r *ring) has(n int) bool { return min(r.run, r.filled) >= n }

// window copies the newest n rows of the given channels into dst, channel after
// channel, oldest first.
func (r *ring) window(dst []float32, channels []int, n int) {
	for i, c := range channels {
		copy(dst[i*n:(i+1)*n], r.columns[c][r.filled-n:r.filled])
	}
}
