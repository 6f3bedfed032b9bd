// Package ctl is swellctl, the command line for people and scripts.
//
// The parties are a person or a script and a hub's REST API. Data goes to
// standard output and talk to standard error, so that pipes hold only data; the
// exit code says what kind of failure it was (Code…). Everything is done
// through the public contract, protocol/openapi.yaml, except `model verify DIR`,
// which needs no hub at all. Only cloud/cmd/swellctl imports this package.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	CodeOK       = 0
	CodeFailed   = 1 // the hub refused or something broke
	CodeUsage    = 2
	CodeNotFound = 3
	CodeDenied   = 4
	CodeConflict = 5
	CodeTimeout  = 6
)

// env is what every command works with.
type env struct {
	out, err io.Writer
	in       io.Reader

	configPath string
	context    string
	output     string
	reason     string
	dryRun     bool
	timeout    time.Duration
	version    string
	waits      bool // --timeout was given
}

// Main runs swellctl with args (without the program's name) and returns its
// exit code.
func Main(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer, version string) int {
	e := &env{out: out, err: errOut, in: in, version: version}
	root := e.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return CodeOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(errOut, "swellctl: %v\n", err)
	code := codeOf(err)
	if code == CodeUsage {
		fmt.Fprintln(errOut, "Run 'swellctl help' or add --help to a command.")
	}
	return code
}

// usageError marks a mistake in how a command was called.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func codeOf(err error) int {
	var u usageError
	var p *Problem
	var netErr net.Error
	switch {
	case errors.As(err, &u):
		return CodeUsage
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return CodeTimeout
	case errors.As(err, &p):
		switch p.Status {
		case 401, 403:
			return CodeDenied
		case 404:
			return CodeNotFound
		case 409, 412:
			return CodeConflict
		case 400, 422:
			return CodeUsage
		case 408, 504:
			return CodeTimeout
		}
	}
	return CodeFailed
}

var errTimeout = errors.New("timed out")

func (e *env) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "swellctl",
		Short: "Look at and steer a fleet of Swell devices",
		Long: `swellctl looks at and steers a fleet of Swell devices through its hub.

First:  swellctl login http://127.0.0.1:7440
Then:   swellctl get devices
        swellctl rollout watch NAME
        swellctl rollout why NAME`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(c *cobra.Command, a []string) error {
			if len(a) > 0 {
				return noCommand(c, a[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			e.waits = c.Flags().Changed("timeout")
			if e.timeout <= 0 {
				return usage("--timeout %s: want more than 0", e.timeout)
			}
			if !slices.Contains(forms, e.output) {
				return usage("-o %s: want %s", e.output, strings.Join(forms, ", "))
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&e.configPath, "config", "", "file with hubs and tokens (default $SWELL_CONFIG or swell/config.yaml in the user's configuration folder)")
	f.StringVar(&e.context, "context", "", "hub to use, by its name in the configuration (default the current one)")
	f.StringVarP(&e.output, "output", "o", "table", "table, wide, json, yaml or name")
	f.DurationVar(&e.timeout, "timeout", 30*time.Second, "how long to wait for the hub; where a command follows something, how long to follow it (default to its end)")
	root.AddCommand(
		e.login(), e.contexts(),
		e.get(), e.describe(), e.explain(), e.apply(), e.diff(), e.label(), e.remove(),
		e.rollout(), e.freeze(), e.unfreeze(), e.quarantine(), e.model(), e.garden(), e.firmware(), e.retrain(), e.frames(), e.enroll(), e.signal(), e.audit(),
		e.doctor(), e.versionCommand(),
	)
	for _, c := range all(root) {
		if c.RunE == nil && c.HasSubCommands() {
			c.RunE = needSubcommand
		}
	}
	return root
}

func all(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{}
	for _, s := range c.Commands() {
		out = append(append(out, s), all(s)...)
	}
	return out
}

func needSubcommand(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return noCommand(c, args[0])
	}
	return usage("%s needs a command after it: see '%s --help'", c.CommandPath(), c.CommandPath())
}

func noCommand(c *cobra.Command, name string) error {
	c.SuggestionsMinimumDistance = 2 // cobra sets it only for its own message
	if near := c.SuggestionsFor(name); len(near) > 0 {
		return usage("%s has no command %q: did you mean %s?", c.CommandPath(), name, strings.Join(near, " or "))
	}
	return usage("%s has no command %q", c.CommandPath(), name)
}

// args wraps cobra's checks so that a wrong number is a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if err := check(c, a); err != nil {
			return usage("%w: usage: %s", err, c.UseLine())
		}
		return nil
	}
}

// mutating adds the flags of every command that changes something.
func (e *env) mutating(c *cobra.Command, dryRun bool) *cobra.Command {
	c.Flags().StringVar(&e.reason, "reason", "", "why, for the audit log")
	if dryRun {
		c.Flags().BoolVar(&e.dryRun, "dry-run", false, "let the hub check everything and change nothing")
	}
	return c
}

func (e *env) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of swellctl and of the hub", Args: args(cobra.NoArgs),
		Example: "  swellctl version",
		RunE: func(c *cobra.Command, _ []string) error {
			fmt.Fprintf(e.out, "swellctl %s\n", e.version)
			var v map[string]any
			ctx, cancel := e.within(c.Context())
			defer cancel()
			h, err := e.hub()
			if err == nil {
				err = h.get(ctx, "/version", nil, &v)
			}
			if err != nil { // not an error of this command: it has said its own
				fmt.Fprintf(e.err, "the hub's version is not known: %v\n", err)
			} else {
				fmt.Fprintf(e.out, "hub %v\n", v["version"])
			}
			return nil
		},
	}
}
