// Command swell-agent runs on a device: see package agent. It is one screen;
// everything it does is in packages that the simulator runs as well.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/swellfleet/swell/agent"
	"github.com/swellfleet/swell/agent/apply"
	"github.com/swellfleet/swell/models/runtime"
)

// version is set when the program is built for release.
var version = "devel"

const usage = `Usage: swell-agent [--config FILE] COMMAND

  boot      run the newest good version of this program; what systemd starts
  run       enrol if need be, stream, score, and take releases from the hub
  enroll    only get the device its certificate
  status    print what the running agent says of itself
  version   print the version
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "swell-agent:", err)
		if errors.Is(err, errUsage) {
			fmt.Fprint(os.Stderr, usage)
			os.Exit(2)
		}
		os.Exit(1)
	}
}

var errUsage = errors.New("want one command")

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("swell-agent", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	file := flags.String("config", "/etc/swell/agent.yaml", "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, usage)
		return nil
	} else if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	command := flags.Arg(0)
	if command != "rehearse" && flags.NArg() > 1 { // flags may stand behind the command, too
		if err := flags.Parse(flags.Args()[1:]); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		if flags.NArg() > 0 {
			return fmt.Errorf("%w: %q after %s is too much", errUsage, flags.Arg(0), command)
		}
	}
	if command == "version" {
		fmt.Fprintln(out, "swell-agent", version)
		return nil
	}
	if command == "" {
		return errUsage
	}
	c, err := agent.Load(*file)
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	_ = level.UnmarshalText([]byte(strings.ToUpper(c.LogLevel))) // validated by Load; empty leaves info
	c.Log, c.Version = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), version
	switch command {
	case "boot":
		return agent.Boot(c, []string{"--config", *file, "run"})
	case "run":
		if exe, err := os.Executable(); err == nil {
			c.TrialCommand = []string{exe, "--config", *file, "rehearse"}
		}
		c.Slot, c.CheckArguments = os.Getenv(agent.SlotVariable), []string{"--config", *file, "check"}
		if err := serve(ctx, c); !errors.Is(err, agent.ErrRestart) || ctx.Err() != nil {
			return err
		}
		return agent.Boot(c, []string{"--config", *file, "run"})
	case "check": // what run asks a new version of itself before it becomes it
		if err := runtime.Init(c.ONNXRuntime); err != nil {
			return err
		}
		fmt.Fprintln(out, version)
		return nil
	case "enroll":
		until, err := agent.Enroll(ctx, c)
		if err == nil {
			fmt.Fprintf(out, "%s/%s has a certificate until %s\n", c.Site, c.Node, until.UTC().Format(time.RFC3339))
		}
		return err
	case "status":
		return status(ctx, c, out)
	case "rehearse": // what run starts as a child: see apply.Rehearse
		return apply.Rehearse(ctx, flags.Arg(1), c.Class, runtime.Options{Library: c.ONNXRuntime})
	}
	return fmt.Errorf("%w, and %q is none", errUsage, command)
}

// serve runs the agent and tells systemd that it is ready, alive and ending.
func serve(ctx context.Context, c agent.Config) error {
	a, err := agent.New(c)
	if err != nil {
		return err
	}
	notify := func(state string) { _, _ = daemon.SdNotify(false, state) } // no error matters: there may be no systemd
	notify(daemon.SdNotifyReady)
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		tick := time.NewTicker(every / 3)
		defer tick.Stop()
		go func() {
			for range tick.C {
				if a.Alive() {
					notify(daemon.SdNotifyWatchdog)
				}
			}
		}()
	}
	context.AfterFunc(ctx, func() { notify(daemon.SdNotifyStopping) })
	return a.Run(ctx)
}

func status(ctx context.Context, c agent.Config, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.StatusAddress()+"/status.json", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("no agent answers: is it running, and is its status page on? %w", err)
	}
	defer resp.Body.Close()
	var v any
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return fmt.Errorf("the agent's answer cannot be read: %w", err)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
