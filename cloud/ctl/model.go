package ctl

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/swellfleet/swell/protocol/artifact"
	"github.com/swellfleet/swell/protocol/trust"
)

func (e *env) model() *cobra.Command {
	c := &cobra.Command{Use: "model", Aliases: []string{"models"}, Short: "Look at models, compare and verify releases"}
	c.AddCommand(e.modelList(), e.modelShow(), e.modelCompare(), e.modelLineage(), e.modelCollect(), e.modelVerify())
	return c
}

var versions = kind{name: "versions", columns: []column{
	{"RELEASE", "spec.release", false}, {"STATE", "status.state", false}, {"DETECTOR", "spec.detector", false}, {"RUNS ON", "status.runsOn.champion", false}, {"MADE", "metadata.createdAt", false},
	{"CLASSES", "spec.classes", true}, {"EXPECTED FLAGS", "spec.expectedFlagShare", true}, {"DIGEST", "spec.release.digest", true},
}}

func (e *env) modelList() *cobra.Command {
	return &cobra.Command{
		Use: "list [FAMILY]", Short: "List families, or the versions of one", Args: args(cobra.MaximumNArgs(1)), ValidArgsFunction: e.names("models"),
		Example: "  swellctl model list pump-anomaly",
		RunE: func(c *cobra.Command, a []string) error {
			k, path := versions, "/models/"
			if len(a) == 0 {
				k, _ = kindOf("models")
				path = k.path
			} else {
				path += url.PathEscape(a[0]) + "/versions"
			}
			return e.listing(c, k, path, nil)
		},
	}
}

// errNotVerified is the outcome of a check that did not hold.
var errNotVerified = errors.New("not verified")

func (e *env) modelVerify() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "verify RELEASE | DIR --key FILE", Short: "Check signature, manifest and digests of a release", Args: args(cobra.ExactArgs(1)),
		Long: `verify checks a release in one of two ways.

With a folder and --key it needs no hub and no network: the signature in
model.sig under that key, the manifest, and every file's digest.

With a release id (pump-anomaly-7) the hub checks what it stores and says so;
that proves only as much as you trust the hub.`,
		Example: "  swellctl model verify pump-anomaly-1",
		RunE: func(c *cobra.Command, a []string) error {
			if info, err := os.Stat(a[0]); err == nil && info.IsDir() {
				return e.verifyDir(a[0], key)
			}
			path, err := versionPath(a[0])
			if err != nil {
				return usage("%q is neither a folder nor a release id such as pump-anomaly-7", a[0])
			}
			if key != "" {
				return usage("--key checks a folder; the hub checks %s with its own", a[0])
			}
			h, err := e.hub()
			if err != nil {
				return err
			}
			ctx, cancel := e.within(c.Context())
			defer cancel()
			var report struct {
				OK     bool `json:"ok"`
				Checks []struct {
					Name    string `json:"name"`
					OK      bool   `json:"ok"`
					Message string `json:"message"`
				} `json:"checks"`
				Command string `json:"command"`
			}
			if err := h.do(ctx, http.MethodPost, path+"/actions/verify", nil, nil, &report); err != nil {
				return err
			}
			for _, ch := range report.Checks {
				fmt.Fprintf(e.out, "%-6s %s: %s\n", map[bool]string{true: "ok", false: "FAILED"}[ch.OK], ch.Name, ch.Message)
			}
			if report.Command != "" {
				fmt.Fprintf(e.err, "The same with cosign, outside the hub:\n  %s\n", report.Command)
			}
			if !report.OK {
				return fmt.Errorf("release %s: %w", a[0], errNotVerified)
			}
			return nil
		},
	}
	c.Flags().StringVar(&key, "key", "", "file with the hub's public key (cosign.pub), from a source you trust")
	return c
}

func (e *env) verifyDir(dir, key string) error {
	if key == "" {
		return usage("name the public key with --key: the one inside the folder proves nothing")
	}
	pem, err := os.ReadFile(key)
	if err != nil {
		return usage("%w", err)
	}
	roots, err := trust.ParseRoots(pem)
	if err != nil {
		return usage("%s: %w", key, err)
	}
	m, err := trust.VerifyDir(dir, roots)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotVerified, err)
	}
	files := 0
	var classes []string
	for _, v := range m.Variants {
		files += len(v.Files)
		for _, c := range v.Classes {
			classes = append(classes, string(c))
		}
	}
	b, err := m.Encode()
	if err != nil {
		return err
	}
	fmt.Fprintf(e.out, "verified %s (%s): %d files for %s, made %s\n", m.ID(), artifact.Of(b).Short(), files, strings.Join(classes, ", "), m.Created.Format("2006-01-02 15:04 MST"))
	return nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i <= 0 || i == len(s)-1 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
