package million

import "math"

// The streams of numbers that a device has: of one stream the n-th number is
// the same whatever was drawn of another, and whoever else draws.
const (
	streamLife = iota
	streamBad
	streamAway
	streamLink
	streamShadow = 0x100
)

// draw is the keyed randomness of the simulation.
func draw(seed, device, stream uint64, counter uint32) uint64 {
	return mix(mix(seed^device*0x9e3779b97f4a7c15) ^ stream*0xd1342543de82ef95 ^ uint64(counter)*0x2545f4914f6cdd1d)
}

// mix is the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// unit makes a number in [0, 1) of a draw.
func unit(r uint64) float64 { return float64(r>>11) / (1 << 53) }

// poisson makes a count of the given mean of u, which is uniform in [0, 1).
func poisson(u, mean float64) uint32 {
	p := math.Exp(-min(mean, 500))
	var k uint32
	for c := p; u > c && k < 2000; c += p {
		k++
		p *= mean / float64(k)
	}
	return k
}
