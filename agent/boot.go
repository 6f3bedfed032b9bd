package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"github.com/swellfleet/swell/agent/disk"
	"github.com/swellfleet/swell/agent/firmware"
	"github.com/swellfleet/swell/protocol/artifact"
)

// Environment variables by which Boot and the program it starts know of each
// other.
const (
	SlotVariable    = "SWELL_SLOT"    // the slot the program was started from
	PackageVariable = "SWELL_PACKAGE" // path of the packaged program
)

// Boot decides which program is to run on this device and becomes it, with the
// given arguments. It returns only if no program could be started, not even the
// packaged one. It is called by what the system starts, and by a program whose
// Run returned ErrRestart.
func Boot(c Config, arguments []string) error {
	path := os.Getenv(PackageVariable)
	if path == "" {
		var err error
		if path, err = os.Executable(); err != nil {
			return fmt.Errorf("boot: %w", err)
		}
	}
	pkg := firmware.Package{}
	digest, err := fileDigest(path)
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	pkg.Digest = digest
	if self, err := os.Executable(); err == nil && self == path {
		pkg.Version = c.Version
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	for {
		err := boot(c, path, pkg, arguments, log)
		if failed := (*notStarted)(nil); !errors.As(err, &failed) || failed.program == path {
			return err
		}
		log.Error("a program cannot be started", "error", err)
	}
}

// notStarted says that the system refused a program.
type notStarted struct {
	program string
	err     error
}

func (n *notStarted) Error() string { return fmt.Sprintf("start %s: %v", n.program, n.err) }
func (n *notStarted) Unwrap() error { return n.err }

// boot is one attempt. The lock on the state folder ends with this program.
func boot(c Config, path string, pkg firmware.Package, arguments []string, log *slog.Logger) (err error) {
	d, err := disk.OpenDir(c.StateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	start, err := firmware.Boot(d, pkg, log)
	if err != nil {
		return err
	}
	program := path
	if start.Program != "" {
		program = d.Path(start.Program)
	}
	for name, value := range map[string]string{SlotVariable: string(start.Slot), PackageVariable: path} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	log.Info("boot", "slot", string(start.Slot), "version", start.Image.Version, "program", program)
	failed := &notStarted{program, syscall.Exec(program, append([]string{"swell-agent"}, arguments...), os.Environ())}
	return errors.Join(failed, firmware.GiveUp(d, start, pkg, failed))
}

func fileDigest(name string) (artifact.Digest, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return artifact.FromSum([32]byte(h.Sum(nil))), nil
}
