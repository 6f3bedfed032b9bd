package update

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/swellfleet/swell/protocol/twin"
)

// mermaid prints the transitions as a state diagram.
func mermaid() string {
	var b strings.Builder
	name := func(p phase) string {
		if p == none {
			return "none"
		}
		return string(p.twin())
	}
	b.WriteString("stateDiagram-v2\n    [*] --> none\n")
	type edge struct {
		to phase
		on string
	}
	var order []edge
	from := map[edge][]string{}
	for _, t := range transitions {
		e := edge{t.to, t.on}
		if from[e] == nil {
			order = append(order, e)
		}
		from[e] = append(from[e], name(t.from))
	}
	for _, e := range order {
		for _, f := range from[e] {
			fmt.Fprintf(&b, "    %s --> %s: %s\n", f, name(e.to), e.on)
		}
	}
	for _, p := range []twin.Phase{twin.PhaseConfirmed, twin.PhaseFailed, twin.PhaseRolledBack, twin.PhaseDropped} {
		fmt.Fprintf(&b, "    %s --> [*]\n", p)
	}
	return b.String()
}

const page = "../../docs/update.md"

func TestThePageShowsTheTransitionsThatTheMachineTakes(t *testing.T) {
	const open, end = "```mermaid\n", "```\n"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), open)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no mermaid block", page)
	}
	if old == mermaid() {
		return
	}
	if !*update {
		t.Fatalf("%s shows other transitions: run go test ./agent/update -update", page)
	}
	if err := os.WriteFile(page, []byte(before+open+mermaid()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
