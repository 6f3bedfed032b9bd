package ctl

import (
	"debug/elf"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"

	"github.com/spf13/cobra"
)

func (e *env) firmware() *cobra.Command {
	c := &cobra.Command{Use: "firmware", Short: "Release builds of the agent"}
	c.AddCommand(e.firmwarePublish())
	return c
}

// maxFirmware is what the hub takes, in bytes.
const maxFirmware = 64 << 20

func (e *env) firmwarePublish() *cobra.Command {
	var classes []string
	var name, arch, version, reason string
	c := &cobra.Command{
		Use: "publish FILE --class CLASS --version VERSION", Short: "Sign and publish a build of the agent", Args: args(cobra.ExactArgs(1)),
		Long: `publish sends the program in FILE to the hub, which makes it the next release
of its family, signs it and writes that to its ledger. No device changes yet:
roll the release out with 'swellctl rollout start', as a model's.

VERSION is what 'swell-agent version' of that program says: a device refuses a
program that says another.`,
		Example: "  swellctl firmware publish ./swell-agent --class press --version 1.4.0 --reason 'memory leak mended'",
		RunE: func(c *cobra.Command, a []string) error {
			if len(classes) == 0 || version == "" {
				return usage("name the device classes with --class and the program's version with --version")
			}
			program, err := os.ReadFile(a[0])
			if err != nil {
				return usage("%w", err)
			}
			if len(program) == 0 || len(program) > maxFirmware {
				return usage("%s has %d bytes: want a program of at most %d MiB", a[0], len(program), maxFirmware>>20)
			}
			if arch == "" {
				arch = archOf(a[0])
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			q := url.Values{"class": classes, "arch": {arch}, "version": {version}}
			for k, v := range map[string]string{"name": name, "reason": reason} {
				if v != "" {
					q.Set(k, v)
				}
			}
			var ref struct{ ID, Digest string }
			if err := h.do(ctx, http.MethodPost, "/firmware", q, upload(program), &ref); err != nil {
				return err
			}
			fmt.Fprintf(e.out, "released %s (%s), for %s\n", ref.ID, ref.Digest, arch)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "family of the release (default swell-agent)")
	f.StringSliceVar(&classes, "class", nil, "device classes it is for; may be repeated")
	f.StringVar(&arch, "arch", "", "GOARCH of the program (default: read from the file)")
	f.StringVar(&version, "version", "", "what the program says its version is")
	f.StringVar(&reason, "reason", "", "why, for the audit log")
	return c
}

// archOf reads the architecture from a program's header; that of this machine
// where it has none.
func archOf(name string) string {
	f, err := elf.Open(name)
	if err != nil {
		return runtime.GOARCH
	}
	defer func() { _ = f.Close() }() // it was only read
	if arch, ok := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm", elf.EM_RISCV: "riscv64"}[f.Machine]; ok {
		return arch
	}
	return runtime.GOARCH
}
