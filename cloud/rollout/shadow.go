package rollout

// Shadow asks a shadow gate what it says about what a rollout's devices have
// shown together, as Decide does: every device had a champion to compare the
// release with. It is there for those who study the gate by itself.
func Shadow(r Rollout, g Gate, e Evidence) Verdict {
	return shadow(r, Policy{ShadowS: 1}, g.withDefaults(), &tally{paired: 1, evidence: e})
}
