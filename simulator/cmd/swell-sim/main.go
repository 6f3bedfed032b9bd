// Command swell-sim runs the product's own code without a plant. See package
// simulator/cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/swellfleet/swell/cloud/hub"
	"github.com/swellfleet/swell/simulator/cli"
)

var version = "devel" // set by the linker

func main() {
	hub.MaybeRunChild() // first: this may be the process that serves objects
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], os.Stdout, os.Stderr, version)
	stop()
	os.Exit(code)
}
