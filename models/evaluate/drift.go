package evaluate

import (
	"fmt"
	"math"
	"slices"

	"github.com/swellfleet/swell/models/zoo"
)

// Bounds commonly read into a population stability index (Siddiqi, Credit Risk Scorecards, 2006).
const (
	PSIModerate = 0.1  // below: the population has not changed
	PSIShifted  = 0.25 // above: a model made of the old one needs another look
)

// Profile describes the values of each channel of a snapshot, so that a later one can be compared with it
// without the data. It marshals to JSON.
type Profile struct {
	Channels []ChannelProfile `json:"channels"`
	// BlockRows is how many consecutive rows each of ChannelProfile.Blocks describes. 0: a profile of before
	// there were any.
	BlockRows int `json:"blockRows,omitempty"`
	// Runs says of each block which run of neighbouring ones it belongs to.
	Runs []int `json:"runs,omitempty"`
}

// ChannelProfile is the distribution of one channel.
type ChannelProfile struct {
	Name string `json:"name"`
	Unit string `json:"unit,omitempty"`
	// Edges cut the values into len(Edges)+1 bins, ascending; a value on an edge belongs to the bin above.
	Edges []float64 `json:"edges"`
	// Shares of all rows in each bin; they add up to 1.
	Shares []float64 `json:"shares"`
	Rows   int       `json:"rows"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	// Level is zero in profiles of before it was kept.
	Level Level `json:"level,omitzero"`
	// Blocks hold level, spread and step of each block of rows, for TwoSample.
	Blocks [][3]float32 `json:"blocks,omitempty"`
}

// NewProfile describes d, which must be valid, by its deciles.
func NewProfile(d zoo.Dataset) (Profile, error) {
	const bins = 10
	if err := d.Validate(); err != nil {
		return Profile{}, fmt.Errorf("profile snapshot: %w", err)
	}
	var p Profile
	rows := 0
	for _, s := range d.Series {
		rows += s.Rows()
	}
	p.BlockRows = max(minBlockRows, (rows+maxBlocks-1)/maxBlocks)
	for ch, channel := range d.Channels {
		var all []float32
		for _, s := range d.Series {
			all = append(all, s.Values[ch]...)
		}
		if len(all) == 0 {
			return Profile{}, fmt.Errorf("profile snapshot: %w: channel %q has no rows", zoo.ErrData, channel.Name)
		}
		slices.Sort(all)
		c := ChannelProfile{Name: channel.Name, Unit: channel.Unit, Rows: len(all), Min: float64(all[0]), Max: float64(all[len(all)-1])}
		for i := 1; i < bins; i++ {
			// Values that repeat, such as those of a switch or a constant, give fewer bins.
			edge := float64(all[i*len(all)/bins])
			if edge > c.Min && (len(c.Edges) == 0 || edge > c.Edges[len(c.Edges)-1]) {
				c.Edges = append(c.Edges, edge)
			}
		}
		if len(c.Edges) == 0 {
			// A constant: what lies above and below it are bins of their own.
			c.Edges = []float64{c.Min, math.Nextafter(c.Max, math.Inf(1))}
		}
		c.Shares = shares(c.Edges, d, ch)
		c.Level, _ = LevelOf(all)
		c.Blocks, p.Runs = cutBlocks(d, ch, p.BlockRows)
		p.Channels = append(p.Channels, c)
	}
	return p, nil
}

func shares(edges []float64, d zoo.Dataset, ch int) []float64 {
	out, n := make([]float64, len(edges)+1), 0.0
	for _, s := range d.Series {
		for _, v := range s.Values[ch] {
			i, on := slices.BinarySearch(edges, float64(v))
			if on {
				i++
			}
			out[i]++
			n++
		}
	}
	for i := range out {
		out[i] /= max(n, 1)
	}
	return out
}

// Shift is how far one channel moved from a profile.
type Shift struct {
	Channel string  `json:"channel"`
	PSI     float64 `json:"psi"`
}

// Drift compares d with an earlier snapshot's profile: the population stability index of each channel, the
// most shifted first. It fails when d is not valid or its channels are not the profile's.
func (p Profile) Drift(d zoo.Dataset) ([]Shift, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("compare snapshot with profile: %w", err)
	}
	if len(d.Channels) != len(p.Channels) {
		return nil, fmt.Errorf("compare snapshot with profile: %d channels, the profile has %d", len(d.Channels), len(p.Channels))
	}
	// An empty bin would make the index infinite; it counts as this share.
	const least = 1e-4
	var out []Shift
	for ch, old := range p.Channels {
		if d.Channels[ch].Name != old.Name || d.Channels[ch].Unit != old.Unit {
			return nil, fmt.Errorf("compare snapshot with profile: channel %d is %q in %q, the profile has %q in %q",
				ch, d.Channels[ch].Name, d.Channels[ch].Unit, old.Name, old.Unit)
		}
		if len(old.Shares) != len(old.Edges)+1 {
			return nil, fmt.Errorf("compare snapshot with profile: channel %q has %d shares for %d edges", old.Name, len(old.Shares), len(old.Edges))
		}
		shift := Shift{Channel: old.Name}
		for i, now := range shares(old.Edges, d, ch) {
			a, b := max(now, least), max(old.Shares[i], least)
			shift.PSI += (a - b) * math.Log(a/b)
		}
		out = append(out, shift)
	}
	slices.SortStableFunc(out, func(a, b Shift) int {
		switch {
		case a.PSI > b.PSI:
			return -1
		case a.PSI < b.PSI:
			return 1
		}
		return 0
	})
	return out, nil
}
