package ctl_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/swellfleet/swell/cloud/ctl"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

const pageHead = `# swellctl

The command line for people and scripts. This page is made from the program by
` + "`go test ./cloud/ctl -run TestThePageIsTheProgram -update`" + `; every example is run by the tests.

- Data goes to standard output, talk to standard error.
- Exit codes: 0 done · 1 refused, failed, or there is a difference · 2 wrong call or wrong file ·
  3 not found · 4 denied · 5 conflict · 6 not done in time.
- ` + "`-o table`" + ` cuts long cells, ` + "`-o wide`" + ` shows more columns and all of each; ` + "`json`, `yaml` and `name`" + ` are for programs.
- Colour marks only what somebody must look at, only on a terminal, and never with NO_COLOR.
- Every command that changes something takes ` + "`--reason`" + `, which goes into the audit log; most take ` + "`--dry-run`" + `.
- ` + "`swellctl login`" + ` keeps a token in swell/config.yaml of the user's configuration folder
  (` + "`--config`, `$SWELL_CONFIG`" + `). Scripts may set $SWELL_URL and $SWELL_TOKEN instead (and $SWELL_CA_FILE).
- Completion: ` + "`source <(swellctl completion bash)`" + `; zsh, fish and powershell likewise. It completes names, too.

`

func page() []byte {
	var b bytes.Buffer
	b.WriteString(pageHead)
	b.WriteString("## Flags of every command\n\n")
	flags(&b, ctl.Tree().PersistentFlags())
	for _, c := range ctl.Leaves() {
		fmt.Fprintf(&b, "## %s\n\n    %s\n\n%s.\n", c.CommandPath(), strings.TrimSuffix(c.UseLine(), " [flags]"), c.Short)
		if c.Long != "" {
			fmt.Fprintf(&b, "\n```text\n%s\n```\n", c.Long)
		}
		b.WriteString("\n```sh\n")
		for _, line := range examples(c) {
			b.WriteString(line + "\n")
		}
		b.WriteString("```\n\n")
		flags(&b, c.LocalNonPersistentFlags())
	}
	return append(bytes.TrimRight(b.Bytes(), "\n"), '\n')
}

func flags(b *bytes.Buffer, fs *pflag.FlagSet) {
	n := 0
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		n++
		short := ""
		if f.Shorthand != "" {
			short = "-" + f.Shorthand + ", "
		}
		def := ""
		switch f.DefValue {
		case "", "false", "0", "0s":
		default:
			def = " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, "- `%s--%s`: %s%s\n", short, f.Name, f.Usage, def)
	})
	if n > 0 {
		b.WriteByte('\n')
	}
}

func examples(c *cobra.Command) (out []string) {
	for line := range strings.Lines(c.Example) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func TestThePageIsTheProgram(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "cli.md")
	want := page()
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff.Diff(file, have, "the program", want); d != nil {
		t.Errorf("docs/cli.md differs from the program: run go test ./cloud/ctl -run TestThePageIsTheProgram -update\n%s", d)
	}
}

// TestEveryExampleIsRun holds that testdata/examples.txtar runs the examples
// of every command, so that what the page shows works.
func TestEveryExampleIsRun(t *testing.T) {
	story, err := os.ReadFile(filepath.Join("testdata", "examples.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	run := map[string]bool{}
	for line := range strings.Lines(string(story)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "example" {
			if _, err := strconv.Atoi(words[1]); err == nil {
				words = words[1:]
			}
			run[strings.Join(words[1:], " ")] = true
		}
	}
	for _, c := range ctl.Leaves() {
		name := strings.TrimPrefix(c.CommandPath(), "swellctl ")
		switch {
		case len(examples(c)) == 0:
			t.Errorf("%s has no example", name)
		case !run[name]:
			t.Errorf("the examples of %s are not in testdata/examples.txtar", name)
		}
	}
}

// example runs the examples of a command as a shell does: example [CODE] COMMAND...
// They reach the story's hub by the address that the page shows.
func example(ts *testscript.TestScript, neg bool, args []string) {
	code := 0
	if len(args) > 0 {
		if n, err := strconv.Atoi(args[0]); err == nil {
			code, args = n, args[1:]
		}
	}
	c, rest, err := ctl.Tree().Find(args)
	if neg || err != nil || len(rest) > 0 || len(args) == 0 {
		ts.Fatalf("usage: example [CODE] COMMAND...")
	}
	for _, line := range examples(c) {
		line = strings.ReplaceAll(line, "http://127.0.0.1:7440", ts.Getenv("HUB"))
		err := ts.Exec("sh", "-c", line)
		got := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			got = exit.ExitCode()
		} else {
			ts.Check(err)
		}
		if got != code {
			ts.Fatalf("%s: exit code %d, want %d", line, got, code)
		}
	}
}
