package update

import "slices"

// transition is one way from a phase to another. The machine takes no other.
type transition struct {
	from, to phase
	on       string
}

// transitions are all ways, in the order of the phases.
var transitions = func() []transition {
	var ts []transition
	add := func(to phase, on string, from ...phase) {
		for _, f := range from {
			ts = append(ts, transition{f, to, on})
		}
	}
	ended := []phase{none, confirmed, failed, rolledBack, dropped}
	inactive := []phase{fetching, verifying, guarding, loading, golden, shadowing, ready}

	add(fetching, "offer", ended...)
	add(verifying, "return to a release it holds", ended...)
	add(confirmed, "offer of what runs", ended...)
	add(failed, "refused", ended...)

	add(verifying, "fetched", fetching)
	add(fetching, "content differs", verifying)
	add(guarding, "verified", verifying)
	add(loading, "admitted", guarding)
	add(golden, "loaded", loading)
	add(shadowing, "golden vectors hold", golden)
	add(ready, "golden vectors hold, nothing to shadow", golden)
	add(ready, "shadowed long enough", shadowing)
	add(activating, "lease and interlocks permit", ready)
	add(activating, "lease permits the return", ready)
	add(soaking, "swapped", activating)
	add(confirmed, "returned", activating)
	add(confirmed, "soaked soundly", soaking)

	add(fetching, "restart", fetching)
	add(verifying, "restart", verifying, guarding, loading, golden, shadowing, ready, activating)
	add(failed, "failed", append(inactive, activating)...)
	add(dropped, "withdrawn", append(inactive, activating)...)
	add(rolledBack, "called back or found unsound", soaking, activating)
	return ts
}()

// ways are the same transitions by their ends, since every move asks.
var ways = func() (w [len(phases)][len(phases)][]string) {
	for _, t := range transitions {
		w[t.from][t.to] = append(w[t.from][t.to], t.on)
	}
	return w
}()

func allowed(from, to phase, on string) bool { return slices.Contains(ways[from][to], on) }
