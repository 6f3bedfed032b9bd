package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"golang.org/x/sys/unix"
)

const (
	childArg   = "swell-object-server" // followed by: directory, address, and the sidecar directory if attributes need one
	healthPath = "/health"
)

// MaybeRunChild is to be called first in main of every program that opens a
// Store (and in TestMain). In the process that a Store started it serves
// objects and never returns; in all others it does nothing.
func MaybeRunChild() {
	if len(os.Args) < 4 || os.Args[1] != childArg {
		return
	}
	sidecar := ""
	if len(os.Args) > 4 {
		sidecar = os.Args[4]
	}
	if err := serve(os.Args[2], os.Args[3], sidecar); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(root, listen, sidecar string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	creds, err := credentials(filepath.Join(root, "credentials.json"))
	if err != nil {
		return err
	}
	var attrs meta.MetadataStorer = meta.XattrMeta{}
	if sidecar != "" {
		if attrs, err = meta.NewSideCar(sidecar); err != nil {
			return err
		}
	}
	opts := posix.PosixOpts{SideCarDir: sidecar, Concurrency: 256}
	opts.SetNewDirPerm(0o700)
	opts.SetNewFilePerm(0o600)
	backend, err := posix.New(filepath.Join(root, "data"), attrs, opts)
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(ctx, backend, &embedgw.Config{
		RootUserAccess: creds.AccessKey, RootUserSecret: creds.SecretKey,
		Ports:          []string{listen},
		MaxConnections: 1024, MaxRequests: 512, MultipartMaxParts: 10_000,
		HealthPath: healthPath, KeepAlive: true, Quiet: true,
	})
}

// probe is hasAttributes, except in a test of the other way.
var probe = hasAttributes

// hasAttributes says whether files in dir can carry the server's metadata.
func hasAttributes(dir string) bool {
	f, err := os.CreateTemp(dir, ".probe*")
	if err != nil {
		return false
	}
	defer os.Remove(f.Name())
	defer f.Close()
	err = unix.Fsetxattr(int(f.Fd()), "user.swell.probe", []byte("1"), 0)
	return err == nil || !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM)
}
