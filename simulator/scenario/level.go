package scenario

import (
	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/topic"
)

// Member is one device of a scenario's fleet, for those who play it elsewhere
// than on the virtual world.
type Member struct {
	ID     topic.ID
	Class  artifact.Class
	Labels map[string]string
}

// Members lists the devices of all groups, in the file's order.
func (s Scenario) Members() []Member {
	var out []Member
	for _, m := range s.members() {
		out = append(out, Member{m.id, m.class, m.labels})
	}
	return out
}

// Matches says whether a selector of the scenario means the device.
func (m Member) Matches(selector string) bool {
	return selects(selector, member{id: m.ID, class: m.Class, labels: m.Labels}.look)
}

// Judge says how the result differs from what the scenario expects.
func (s Scenario) Judge(r Result) []string {
	var unmet []string
	for _, e := range s.Expect {
		if why := e.unmet(r); why != "" {
			unmet = append(unmet, why)
		}
	}
	return unmet
}
