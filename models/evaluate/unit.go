package evaluate

import (
	"fmt"
	"math"
	"slices"
)

// Level is where a channel's values lie.
type Level struct {
	Median float64 `json:"median"`
	Spread float64 `json:"spread"` // distance of the quartiles over 1.349: the standard deviation of a Gaussian
}

// LevelOf describes values; those that are no number are left out. ok is false
// when fewer than eight are left.
func LevelOf(values []float32) (l Level, ok bool) {
	const most = 20_000 // more would not change the quartiles
	step := max(1, len(values)/most)
	var v []float32
	for i := 0; i < len(values); i += step {
		if x := values[i]; x-x == 0 {
			v = append(v, x)
		}
	}
	if len(v) < 8 {
		return Level{}, false
	}
	slices.Sort(v)
	return Level{float64(v[len(v)/2]), float64(v[len(v)*3/4]-v[len(v)/4]) / 1.349}, true
}

// conversion is value·Factor + Offset from one unit to another.
type conversion struct {
	from, to       string
	factor, offset float64
}

// conversions are those that configurations of plants mix up, one direction
// each. The names are those of UCUM and of people.
var conversions = []conversion{
	{"Cel", "[degF]", 1.8, 32},
	{"Cel", "K", 1, 273.15},
	{"[degF]", "K", 1 / 1.8, 255.372},
	{"bar", "kPa", 100, 0},
	{"bar", "Pa", 1e5, 0},
	{"bar", "[psi]", 14.5038, 0},
	{"kPa", "Pa", 1000, 0},
	{"MPa", "bar", 10, 0},
	{"MPa", "kPa", 1000, 0},
	{"m/s", "km/h", 3.6, 0},
	{"m/s", "mm/s", 1000, 0},
	{"g", "m/s2", 9.80665, 0},
	{"A", "mA", 1000, 0},
	{"V", "mV", 1000, 0},
	{"kW", "W", 1000, 0},
	{"m3/h", "l/min", 16.6667, 0},
	{"l/s", "l/min", 60, 0},
	{"l/s", "m3/h", 3.6, 0},
	{"Hz", "/min", 60, 0},
	{"m", "mm", 1000, 0},
	{"1", "%", 100, 0},
}

var otherNames = map[string]string{"°C": "Cel", "C": "Cel", "degC": "Cel", "°F": "[degF]", "F": "[degF]", "degF": "[degF]", "psi": "[psi]", "[g]": "g", "m/s²": "m/s2", "rpm": "/min", "l/m": "l/min", "L/min": "l/min", "m³/h": "m3/h"}

// Conversion names the change of unit that explains how a channel's level went
// from before to after, or returns "". The unit is the declared one; empty
// means any. A level that did not jump by several spreads needs no explanation.
func Conversion(before, after Level, unit string) string {
	if name, ok := otherNames[unit]; ok {
		unit = name
	}
	if before.Spread <= 0 || after.Spread <= 0 {
		return "" // a switch, or a stream that begins or ends: any factor would fit
	}
	known := slices.ContainsFunc(conversions, func(c conversion) bool { return c.from == unit || c.to == unit })
	if math.Abs(after.Median-before.Median) <= 5*max(before.Spread, after.Spread/20) {
		return ""
	}
	best, bestErr := "", math.Inf(1)
	try := func(from, to string, factor, offset float64) {
		if known && from != unit {
			return
		}
		want := before.Median*factor + offset
		tolerance := 0.03*math.Abs(want) + 2*before.Spread*factor
		miss := math.Abs(after.Median-want) / max(tolerance, 1e-12)
		ratio := after.Spread / max(before.Spread*factor, 1e-12)
		// Where the level alone could be something else, the spread has to
		// have changed by the factor, too.
		if miss > 1 || ratio < 0.4 || ratio > 2.5 {
			return
		}
		if miss += math.Abs(math.Log(ratio)); miss < bestErr {
			best, bestErr = fmt.Sprintf("from %s to %s", from, to), miss
		}
	}
	for _, c := range conversions {
		try(c.from, c.to, c.factor, c.offset)
		try(c.to, c.from, 1/c.factor, -c.offset/c.factor)
	}
	return best
}
