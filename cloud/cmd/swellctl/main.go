// Command swellctl looks at and steers a fleet of Swell devices through its
// hub's REST API. See package cloud/ctl.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/swellfleet/swell/cloud/ctl"
)

var version = "devel" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := ctl.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, version)
	stop()
	os.Exit(code)
}
