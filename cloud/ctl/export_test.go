package ctl

import "github.com/spf13/cobra"

// Tree returns swellctl's commands.
func Tree() *cobra.Command { return (&env{}).root() }

// Leaves returns every command that does something.
func Leaves() (out []*cobra.Command) {
	for _, c := range all(Tree()) {
		if !c.HasSubCommands() {
			out = append(out, c)
		}
	}
	return out
}
