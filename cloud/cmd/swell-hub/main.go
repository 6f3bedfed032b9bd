// Command swell-hub runs a hub: it takes in what devices send, retrains,
// signs and rolls models out, and serves the people who watch.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/swellfleet/swell/cloud/auth"
	"github.com/swellfleet/swell/cloud/hub"
)

const usage = `swell-hub serve  [-config FILE | -data DIR] [-role ROLE] [-name NAME]   run the hub, or one role of it: api, ingest, dispatch, trainer, worker
swell-hub reset-password [-config FILE | -data DIR] [USER]   print a new password
swell-hub version
`

// version is set by the linker.
var version = "devel"

func main() {
	hub.MaybeRunChild() // first: this may be the process that serves objects
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "swell-hub:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("say what to do:\n" + usage)
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	file, dir, role, name := flags.String("config", "", ""), flags.String("data", "", ""), flags.String("role", "", ""), flags.String("name", "", "")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch args[0] {
	case "serve":
		return serve(ctx, *file, *dir, *role, *name)
	case "reset-password":
		return reset(ctx, *file, *dir, flags.Arg(0))
	case "version":
		fmt.Println("swell-hub", version, commit())
		return nil
	}
	return fmt.Errorf("unknown command %q\n%s", args[0], usage)
}

func config(file, dir string) (cfg hub.Config, err error) {
	if file != "" {
		cfg, err = hub.LoadFile(file)
	}
	if dir != "" {
		cfg.DataDir = dir
	}
	cfg.Version, cfg.Commit = version, commit()
	var level slog.Level
	if cfg.LogLevel != "" && err == nil {
		err = level.UnmarshalText([]byte(cfg.LogLevel))
	}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	cfg.Password = func(user, password string) {
		fmt.Printf("First start: log in as %s with the password %s and change it.\n", user, password)
	}
	return cfg, err
}

func serve(ctx context.Context, file, dir, role, name string) error {
	cfg, err := config(file, dir)
	if err != nil {
		return err
	}
	if role != "" {
		cfg.Roles = []hub.Role{hub.Role(role)}
	}
	if name != "" {
		cfg.Name = name
	}
	return hub.Run(ctx, cfg, func(h *hub.Hub) {
		cfg.Log.Info("serving", slog.Any("addresses", h.Addrs()))
		notify(daemon.SdNotifyReady)
		if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
			go func() { // lives as long as the process
				for range time.Tick(every / 2) {
					notify(daemon.SdNotifyWatchdog)
				}
			}()
		}
	})
}

// notify tells systemd; without it nobody listens.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

func reset(ctx context.Context, file, dir, user string) error {
	cfg, err := config(file, dir)
	if err != nil {
		return err
	}
	if user == "" {
		user = auth.FirstAdmin
	}
	password, err := hub.ResetPassword(ctx, cfg, user)
	if err != nil {
		return err
	}
	fmt.Println(password)
	return nil
}

// commit is what the program was built from.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(len(s.Value), 12)]
			}
		}
	}
	return ""
}
